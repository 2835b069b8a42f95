"""Fixtures of the command tests: a home that was made once with the real commands, and copies of it."""

from pathlib import Path

import pytest

from tests.faults.program import Home, Prepared, prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The home to copy; nobody runs anything in it."""
    return prepare(tmp_path_factory.getbasetemp())


@pytest.fixture
def tandem(prepared: Prepared, tmp_path: Path) -> Home:
    """A home of this test's own, with the deployments `quick` and `slow`."""
    return prepared.copy(tmp_path / "home")
