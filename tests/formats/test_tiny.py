"""The tiny model: small, repeatable, and good enough for the real engine."""

from pathlib import Path

import pytest

from tandem.formats import write_tiny_gguf
from tests.formats.engine import ask

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]},
    },
}


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    first, again, other = (
        write_tiny_gguf(tmp_path / name, seed=seed).read_bytes() for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert len(first) < 2**20
    assert first == again
    assert len(first) == len(other)
    assert first != other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_engine_reads_it_and_it_writes_printable_text_without_end(tmp_path: Path, seed: int) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", fim=True, seed=seed)
    chat, infill, tokens = ask(
        model,
        [
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hé"}], "max_tokens": 50}),
            ("/infill", {"input_prefix": "def f(", "input_suffix": "return", "n_predict": 20}),
            ("/tokenize", {"content": "the naïve 🙂\n"}),
        ],
    )
    message = chat["choices"][0]["message"]["content"]
    assert chat["choices"][0]["finish_reason"] == "length"
    assert chat["usage"]["completion_tokens"] == 50
    assert len(message) >= 50
    assert message.isascii()
    assert message.isprintable()
    assert infill["prompt"] == "<|fim_prefix|>def f(<|fim_suffix|>return<|fim_middle|>"
    assert infill["tokens_predicted"] == 20
    assert len(tokens["tokens"]) == 15  # 16 bytes, and "he" is one token


def test_it_calls_tools_when_it_must(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", tools=True, context_length=2048)
    body = {
        "messages": [{"role": "user", "content": "?"}],
        "tools": [TOOL],
        "tool_choice": "required",
        "max_tokens": 300,
        "seed": 1,
    }
    (answer,) = ask(model, [("/v1/chat/completions", body)])
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather"
    assert "Rome" in call["arguments"]
