"""`tandem models`: what is printed for people, for programs, and for scripts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tandem.cli.models import app
from tandem.kit.errors import IntegrityError, NotFound


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(home))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_a_model_is_pulled_listed_and_shown(home: Path) -> None:
    assert run("pull", "fake:fim", "--quiet").stdout == "tiny@1\n"
    assert run("pull", "fake:tools", "--name", "helper", "--quiet").stdout == "helper@1\n"
    assert run("list", "--quiet").stdout == "helper@1\ntiny@1\n"
    listed = json.loads(run("list", "--json").stdout)
    assert [(version["ref"], version["task"]) for version in listed] == [
        ("helper@1", "generate"),
        ("tiny@1", "generate"),
    ]
    shown = json.loads(run("show", "tiny", "--json").stdout)
    assert shown == next(version for version in listed if version["ref"] == "tiny@1") | {"file": shown["file"]}
    assert Path(shown["file"]).is_relative_to(home)
    assert Path(shown["file"]).stat().st_size == shown["size"]
    assert shown["facts"]["fim"] is True


def test_pulling_says_what_comes_next() -> None:
    result = run("pull", "fake:")
    assert "tiny@1" in result.stdout
    assert "tandem release request tiny@1 --sign" in result.stdout
    assert "store" in result.stderr, "progress goes where results do not"
    again = json.loads(run("pull", "fake:", "--json").stdout)
    assert again["ref"] == "tiny@1"


def test_an_empty_list_says_what_to_do() -> None:
    assert "tandem models pull starter" in run("list").stdout
    assert json.loads(run("list", "--json").stdout) == []
    assert run("list", "--quiet").stdout == ""


def test_tables_are_for_people() -> None:
    run("pull", "fake:")
    for words in (("list",), ("show", "tiny@1")):
        shown = run(*words).stdout
        assert "tiny@1" in shown
        assert "llama" in shown


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(NotFound, match="nothing"):
        run("show", "nothing")


def test_a_damaged_file_is_an_error() -> None:
    run("pull", "fake:")
    path = Path(json.loads(run("show", "tiny", "--json").stdout)["file"])
    path.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="tiny@1 is damaged"):
        run("show", "tiny")
    run("pull", "fake:")
    assert run("show", "tiny", "--quiet").stdout == "tiny@1\n"
