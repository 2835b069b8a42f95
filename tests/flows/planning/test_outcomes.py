import logging
from pathlib import Path

import msgspec
import pytest

from tandem.flows.planning import Outcome, comparisons, keep_outcome, outcome_of, outcomes
from tandem.plan.workshop import forecast
from tandem.spec import Happened, RunFolder, read_story
from tests.flows.planning.runs import ENVIRONMENT, write_measured
from tests.run_folders import begin_run, say, write_run


def file(digest: str) -> Path:
    raise AssertionError(f"{digest} is not needed")


def kept(home: Path, run_id: str, **changes: object) -> Outcome | None:
    return keep_outcome(home, read_story(write_measured(home, run_id, **changes)), file=file)


def test_an_outcome_follows_from_the_run_alone(home: Path) -> None:
    first = kept(home, "run_0001")
    assert first is not None
    path = home / "plan" / "outcomes" / "run_0001.json"
    before = path.read_bytes()
    again = keep_outcome(home, read_story(RunFolder.of(home, "run_0001")), file=file)
    assert again == first
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["run_0001.json"]
    assert list(outcomes(home)) == [first]
    assert msgspec.json.decode(before)["measured"]["train_s"] == 12.0
    assert first.predicted == forecast(first.work, first.device).stages


def test_what_did_not_end_well_or_measured_nothing_leaves_none(home: Path) -> None:
    story = read_story(write_run(home, "run_0001"))  # says no peak
    assert outcome_of(story, file=file) is None
    assert keep_outcome(home, story, file=file) is None
    folder = write_measured(home, "run_0002")
    say(folder, Happened.FAILED, at=50, attempt=1, reason="diverged")
    assert keep_outcome(home, read_story(folder), file=file) is None
    assert keep_outcome(home, read_story(begin_run(home, "run_0003")), file=file) is None
    assert list(outcomes(home)) == []


def test_the_calibration_learns_from_the_others(home: Path) -> None:
    for number, train_s in enumerate((12.0, 24.0), start=1):
        assert kept(home, f"run_{number:04}", train_s=train_s) is not None
    first, second = comparisons(home)
    assert (first.run, first.measured_s, second.measured_s) == ("run_0001", 12.0, 24.0)
    assert first.predicted_s == second.predicted_s
    assert comparisons(home, without="run_0002") == [first]


def test_a_run_in_several_attempts_teaches_nothing_of_speed(home: Path) -> None:
    folder = write_measured(home, "run_0001")
    say(folder, Happened.ATTEMPT_STARTED, at=30, attempt=2, workers=1)
    say(folder, Happened.ATTEMPT_ENDED, at=31, attempt=2, ending="finished", step=20)
    say(folder, Happened.SUCCEEDED, at=31, attempt=2)
    outcome = keep_outcome(home, read_story(folder), file=file)
    assert outcome is not None
    assert outcome.attempts == 2
    assert comparisons(home) == []


def test_each_kind_of_gpu_is_a_system_of_its_own(home: Path) -> None:
    outcome = kept(home, "run_0001", environment={**ENVIRONMENT, "device": "NVIDIA H200"})
    assert outcome is not None
    assert outcome.system == "local, NVIDIA H200"


def test_what_is_torn_is_passed_over(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert kept(home, "run_0001") is not None
    (home / "plan" / "outcomes" / "run_0000.json").write_text('{"run": ')
    with caplog.at_level(logging.WARNING):
        assert [one.run for one in outcomes(home)] == ["run_0001"]
    assert "cannot be read" in caplog.text


def test_a_full_disk_is_no_failure_of_the_run(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "plan").write_text("no folder can be made here")
    with caplog.at_level(logging.WARNING):
        assert kept(home, "run_0001") is None
    assert "could not be kept" in caplog.text
