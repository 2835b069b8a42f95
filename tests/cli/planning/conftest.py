"""What the planner's command tests share: the three forms of an answer, and refusals as people read them."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tandem import cli
from tandem.cli.context import notes
from tandem.server import House
from tests.cli.conftest import Run


class Forms(NamedTuple):
    """What a command prints for people, as JSON, and bare."""

    shown: str
    json: Any
    bare: list[str]


Told = Callable[..., Forms]
Refused = Callable[..., str]


@pytest.fixture
def told(ask: Run) -> Told:
    """Runs a command in its three forms."""

    def run(*words: str) -> Forms:
        shown, printed, bare = (ask(*words, *form).stdout for form in ((), ("--json",), ("-q",)))
        return Forms(shown, json.loads(printed, parse_constant=_no_json), bare.splitlines())

    return run


@pytest.fixture
def refused(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail with `status`; what it says, in one line. Nothing is printed as its result."""

    def run(*words: str, status: int = 1) -> str:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["tandem", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        assert (left.value.code, printed.out) == (status, ""), printed
        assert "Traceback" not in printed.err
        return " ".join(printed.err.split())

    monkeypatch.setattr(notes, "width", 200)
    return run


def _no_json(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")
