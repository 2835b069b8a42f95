"""From what became of each case to numbers: what counts, what does not, and what is compared."""

import pytest

from tandem.evals.report import Row, count_outcomes, metrics_of
from tandem.spec import Metric


def named(kind: str, rows: list[Row]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics_of(kind, rows, seed=0)}


def answered(case: str, baseline: float | None = None, release: float | None = None, **scores: float) -> Row:
    others = {
        name: {"exact_match": value}
        for name, value in (("baseline", baseline), ("release", release))
        if value is not None
    }
    return Row(id=case, outcome="answered", scores=scores, **others)


FILTERED = Row(id="x", outcome="filtered", why="blocked")
FAILED = Row(id="y", outcome="failed", why="503")


def test_what_is_no_answer_changes_no_score() -> None:
    rows = [answered("a", accuracy=1.0), answered("b", accuracy=0.0), FILTERED, FAILED]
    metric = named("chat", rows)["accuracy"]
    assert (metric.value, metric.samples) == (0.5, 2)
    assert count_outcomes(rows) == {"answered": 2, "filtered": 1, "failed": 1}


def test_a_number_without_cases_is_left_out() -> None:
    assert named("chat", [FILTERED, FAILED]) == {}
    assert named("safety", [answered("a", refusal_rate=1.0)]).keys() == {"refusal_rate"}


def test_a_regression_holds_only_where_that_was_shown() -> None:
    rows = [answered("a", pass_rate=1.0), answered("b", pass_rate=0.0), FILTERED, FAILED]
    found = named("regression", rows)
    assert (found["failures"].value, found["failures"].samples) == (3.0, 4)
    assert (found["pass_rate"].value, found["pass_rate"].samples) == (0.5, 2)


def test_an_empty_regression_suite_has_no_failures_on_no_cases() -> None:
    assert metrics_of("regression", [], seed=0) == (Metric(name="failures", value=0, low=0, high=0, samples=0),)


def test_a_case_that_is_asked_twice_counts_once() -> None:
    rows = [answered("a", pass_rate=1.0), answered("a", pass_rate=0.0), answered("b", pass_rate=1.0)]
    found = named("regression", rows)
    assert found["pass_rate"].value == 0.75
    assert found["pass_rate"].samples == 2
    assert found["failures"].value == 1.0, "once wrong is not held"
    assert count_outcomes([*rows, Row(id="b", outcome="failed")])["answered"] == 2


def test_gains_are_paired_with_those_who_answered_the_same_case() -> None:
    rows = [
        answered("a", baseline=0.0, release=1.0, exact_match=1.0),
        answered("b", baseline=0.0, exact_match=1.0),
        answered("c", baseline=1.0, release=0.0, exact_match=0.0),
    ]
    found = named("code", rows)
    assert found["exact_match_gain"].value == pytest.approx(1 / 3)
    assert found["exact_match_gain"].samples == 3
    assert found["exact_match_vs_release"].value == 0.0
    assert found["exact_match_vs_release"].samples == 2
