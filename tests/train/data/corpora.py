"""Small recipes, files and tokenizers that the tests of data share."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tandem.spec import Recipe, parse_recipe

SHAPE = {"width": 64, "layers": 2, "heads": 1, "kv_heads": 1, "ffn": 128}
BYTES = {"vocab": 263}
"""A tokenizer without merges."""
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "his",
]


def recipe(*data: dict[str, Any], objective: str = "lm", **tables: Any) -> Recipe:
    """A recipe for these sources, small in everything."""
    whole = {
        "name": "small",
        "model": {"shape": SHAPE},
        "data": list(data),
        "objective": {"name": objective},
        "optimizer": {"lr": 1e-3},
        "tokenizer": {"vocab": 300},
        "batch": {"samples": 4, "context": 32},
        "budget": {"steps": 2},
        "curation": {"held_out": 0.3},
    }
    return parse_recipe({**whole, **tables}, where="the test")


def document(number: int, words: int = 40) -> str:
    """Words that no other number has in the same order."""
    state, found = number * 7919 + 1, []
    for _ in range(words):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        found.append(WORDS[(state >> 33) % len(WORDS)] + WORDS[(state >> 45) % len(WORDS)])
    return f"{' '.join(found)}.\n"


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Files by name under a new folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_lines(path: Path, records: Iterable[Any]) -> Path:
    """JSON lines; bytes are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def chat(*said: str) -> dict[str, Any]:
    """A user and an assistant in turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[place % 2], "content": words} for place, words in enumerate(said)]}


def silent(step: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""
