"""Facts of runs: what differs between two, and their losses where both have seen as many tokens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.cli.training.facts import differences, losses_at_equal_tokens, measures, record, rows
from tandem.spec import read_story
from tests.run_folders import begin_run, write_run

CURVES = st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 10)), max_size=30).map(sorted)


def test_a_record_has_everything(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    known = record(read_story(folder), folder)
    assert (known["state"], known["version"], known["loss"], known["restarts"]) == ("succeeded", "coder@1", 1.25, 1)
    assert known["goodput_s"]["useful"] == 12.0
    assert "compile" not in known["goodput_s"], "what took no time"
    assert known["planned"]["wall_s"] == 20.0
    assert known["actual"]["wall_s"] == 24.0
    assert [attempt.get("ending") for attempt in known["attempts"]] == ["killed", "finished"]
    assert known["attempts"][0]["signal"] == "SIGKILL"
    assert known["environment"]["environment"]["torch"] == "2.13.0"
    assert known["checkpoints"][0]["bytes"] == 2_000_000
    assert known["report"] is None
    shown = dict(rows(known))
    assert shown["attempts.0.seconds"] == "13.0 s"
    assert shown["recipe.objective.params.rate"] == "0.5"
    assert "report" not in shown


def test_a_run_of_which_nothing_happened_yet_has_a_record(tmp_path: Path) -> None:
    folder = begin_run(tmp_path)
    known = record(read_story(folder), folder)
    assert (known["state"], known["last"], known["attempts"]) == ("planned", {}, [])
    assert measures(read_story(folder))["state"] == "planned"


def test_differences_name_dotted_keys() -> None:
    first = {"a": 1, "b": {"c": [1, 2]}, "d": [{"e": 1}, {"e": 2}]}
    second = {"a": 1, "b": {"c": [1, 3]}, "d": [{"e": 1}], "f": None}
    assert differences(first, second) == [("b.c", [1, 2], [1, 3]), ("d.1.e", 2, None)]
    assert differences(first, first) == []


@given(CURVES, CURVES)
def test_losses_are_compared_where_both_have_been(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    found = losses_at_equal_tokens(first, second)
    if not first or not second or max(first[0], second[0])[0] > min(first[-1], second[-1])[0]:
        assert found == []
    for tokens, here, there in found:
        for curve, loss in ((first, here), (second, there)):
            assert curve[0][0] <= tokens <= curve[-1][0] + 1e-3
            values = [value for _, value in curve]
            assert min(values) - 1e-9 <= loss <= max(values) + 1e-9


def test_losses_at_equal_tokens_are_means_of_the_last_records() -> None:
    steep = [(float(number), 10.0 - number) for number in range(11)]
    flat = [(2.0 * number, 1.0) for number in range(11)]
    found = losses_at_equal_tokens(steep, flat)
    assert [tokens for tokens, _, _ in found] == pytest.approx([10 * number / 7 for number in range(8)])
    assert found[0][1:] == (10.0, 1.0)
    assert found[-1][1:] == (2.0, 1.0)  # the mean of 4, 3, 2, 1 and 0
