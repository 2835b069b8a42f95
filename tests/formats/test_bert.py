"""Converted encoders: the same token ids and the same vectors as transformers, or a clear refusal."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.formats import convert_folder, facts, read_header
from tandem.kit.config import Settings
from tandem.kit.errors import IntegrityError, NotFound, UnsupportedFeature
from tandem.registry.sources import Hub, open_source
from tests.formats.engine import ask
from tests.formats.hf_models import change, write_bert

pytest.importorskip("torch", reason="parity needs torch and transformers")

# Without words of more than 100 letters: BERT calls those unknown, llama.cpp spells them.
TEXTS = [
    "Hello, World!",
    "The capital of France is Paris.",
    "naïve café, Übergröße ß",
    "你好，世界 hello",
    "emoji 🙂 and unknown ☃ signs",
    "snake_case = foo(bar[1:])  # comment",
    "  tabs\tand\nnew lines  ",
    "x",
    "C++ & Rust's <html> 3.14159 ×÷ №",
    "the thing " * 20,
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def changed(bert: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(bert, tmp_path / "changed"))


def compare(folder: Path, model: Path, *, cosine: float, pooling: str = "mean") -> None:
    """Token ids must be equal, and vectors have at least this cosine to those of transformers."""
    import torch
    from transformers import BertModel, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(folder)
    reference = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    limit = reference.config.max_position_embeddings
    texts = [text for text in TEXTS if len(tokenizer(text)["input_ids"]) <= limit]
    assert len(texts) >= 6
    ids = [tokenizer(text)["input_ids"] for text in texts]
    calls: list[tuple[str, dict[str, Any]]] = [("/tokenize", {"content": text, "add_special": True}) for text in texts]
    calls.append(("/v1/embeddings", {"input": texts}))
    *tokenized, embedded = ask(model, calls, embedding=True)
    assert [answer["tokens"] for answer in tokenized] == ids
    for tokens, entry in zip(ids, embedded["data"], strict=True):
        with torch.no_grad():
            states = reference(torch.tensor([tokens])).last_hidden_state[0].numpy()
        expected = states.mean(axis=0) if pooling == "mean" else states[0]
        found = np.array(entry["embedding"])
        assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) >= cosine


@pytest.mark.starter
def test_the_encoder_is_what_transformers_computes(tmp_path: Path, settings: Settings) -> None:
    source = open_source("encoder", Hub(url=settings.hub_url))
    fetched = asyncio.run(source.fetch(tmp_path / "fetched", progress=lambda *_: None))
    model = convert_folder(fetched.path, tmp_path / "encoder.gguf", name="encoder")
    found = facts(read_header(model))
    assert (found["embedding_length"], found["context_length"], found["pooling"]) == (384, 512, "mean")
    compare(fetched.path, model, cosine=0.9999)


@pytest.mark.parametrize(("mode", "pooling"), [("mean_tokens", "mean"), ("cls_token", "cls")])
def test_a_small_one_is_what_transformers_computes(tmp_path: Path, mode: str, pooling: str) -> None:
    folder = write_bert(tmp_path / "hf")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(f'{{"pooling_mode_{mode}": true}}')
    model = convert_folder(folder, tmp_path / "model.gguf", name="small", kind="f32")
    assert facts(read_header(model))["pooling"] == pooling
    compare(folder, model, cosine=0.999999, pooling=pooling)


@pytest.mark.parametrize(("kind", "named"), [(None, "F16"), ("f32", "F32"), ("q8_0", "Q8_0")])
def test_types_of_weights(bert: Path, tmp_path: Path, kind: str | None, named: str) -> None:
    header = read_header(convert_folder(bert, tmp_path / "model.gguf", name="x", kind=kind))
    assert facts(header)["quantization"] == named
    types = {tensor.name: tensor.type.name for tensor in header.tensors}
    assert (types["token_embd.weight"], types["position_embd.weight"]) == (named, "F32")


def refused(folder: Path, dest: Path) -> str:
    with pytest.raises((UnsupportedFeature, IntegrityError, NotFound)) as caught:
        convert_folder(folder, dest, name="x")
    assert caught.value.remedy
    assert not list(dest.parent.glob("*.gguf*")), "nothing is left behind"
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "values", "cause"),
    [
        ("config.json", {"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ("config.json", {"position_embedding_type": "relative_key"}, "positions"),
        ("config.json", {"hidden_act": "relu"}, "relu"),
        ("config.json", {"vocab_size": 7}, "of 7 tokens"),
        ("config.json", {"layer_norm_eps": None}, "layer_norm_eps"),
        ("tokenizer_config.json", {"do_lower_case": False}, "cased"),
    ],
)
def test_an_unsuitable_encoder_is_refused(
    changed: Path, tmp_path: Path, name: str, values: dict[str, Any], cause: str
) -> None:
    change(changed, name, **values)
    assert cause in refused(changed, tmp_path / "model.gguf")


def test_an_unknown_pooling_is_refused(changed: Path, tmp_path: Path) -> None:
    (changed / "1_Pooling").mkdir()
    (changed / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    assert "pooling_mode_max_tokens" in refused(changed, tmp_path / "model.gguf")


def test_a_vocabulary_without_special_tokens_is_refused(changed: Path, tmp_path: Path) -> None:
    path = changed / "vocab.txt"
    path.write_text(path.read_text().replace("[CLS]", "[cls]"))
    assert "[CLS]" in refused(changed, tmp_path / "model.gguf")
