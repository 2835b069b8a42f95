"""Fixtures of the training commands: a recipe, and a story whose workers train nothing."""

import functools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tandem import flows
from tandem.spec import Recipe
from tests.run_folders import DATA

RECIPE = """
name = "coder"

[model.shape]
width = 64
layers = 2
heads = 1
kv_heads = 1
ffn = 128

[[data]]
format = "code"
source = "stdlib:"

[objective]
name = "lm"

[optimizer]
lr = 1e-3

[batch]
samples = 4
context = 64

[budget]
steps = 6
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe that is not pinned."""
    path = tmp_path / "recipes" / "coder.toml"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Makes `tandem train` pin recipes without reading data; what it was asked to prepare."""
    asked: list[Recipe] = []

    async def prepare(recipe: Recipe, *, home: Path, parent: object, progress: Callable[..., None]) -> Recipe:
        asked.append(recipe)
        progress("collect", 1, 2)
        progress("collect", 2, None)
        data = tuple(msgspec.structs.replace(one, sha256=DATA) for one in recipe.data)
        tokenizer = msgspec.structs.replace(recipe.tokenizer, sha256=DATA)
        return msgspec.structs.replace(recipe, data=data, tokenizer=tokenizer)

    monkeypatch.setattr(flows, "train", functools.partial(flows.train, prepare=prepare))
    monkeypatch.setattr("tandem.cli.training.train.check_workshop", lambda: None)
    monkeypatch.setattr("tandem.cli.training.runs.check_workshop", lambda: None)
    return asked
