"""GGUF files become folders again: the same numbers, the same token ids, or a clear refusal."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.formats import (
    GGUFWeights,
    SafetensorsFile,
    convert_folder,
    folder_from_gguf,
    folder_writing,
    read_header,
    write_tiny_gguf,
)
from tandem.kit.config import load_settings
from tandem.kit.errors import Conflict, IntegrityError, NotFound, StorageFull, UnsupportedFeature
from tests.formats.engine import ask
from tests.formats.hf_models import write_llama
from tests.kit.full_disk import small_disk

TEXTS = ["def the number of 1234", " naïve 🙂\n\n\tWorld  (x)", "return<plain>12<|endoftext|>the", "it's 12½ l'été\r\n"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", fim=True)


def copied(
    source: Path, dest: Path, *, tensors: Callable[[dict[str, Any]], None] = lambda _: None, **keys: Any
) -> Path:
    """A copy with other metadata (`__` stands for a dot, None removes a key) or other tensors."""
    header = read_header(source)
    weights = GGUFWeights(header)
    arrays: dict[str, Any] = {name: weights.weights(name) for name in weights.entries}
    tensors(arrays)
    writer = GGUFWriter(dest, "llama")
    metadata = {**header.metadata, **{key.replace("__", "."): value for key, value in keys.items()}}
    writer.kv_data[0].clear()
    add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in metadata.items():
        if isinstance(value, tuple | list):
            writer.add_array(key, value)
        elif value is not None:
            add[type(value)](key, value)
    for name, array in arrays.items():
        kind = array[1] if isinstance(array, tuple) else None
        writer.add_tensor(name, array[0] if kind is not None else array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dest


def with_tensor(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays.pop(name, None)
        if value is not None:
            arrays[name] = value

    return change


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"digits": False, "tie_word_embeddings": True},
        {"attention_bias": True, "num_key_value_heads": 4},
        {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-5},
    ],
    ids=["digits", "tied", "bias", "head_dim"],
)
def test_a_folder_comes_back_from_its_gguf(tmp_path: Path, options: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    first = write_llama(tmp_path / "first", **options)
    model = convert_folder(first, tmp_path / "first.gguf", name="x", kind="f32")
    second = folder_from_gguf(model, tmp_path / "second")
    before, after = (SafetensorsFile(folder / "model.safetensors") for folder in (first, second))
    assert set(before.entries) == set(after.entries)
    for name in before.entries:
        assert before.array(name).tobytes() == after.array(name).tobytes(), name
    one, two = (json.loads((folder / "config.json").read_text()) for folder in (first, second))
    assert two.pop("rope_theta") == one["rope_parameters"]["rope_theta"]
    assert two.items() <= one.items()
    splitters = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (first, second)]
    assert splitters[0].get_vocab() == splitters[1].get_vocab()
    for text in TEXTS:
        ids = splitters[1].encode(text).ids
        assert ids == splitters[0].encode(text).ids
        assert splitters[1].decode(ids) == splitters[0].decode(ids)
    again = convert_folder(second, tmp_path / "second.gguf", name="x", kind="f32")
    assert again.read_bytes() == model.read_bytes(), "and it converts to the same file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "first.gguf", "second", "second.gguf"]


def test_transformers_opens_the_folder(tiny: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder_from_gguf(tiny, tmp_path / "tiny")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    named = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    assert {name: getattr(tokenizer, name) for name in named} == named
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n"
    ids = tokenizer(prompt)["input_ids"]
    (answer,) = ask(tiny, [("/tokenize", {"content": prompt, "parse_special": True})])
    assert ids == answer["tokens"]
    assert tokenizer.decode(ids) == prompt
    assert model.dtype == torch.float32
    assert model.config.rope_parameters["rope_theta"] == 10000.0


@given(text=st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_the_tokenizer(tiny: Path, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.getbasetemp() / "any_text"
    if not folder.exists():
        folder_from_gguf(tiny, folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


QUANTIZED = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")]
K_QUANTS = [GGMLQuantizationType[f"Q{bits}_K"] for bits in (2, 3, 4, 5, 6)]


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_each_type_is_read_as_it_was_meant(tiny: Path, tmp_path: Path, kind: GGMLQuantizationType) -> None:
    exact = np.random.default_rng(0).standard_normal((33, 96)).astype(np.float32)
    change = with_tensor("extra", (quantize(exact, kind), kind))
    found = GGUFWeights(read_header(copied(tiny, tmp_path / "x.gguf", tensors=change))).weights("extra")
    assert (found.dtype, found.shape) == (np.float32, exact.shape)
    steps = {"F32": 0, "F16": 2**-10, "BF16": 2**-7, "Q8_0": 1 / 64}.get(
        kind.name, 1 / 8 if "Q5" in kind.name else 1 / 4
    )
    assert np.abs(found - exact).max() <= 2 * steps


@pytest.mark.parametrize("kind", K_QUANTS, ids=lambda kind: kind.name)
def test_k_quants_are_read_row_by_row(tiny: Path, tmp_path: Path, kind: GGMLQuantizationType) -> None:
    _, width = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 60, (3, 2 * width), dtype=np.uint8)
    change = with_tensor("extra", (raw, kind))
    found = GGUFWeights(read_header(copied(tiny, tmp_path / "x.gguf", tensors=change))).weights("extra")
    assert (found.dtype, found.shape) == (np.float32, (3, 512))
    assert np.unique(found).size > 100
    np.testing.assert_array_equal(found[1, 256:], gguf.dequantize(raw[1, width:], kind))


def test_an_unknown_type_is_refused_by_name(tiny: Path, tmp_path: Path) -> None:
    raw = np.zeros((2, gguf.GGML_QUANT_SIZES[GGMLQuantizationType.IQ2_XXS][1]), np.uint8)
    path = copied(tiny, tmp_path / "x.gguf", tensors=with_tensor("extra", (raw, GGMLQuantizationType.IQ2_XXS)))
    assert "'extra' has the type IQ2_XXS" in refused(path, tmp_path / "folder")
    with pytest.raises(NotFound, match="'b'"):
        GGUFWeights(read_header(tiny)).weights("b")


def refused(path: Path, dest: Path) -> str:
    before = sorted(dest.parent.iterdir())
    with pytest.raises((UnsupportedFeature, IntegrityError)) as caught:
        folder_from_gguf(path, dest)
    assert caught.value.remedy
    assert sorted(dest.parent.iterdir()) == before, "nothing is left behind"
    return caught.value.message


@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ({"general__architecture": "qwen2"}, "qwen2"),
        ({"llama__rope__scaling__type": "yarn"}, "llama.rope.scaling.type"),
        ({"llama__rope__scale_linear": 2.0}, "scale_linear"),
        ({"llama__expert_count": 8}, "mixture"),
        ({"llama__rope__dimension_count": 8}, "rope.dimension_count is 8, and a head has 16"),
        ({"llama__attention__value_length": 8}, "value_length"),
        ({"llama__attention__head_count": None}, "num_attention_heads"),
        ({"llama__attention__head_count": [4, 4]}, "num_attention_heads"),
        ({"llama__block_count": 10**6}, "num_hidden_layers"),
        ({"llama__block_count": 3}, "nothing for 'blk.2.attn_norm.weight'"),
        ({"llama__block_count": 1}, "'blk.1."),
        ({"llama__feed_forward_length": 96}, "(128, 64) for 'blk.0.ffn_gate.weight'"),
        ({"llama__attention__key_length": 15, "llama__attention__value_length": 15}, "is 16, and a head has 15"),
        ({"tokenizer__ggml__model": "llama"}, "byte-level BPE"),
        ({"tokenizer__ggml__pre": "llama-bpe"}, "gpt-2, smollm"),
        ({"tokenizer__ggml__pre": None}, "gpt-2, smollm"),
        ({"tokenizer__ggml__add_bos_token": True}, "add_bos_token"),
        ({"tokenizer__ggml__merges": ["Ġ t", "x yz"]}, "the merge 'x' 'yz'"),
        ({"tokenizer__ggml__merges": ["xy"]}, "the merge 'xy' ''"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "for all of its"),
        ({"tokenizer__ggml__token_type": "x"}, "list of numbers"),
        ({"tokenizer__ggml__tokens": ["a", "b", "a"], "tokenizer__ggml__token_type": None}, "(3, 64) is needed"),
        ({"tokenizer__ggml__tokens": None}, "vocab_size"),
    ],
)
def test_an_unsuitable_file_is_refused(tiny: Path, tmp_path: Path, keys: dict[str, Any], cause: str) -> None:
    assert cause in refused(copied(tiny, tmp_path / "changed.gguf", **keys), tmp_path / "folder")


def test_a_token_that_occurs_twice_is_refused(tiny: Path, tmp_path: Path) -> None:
    tokens = list(read_header(tiny).texts("tokenizer.ggml.tokens"))
    path = copied(tiny, tmp_path / "changed.gguf", tokenizer__ggml__tokens=["!", *tokens[1:-1], "!"])
    assert "'!' 2 times" in refused(path, tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("rope_freqs.weight", np.ones(8, np.float32), "'rope_freqs.weight' has no place"),
        ("blk.0.attn_q.weight", None, "nothing for 'blk.0.attn_q.weight'"),
        ("blk.0.attn_q.bias", np.ones(64, np.float32), "nothing for 'blk.0.attn_k.bias'"),
        ("blk.0.attn_k.bias", np.ones(32, np.float32), "'blk.0.attn_k.bias' has no place"),
        ("blk.0.ffn_up.bias", np.ones(128, np.float32), "'blk.0.ffn_up.bias' has no place"),
        ("token_embd.weight", np.ones((3, 64), np.float32), "(3, 64) for 'token_embd.weight'"),
    ],
)
def test_unsuitable_tensors_are_refused(tiny: Path, tmp_path: Path, name: str, value: Any, cause: str) -> None:
    path = copied(tiny, tmp_path / "changed.gguf", tensors=with_tensor(name, value))
    assert cause in refused(path, tmp_path / "folder")


def test_what_a_file_leaves_out_has_its_usual_meaning(tiny: Path, tmp_path: Path) -> None:
    keys = {"llama__rope__freq_base": None, "llama__attention__key_length": None, "llama__rope__scaling__type": "none"}
    count = len(read_header(tiny).texts("tokenizer.ggml.tokens"))
    types = [TokenType.UNKNOWN, TokenType.UNUSED, *[TokenType.NORMAL] * (count - 2)]
    special = {"tokenizer__ggml__token_type": types, "tokenizer__ggml__eos_token_id": count}
    folder = folder_from_gguf(copied(tiny, tmp_path / "x.gguf", **keys, **special), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    assert (config["rope_theta"], config["head_dim"], config["tie_word_embeddings"]) == (10000.0, 16, False)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert [(token["content"], token["special"]) for token in tokenizer["added_tokens"]] == [("!", True)]
    assert '"' not in tokenizer["model"]["vocab"]
    named = json.loads((folder / "tokenizer_config.json").read_text())
    assert ("eos_token" in named, "bos_token" in named) == (False, True)


def test_a_folder_that_is_there_stays_as_it_is(tiny: Path, tmp_path: Path) -> None:
    dest = tmp_path / "folder"
    dest.mkdir()
    (dest / "mine").write_text("x")
    with pytest.raises(Conflict, match="there already"):
        folder_from_gguf(tiny, dest)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "mine"]


def test_of_two_writers_the_first_one_wins(tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "folder"
    first, second = folder_writing(dest), folder_writing(dest)
    for writer, name in ((first, "first"), (second, "second")):
        (writer.__enter__() / "name").write_text(name)
    first.__exit__(None, None, None)
    with pytest.raises(Conflict, match="there already"):
        second.__exit__(None, None, None)
    assert (dest / "name").read_text() == "first"
    assert list(dest.parent.iterdir()) == [dest]
    assert dest.stat().st_mode == dest.parent.stat().st_mode


@pytest.mark.fault
def test_a_full_disk_is_said_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "other").write_bytes(bytes(800_000))
        with pytest.raises(StorageFull, match="No space"):
            folder_from_gguf(tiny, disk / "folder")
        assert [path.name for path in disk.iterdir()] == ["other"]


@pytest.mark.starter
@pytest.mark.timeout(600)  # it may have to download 93 MB
def test_the_starter_answers_in_transformers_and_is_tokenized_alike(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tandem.registry import pull
    from tandem.server import House

    loaded = load_settings({}, home=tmp_path / "home", port=0)
    house = House.open(loaded)
    model = house.registry.path(asyncio.run(pull("starter", registry=house.registry, settings=loaded)))
    folder = folder_from_gguf(model, tmp_path / "starter")
    tokenizer, net = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    question = "What is the capital of France? Answer in one short sentence."
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    texts = [prompt, *TEXTS, Path(__file__).read_text()[:6000]]
    answers = ask(model, [("/tokenize", {"content": text, "parse_special": True}) for text in texts])
    assert [answer["tokens"] for answer in answers] == [tokenizer(text)["input_ids"] for text in texts]
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    answer = net.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
    assert "Paris" in tokenizer.decode(answer[0, ids.shape[1] :])
    assert answer[0, -1] == tokenizer.eos_token_id
