"""Fixtures of the training commands: a home, the commands in this process, and a story whose workers train nothing."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tandem import flows
from tandem.cli.app import app
from tandem.cli.context import open_house, screen
from tandem.server import House
from tandem.spec import Recipe
from tests.run_folders import DATA

Run = Callable[..., Any]

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
def house(home: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """The house of the commands' home."""
    monkeypatch.setenv("TANDEM_HOME", str(home))
    monkeypatch.setattr(screen, "width", 200)
    return open_house()


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


@pytest.fixture
def ask(house: House) -> Run:
    """Runs a command in this process and gives its result; `status` is what it must leave with."""

    def asked(*words: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    return asked


@pytest.fixture
def ask_json(ask: Run) -> Run:
    """The same, with the result as JSON."""

    def asked(*words: str, status: int = 0) -> Any:
        return json.loads(ask(*words, "--json", status=status).stdout)

    return asked
