"""Converted Llamas: the same token ids and the same log-probabilities as transformers, or a clear refusal."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.formats import convert_folder, facts, read_header
from tandem.kit.errors import IntegrityError, NotFound, StorageFull, UnsupportedFeature
from tests.formats.engine import ask
from tests.formats.hf_models import change, write_llama
from tests.kit.full_disk import small_disk

pytest.importorskip("torch", reason="parity needs torch and transformers")

TEXTS = ["def the number of 1234", " naïve 🙂\n\n\tWorld  (x)", "return<plain>12<|endoftext|>the"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def changed(llama: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(llama, tmp_path / "changed"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"digits": False, "tie_word_embeddings": True},
        {"attention_bias": True, "num_key_value_heads": 4},
        {"head_dim": 32, "rope_theta": 500.0, "dtype": "bfloat16"},
    ],
    ids=["digits", "tied", "bias", "head_dim"],
)
def test_it_computes_what_transformers_computes(tmp_path: Path, options: dict[str, Any]) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    folder = write_llama(tmp_path / "hf", **options)
    model = convert_folder(folder, tmp_path / "model.gguf", name="parity", kind="f32")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    calls = [("/tokenize", {"content": text, "parse_special": True}) for text in TEXTS]
    # The probabilities are those before sampling. They come with a token's text, and the end and half a character
    # have none: a letter is forced.
    options = {"n_predict": 1, "n_probs": 20, "logit_bias": [[tokenizer.token_to_id("d"), 1000.0]]}
    calls += [("/completion", {"prompt": prompt, **options}) for prompt in ids]
    answers = ask(model, calls)
    assert [answer["tokens"] for answer in answers[: len(TEXTS)]] == ids
    for prompt, answer in zip(ids, answers[len(TEXTS) :], strict=True):
        with torch.no_grad():
            logits = reference(torch.tensor([prompt])).logits[0, -1]
        expected = torch.log_softmax(logits.double(), dim=-1).numpy()
        top = answer["completion_probabilities"][0]["top_logprobs"]
        assert {entry["id"] for entry in top} == set(np.argsort(expected)[-20:].tolist())
        for entry in top:
            assert entry["logprob"] == pytest.approx(expected[entry["id"]], abs=2e-4)


@pytest.mark.parametrize(("kind", "named"), [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16"), ("q8_0", "Q8_0")])
def test_every_type_of_weights_is_written(llama: Path, tmp_path: Path, kind: str, named: str) -> None:
    header = read_header(convert_folder(llama, tmp_path / "model.gguf", name="tiny", kind=kind))
    found = facts(header)
    assert (found["quantization"], found["architecture"], found["context_length"]) == (named, "llama", 256)
    assert (found["chat_template"], found["name"], found["vocab_size"]) == (True, "tiny", 302)
    assert header.metadata["tokenizer.ggml.eos_token_id"] == 1
    types = {tensor.name: tensor.type.name for tensor in header.tensors}
    assert types["blk.0.attn_q.weight"] == named
    assert types["blk.1.ffn_norm.weight"] == "F32"


def test_rows_that_are_no_whole_blocks_become_f16(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf", intermediate_size=40)
    header = read_header(convert_folder(folder, tmp_path / "model.gguf", name="odd", kind="q8_0"))
    types = {tensor.name: tensor.type.name for tensor in header.tensors}
    assert (types["blk.0.ffn_down.weight"], types["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_the_same_folder_gives_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    first, second = (convert_folder(llama, tmp_path / name, name="x").read_bytes() for name in ("a", "b"))
    assert first == second


def refused(folder: Path, dest: Path) -> str:
    with pytest.raises((UnsupportedFeature, IntegrityError, NotFound)) as caught:
        convert_folder(folder, dest, name="x")
    assert caught.value.remedy
    assert not list(dest.parent.glob("*.gguf*")), "nothing is left behind"
    return caught.value.message


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "llama3"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"mlp_bias": True}, "biases"),
        ({"num_hidden_layers": 3}, "nothing for 'model.layers.2"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 5}, "q_proj"),
        ({"num_key_value_heads": 4}, "k_proj"),
        ({"head_dim": 15}, "odd width"),
        ({"intermediate_size": 97}, "(96, 64) for 'model.layers.0.mlp.gate_proj.weight', where (97, 64)"),
        ({"rope_parameters": []}, "rope_parameters"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"hidden_size": None, "head_dim": 16}, "hidden_size"),
        ({"vocab_size": 100}, "the model has 100"),
    ],
)
def test_an_unsuitable_model_is_refused(changed: Path, tmp_path: Path, values: dict[str, Any], cause: str) -> None:
    change(changed, "config.json", **values)
    assert cause in refused(changed, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}, "BPE"),
        ({"model": {"type": "BPE", "vocab": {"a": "b"}}}, "vocab"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}}}, "tokens up to"),
        ({"model": []}, "model"),
        ({"added_tokens": [{"id": 1}]}, "content"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}, "pre-tokenizer"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [1]}}, "pre-tokenizer"),
        ({"normalizer": {"type": "NFC"}}, "changes the text"),
        ({"post_processor": {"type": "TemplateProcessing"}}, "adds tokens"),
        ({"pre_tokenizer": None}, "pre-tokenizer"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "pre-tokenizer"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}]}}, "pre-tokenizer"),
    ],
)
def test_an_unsuitable_tokenizer_is_refused(changed: Path, tmp_path: Path, values: dict[str, Any], cause: str) -> None:
    change(changed, "tokenizer.json", **values)
    assert cause in refused(changed, tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff\xfe"], ids=["missing", "cut", "list", "binary"])
def test_a_damaged_file_is_named(changed: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (changed / name).unlink()
    else:
        (changed / name).write_bytes(content)
    assert name in refused(changed, tmp_path / "model.gguf")


def test_pickled_weights_are_not_read(changed: Path, tmp_path: Path) -> None:
    (changed / "model.safetensors").rename(changed / "pytorch_model.bin")
    assert "model.safetensors" in refused(changed, tmp_path / "model.gguf")


def test_a_cut_off_weights_file_is_noticed(changed: Path, tmp_path: Path) -> None:
    path = changed / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "model.safetensors" in refused(changed, tmp_path / "model.gguf")


def test_a_template_of_its_own_file_is_found(changed: Path, tmp_path: Path) -> None:
    change(changed, "tokenizer_config.json", chat_template=None)
    (changed / "chat_template.jinja").write_text("{{ tools }}")
    header = read_header(convert_folder(changed, tmp_path / "model.gguf", name="x"))
    assert header.text("tokenizer.chat_template") == "{{ tools }}"


def test_of_several_templates_the_default_is_taken(changed: Path, tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    change(changed, "tokenizer_config.json", chat_template=several)
    header = read_header(convert_folder(changed, tmp_path / "model.gguf", name="x"))
    assert header.text("tokenizer.chat_template") == "d"


@pytest.mark.fault
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf", hidden_size=256, intermediate_size=512)
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull, match="No space"):
            convert_folder(folder, disk / "model.gguf", name="x", kind="f32")
        assert list(disk.iterdir()) == []


def test_older_ways_of_writing_merges_and_rope_are_read(changed: Path, tmp_path: Path) -> None:
    new = convert_folder(changed, tmp_path / "new.gguf", name="x").read_bytes()
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(changed, "config.json", rope_parameters=None, rope_theta=10000.0)
    assert convert_folder(changed, tmp_path / "old.gguf", name="x").read_bytes() == new
