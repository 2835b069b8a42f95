"""Intervals of scores: they hold what they should."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.evals.intervals import mean_of, paired_gain

SCORES = st.lists(st.floats(min_value=0.0, max_value=1.0), min_size=1, max_size=40)


@given(st.integers(min_value=1, max_value=200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_a_shares_interval_is_wilsons(counts: tuple[int, int]) -> None:
    count, hits = counts
    found = mean_of([1.0] * hits + [0.0] * (count - hits), seed=0)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
    for edge in {found.low, found.high} - {0.0, 1.0}:
        # Wilson's ends are the shares from which this one lies 1.96 standard errors away.
        assert abs(found.mean - edge) == pytest.approx(1.959964 * math.sqrt(edge * (1 - edge) / count), rel=1e-5)


def test_ten_of_ten_are_not_certain() -> None:
    assert mean_of([1.0] * 10, seed=0) == pytest.approx((1.0, 0.7225, 1.0), abs=1e-4)


@settings(max_examples=30)
@given(SCORES, st.integers(min_value=0, max_value=5))
def test_a_bootstrap_is_the_same_each_time_and_holds_the_mean(scores: list[float], seed: int) -> None:
    found = paired_gain(scores, [0.0] * len(scores), seed=seed)
    assert found == paired_gain(scores, [0.0] * len(scores), seed=seed)
    assert found.mean == pytest.approx(sum(scores) / len(scores))
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9


def test_a_paired_gain_is_surer_than_its_parts() -> None:
    theirs = [number / 100 for number in range(100)]
    ours = [score + 0.1 for score in theirs]
    found = paired_gain(ours, theirs, seed=0)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert mean_of(ours, seed=0).high - mean_of(ours, seed=0).low > 0.05
