"""Fixtures of the command tests: a home that was made once with the real commands, and commands in this process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tandem.cli.app import app
from tandem.cli.context import open_house, screen
from tandem.server import House
from tests.faults.program import Home, Prepared, prepare

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The home to copy; nobody runs anything in it."""
    return prepare(tmp_path_factory.getbasetemp())


@pytest.fixture
def tandem(prepared: Prepared, tmp_path: Path) -> Home:
    """A home of this test's own, with the deployments `quick` and `slow`."""
    return prepared.copy(tmp_path / "home")


@pytest.fixture
def house(home: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """The house of the home in which commands run in this process."""
    (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    monkeypatch.setenv("TANDEM_HOME", str(home))
    monkeypatch.setattr(screen, "width", 200)
    house = open_house()
    yield house
    house.db.close()


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
