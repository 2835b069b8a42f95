"""Facts: what a header says of its model."""

import json
from pathlib import Path
from types import MappingProxyType

import pytest
from gguf import GGMLQuantizationType

from tandem.formats import GGUFHeader, TensorInfo, facts, read_header, write_tiny_gguf
from tandem.formats.gguf_file import Value


def header(**metadata: Value) -> GGUFHeader:
    entries: dict[str, Value] = {"general.architecture": "llama"}
    entries |= {key.replace("__", "."): value for key, value in metadata.items()}
    tensors = (
        TensorInfo(name="a", shape=(3, 64), type=GGMLQuantizationType.Q8_0, offset=0, size=204),
        TensorInfo(name="b", shape=(5,), type=GGMLQuantizationType.F32, offset=224, size=20),
    )
    return GGUFHeader(path=Path("m.gguf"), version=3, metadata=MappingProxyType(entries), tensors=tensors, size=300)


def test_a_whole_model_is_described(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=256)
    assert facts(read_header(path)) == {
        "architecture": "llama",
        "task": "generate",
        "context_length": 256,
        "parameters": 108_224,
        "quantization": "F32",
        "chat_template": True,
        "tools": False,
        "fim": False,
        "fim_suffix_first": False,
        "embedding_length": 64,
        "vocab_size": 267,
        "pooling": None,
        "name": "tiny-0",
        "license": "apache-2.0",
    }


@pytest.mark.parametrize(("chat", "tools"), [(False, False), (True, False), (False, True)])
def test_templates_and_tools_are_seen(tmp_path: Path, chat: bool, tools: bool) -> None:
    found = facts(read_header(write_tiny_gguf(tmp_path / "tiny.gguf", chat=chat, tools=tools)))
    assert (found["chat_template"], found["tools"]) == (chat or tools, tools)


IDS = {f"tokenizer__ggml__fim_{role}_token_id": number for number, role in enumerate(("pre", "suf", "mid"))}
OLD_IDS = {f"tokenizer__ggml__{role}_token_id": 5 for role in ("prefix", "suffix", "middle")}


@pytest.mark.parametrize(
    ("metadata", "fim"),
    [
        ({}, False),
        (IDS, True),
        (OLD_IDS, True),
        (dict(list(IDS.items())[:2]), False),
        ({"tokenizer__ggml__tokens": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")}, True),
        ({"tokenizer__ggml__tokens": ("<fim_prefix>", "<fim-suffix>", "<MID>")}, True),
        ({"tokenizer__ggml__tokens": ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")}, True),
        ({"tokenizer__ggml__tokens": ("▁<PRE>", "▁<SUF>", "▁<MID>")}, True),
        ({"tokenizer__ggml__tokens": ("<fim_prefix>", "<fim_suffix>")}, False),
        ({"tokenizer__ggml__tokens": ("<fim_prefix>", "<fim_suffix>"), **dict(list(IDS.items())[2:])}, True),
    ],
)
def test_fill_in_the_middle_needs_all_three(metadata: dict[str, Value], fim: bool) -> None:
    assert facts(header(**metadata))["fim"] is fim


@pytest.mark.parametrize(
    ("metadata", "quantization"),
    [
        ({}, "Q8_0"),
        ({"general__file_type": 0}, "F32"),
        ({"general__file_type": 3}, "Q4_1"),
        ({"general__file_type": 15}, "Q4_K_M"),
        ({"general__file_type": 12345}, "Q8_0"),
    ],
)
def test_quantization_is_named_as_files_name_it(metadata: dict[str, Value], quantization: str) -> None:
    found = facts(header(**metadata))
    assert (found["quantization"], found["parameters"]) == (quantization, 197)


@pytest.mark.parametrize(("number", "pooling"), [(0, "none"), (1, "mean"), (2, "cls"), (3, "last"), (99, None)])
def test_an_encoder_is_one(number: int, pooling: str | None) -> None:
    found = facts(header(general__architecture="bert", bert__pooling_type=number))
    assert (found["task"], found["pooling"]) == ("embed", pooling)


def test_facts_are_json() -> None:
    found = facts(header())
    assert json.loads(json.dumps(found)) == found
