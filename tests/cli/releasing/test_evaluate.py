"""`tandem evaluate` and `tandem evals`: what is printed, for people and for programs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tandem.cli.app import app
from tandem.cli.releasing import evaluate as command
from tandem.evals import Measured, find_suite
from tandem.flows import Asking, Found, Watcher
from tandem.kit.config import Settings
from tandem.kit.errors import InvalidRequest
from tandem.server import House
from tandem.spec import Evidence, Metric
from tests.history import opened

DIGEST = f"sha256:{'e' * 64}"
METRIC = Metric(name="accuracy", value=0.5, low=0.25, high=0.75, samples=8)


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("TANDEM_HOME", str(settings.home))
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def found(home: Path, name: str, *, whole: bool) -> Found:
    suite = find_suite(name, home)
    suite = suite if whole or not suite.cases else suite.limited(2)
    measured = Measured(
        metrics=(METRIC,), answered=8, filtered=1, failed=2, transcripts=home / "log", runner="inspect-ai 1"
    )
    evidence = Evidence(
        version="starter@1",
        digest=DIGEST,
        suite=name,
        suite_digest=suite.digest,
        metrics=(METRIC,),
        answered=8,
        filtered=1,
        failed=2,
        transcripts=DIGEST,
    )
    if not whole:
        return Found(suite=suite, measured=measured)
    return Found(suite=suite, measured=measured, evidence=evidence, digest=DIGEST, signed_by=("ada of lab",))


@pytest.fixture
def asked(house: House, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Asking]]:
    """What the command asked of the story, which answers at once here."""
    calls: list[tuple[str, Asking]] = []

    async def answer(ref: str, rooms: House, *, asking: Asking, watcher: Watcher) -> list[Found]:
        calls.append((ref, asking))
        watcher.stage("Standing it up")
        watcher.progress("quality-chat", 1, 2)
        names = asking.suites or ("quality-chat", "regression")
        return [found(rooms.settings.home, name, whole=asking.limit is None) for name in names]

    monkeypatch.setattr(command, "evaluate_version", answer)
    return calls


def test_people_see_numbers_and_what_became_evidence(asked: list[tuple[str, Asking]]) -> None:
    shown = run("evaluate", "starter").stdout
    assert "accuracy  0.5    0.25 to 0.75  8" in shown
    assert f"8 answered, 1 filtered, 2 failed. Evidence {DIGEST[:19]}, signed by ada of lab." in " ".join(shown.split())
    assert "regression: it has no cases yet" in shown
    assert asked == [("starter", Asking())]


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_asked(
    asked: list[tuple[str, Asking]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match=r"Cannot make the folder .*logs: Not a directory"):
        run("evaluate", "starter", "--transcripts", str(tmp_path / "file" / "logs"))
    assert asked == []


def test_a_look_says_that_it_is_no_evidence(asked: list[tuple[str, Asking]]) -> None:
    words = ("evaluate", "starter@1", "-s", "quality-chat", "--suite", "safety-core", "--limit", "2", "--as", "ada")
    shown = " ".join(run(*words).stdout.split())
    assert shown.count("Only 2 cases were asked, so this is no evidence.") == 2
    assert asked == [("starter@1", Asking(suites=("quality-chat", "safety-core"), limit=2, member="ada"))]


def test_programs_get_all_of_it(asked: list[tuple[str, Asking]]) -> None:
    (one,) = json.loads(run("evaluate", "starter", "-s", "quality-chat", "--json").stdout)
    assert one["metrics"] == [{"name": "accuracy", "value": 0.5, "low": 0.25, "high": 0.75, "samples": 8}]
    assert (one["answered"], one["filtered"], one["failed"]) == (8, 1, 2)
    assert (one["evidence"], one["whole"], one["signed_by"]) == (DIGEST, True, ["ada of lab"])
    assert run("evaluate", "starter", "-q").stdout == f"{DIGEST}\n{DIGEST}\n"
    assert run("evaluate", "starter", "-q", "--limit", "1").stdout == ""
    assert len(asked) == 3


def test_suites_are_listed_and_shown(house: House) -> None:
    listed: list[dict[str, Any]] = json.loads(run("evals", "list", "--json").stdout)
    assert [one["name"] for one in listed] == [
        "performance",
        "quality-chat",
        "quality-code",
        "regression",
        "safety-core",
    ]
    assert "quality-code  code         300" in run("evals", "list").stdout
    shown = json.loads(run("evals", "show", "safety-core", "--json").stdout)
    assert len(shown["cases"]) == 80
    assert shown["digest"] == find_suite("safety-core", house.settings.home).digest
    assert "capital of France" in run("evals", "show", "quality-chat").stdout


def test_a_suite_is_cut_from_own_code(house: House, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    body = "\n".join(f"    value_{number} = compute(value_{number - 1}, {number})" for number in range(1, 8))
    (code / "one.py").write_text(f"def total(value_0):\n{body}\n    return value_7\n")
    assert run("evals", "cut", "mine", str(code), "-q").stdout.strip() == find_suite("mine", house.settings.home).digest
    assert "mine" in run("evals", "list", "-q").stdout.split()
    assert run("evals", "cut", "other", str(tmp_path / "nothing")).exit_code == 2
