"""`tandem runs`: every command on runs that others have made."""

from pathlib import Path

import pytest

from tandem.kit.errors import Conflict, NotFound
from tandem.server import House
from tandem.spec import Happened, Recipe, RunState
from tests.cli.conftest import Run
from tests.run_folders import begin_run, measure, say, write, write_run

FIRST, SECOND = "run_0001", "run_0002"


@pytest.fixture
def written(house: House) -> House:
    """A home with a run that succeeded, and one of another recipe that was paused."""
    write_run(house.settings.home, FIRST)
    folder = begin_run(house.settings.home, SECOND, name="other", seed=1, objective={"name": "lm"})
    write(folder.lease, {"attempt": 1})
    say(folder, Happened.ATTEMPT_STARTED, at=1, attempt=1)
    for step in range(1, 11):
        measure(folder, step, attempt=1, loss=7.0)
    say(folder, Happened.CHECKPOINT, at=9, attempt=1, step=10, bytes=5, seconds=0.1)
    say(folder, Happened.PAUSED, at=12, attempt=1, reason="user")
    house.runs.reindex()
    return house


def test_the_newest_run_is_listed_first(written: House, ask: Run, ask_json: Run) -> None:
    assert ask("runs", "list", "--quiet").stdout == f"{SECOND}\n{FIRST}\n"
    found = ask_json("runs", "list")
    assert [(run["name"], run["state"], run["version"]) for run in found] == [
        ("other", "paused", ""),
        ("coder", "succeeded", "coder@1"),
    ]
    shown = ask("runs", "list").stdout
    assert "paused" in shown
    assert "10/20" in shown
    assert "1.2500" in shown


def test_without_runs_the_list_says_how_to_begin(ask: Run) -> None:
    assert "tandem train" in ask("runs", "list").stdout


@pytest.mark.parametrize("ref", [FIRST, "coder", "0001"])
def test_a_run_is_shown_by_its_id_or_name(written: House, ask: Run, ask_json: Run, ref: str) -> None:
    assert ask("runs", "show", ref, "--quiet").stdout == f"{FIRST}\n"
    known = ask_json("runs", "show", ref)
    assert known["goodput_s"]["lost"] == 4.0
    shown = ask("runs", "show", ref).stdout
    for words in ("goodput_s.useful", "attempts.0.signal", "SIGKILL", "planned.wall_s", "checkpoints.0.step"):
        assert words in shown


def test_an_unknown_run_is_named(ask: Run) -> None:
    with pytest.raises(NotFound, match="no run 'nothing'"):
        ask("runs", "show", "nothing")


def test_two_runs_are_compared(written: House, ask: Run, ask_json: Run) -> None:
    value = ask_json("runs", "compare", FIRST, SECOND)
    keys = {key for key, _, _ in value["differences"]}
    assert {"recipe.name", "recipe.seed", "recipe.objective.name", "recipe.objective.params.rate"} == keys
    places = value["loss_at_equal_tokens"]
    assert (places[0][0], places[-1][0]) == (256.0, 2560.0)
    assert places[0][1:] == [6.0, 7.0]
    shown = ask("runs", "compare", FIRST, SECOND).stdout
    for words in ("recipe.objective.name", "fim", "lm", "held-out loss", "1.2500", "loss at tokens", "+1.0000"):
        assert words in shown
    assert "recipe.seed\tNone\t1" in ask("runs", "compare", FIRST, SECOND, "--quiet").stdout
    assert "The same recipe on the same placement." in ask("runs", "compare", FIRST, FIRST).stdout


def test_watching_a_run_that_is_over_ends_at_once(written: House, ask: Run, ask_json: Run) -> None:
    shown = ask("runs", "watch", FIRST).stdout
    assert "registered as coder@1" in shown
    assert shown.endswith(f"{FIRST} is succeeded.\n")
    assert ask("runs", "watch", SECOND, "--quiet").stdout == "paused\n"
    assert ask_json("runs", "watch", SECOND)["reason"] == "user"


def test_a_report_is_found_or_said_to_be_missing(written: House, ask: Run, ask_json: Run) -> None:
    with pytest.raises(NotFound, match="has no report yet: it is paused"):
        ask("runs", "report", SECOND)
    path = written.runs.folder(FIRST).report
    path.write_text("<html>")
    assert ask("runs", "report", FIRST, "--quiet").stdout == f"{path}\n"
    assert ask_json("runs", "report", FIRST) == {"report": str(path)}


def test_a_report_can_be_opened(written: House, ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    written.runs.folder(FIRST).report.write_text("<html>")
    ask("runs", "report", FIRST, "--open")
    assert opened == [written.runs.folder(FIRST).report.as_uri()]


def test_a_paused_run_goes_on_to_its_version(
    ask: Run, ask_json: Run, prepared: list[Recipe], recipe_file: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tandem.compute.systems.fake.PROGRAM", ("-c", "raise SystemExit(10)"))
        ask("train", str(recipe_file), "--system", "fake", "--quiet", status=1)
    (run,) = house.runs.newest()
    known = ask_json("runs", "resume", run.run_id, "--workers", "2")
    assert (known["state"], known["version"], known["placement"]["workers"]) == ("succeeded", "coder@1", 2)
    with pytest.raises(Conflict, match="is over"):
        ask("runs", "resume", run.run_id)


def test_a_run_can_be_cancelled_for_good(written: House, ask: Run, ask_json: Run) -> None:
    assert ask("runs", "stop", SECOND, "--quiet").stdout == "paused\n"
    assert "Next: tandem runs resume" in ask("runs", "stop", SECOND).stdout
    assert ask_json("runs", "stop", SECOND, "--cancel")["state"] == "cancelled"
    assert written.runs.read(SECOND).state is RunState.CANCELLED
    with pytest.raises(Conflict, match="is over"):
        ask("runs", "stop", SECOND)
