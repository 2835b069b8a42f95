"""The story of a run: repeats, time by cause, cost; and that torn and missing files only leave gaps."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.pages import is_number
from tandem.spec import GOODPUT, Happened, RunFolder, RunState, read_story, without_repeats
from tests.run_folders import DATA, begin_run, say, write_run


def test_a_whole_run(tmp_path: Path) -> None:
    story = read_story(write_run(tmp_path))
    assert (story.run.state, story.run.version, story.run.restarts) == (RunState.SUCCEEDED, "coder@1", 1)
    assert [record["step"] for record in story.metrics] == list(range(1, 21))
    assert [record["attempt"] for record in story.metrics] == [1] * 8 + [2] * 12, "what was lost is not shown"
    assert story.datasets[DATA]["counts"]["train"] == 90
    assert story.series("loss")[-1] == (5120.0, 2.25)
    assert story.attempt_seconds == {1: 13.0, 2: 24.0}
    assert story.running_s == 37.0
    assert story.usd == pytest.approx(0.037)


def test_time_by_cause_counts_each_second_once(tmp_path: Path) -> None:
    seconds = read_story(write_run(tmp_path)).goodput_s
    assert seconds.keys() == GOODPUT.keys()
    assert (seconds["useful"], seconds["lost"], seconds["eval"]) == (12.0, 4.0, 3.0)
    # The killed attempt took 13 s, of which the next one found 4 s lost; half a second was of a kind unknown here.
    assert seconds["other"] == 0.5 + 13.0 - 4.0


def test_an_attempt_that_goes_on_took_until_the_last_that_is_known(tmp_path: Path) -> None:
    folder = begin_run(tmp_path)
    say(folder, Happened.ATTEMPT_STARTED, at=1, attempt=1)
    assert read_story(folder).attempt_seconds == {1: 0.0}
    say(folder, Happened.RUNNING, at=5, attempt=1, step=0, steps=20)
    assert read_story(folder).attempt_seconds == {1: 4.0}


def test_missing_and_torn_files_leave_gaps(tmp_path: Path) -> None:
    folder = begin_run(tmp_path)
    folder.recipe.unlink()
    folder.placement.write_text('{"system": ')
    folder.metrics.write_text('{"step": 1, "loss": 2.0, "tokens": 5}\n{"step": 2, "lo\n{"step": 3, "loss": null}\n{"st')
    (folder.path / "attempts" / "0001").mkdir(parents=True)
    (folder.path / "attempts" / "0001" / "summary.json").write_text("[]")
    story = read_story(folder)
    assert (story.recipe, story.placement, story.summaries, story.summary) == ({}, {}, {}, {})
    assert [record["step"] for record in story.metrics] == [1, 3]
    assert story.series("loss") == [(5.0, 2.0)]
    assert read_story(RunFolder(tmp_path / "nothing")).running_s == 0.0


@given(st.lists(st.integers(1, 30)))
def test_of_repeated_steps_the_last_time_counts(steps: list[int]) -> None:
    kept = without_repeats([{"step": step, "number": number} for number, step in enumerate(steps)])
    assert [record["step"] for record in kept] == sorted({record["step"] for record in kept})
    if steps:
        assert kept[-1] == {"step": steps[-1], "number": len(steps) - 1}


@pytest.mark.parametrize(("value", "expected"), [(1, True), (0.5, True), (True, False), ("1", False), (None, False)])
def test_a_number_is_no_truth_value(value: object, expected: bool) -> None:
    assert is_number(value) is expected
