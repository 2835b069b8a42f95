"""The tests of a rollout against brute force, and against values that others computed."""

import math
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.serve.rollouts.statistics import (
    LEAST_VALUES,
    cosine,
    fisher_greater,
    likeness,
    mann_whitney_greater,
    median,
)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_fisher_is_the_sum_over_all_tables(bad: int, good: int, other_bad: int, other_good: int) -> None:
    """The definition: of all tables with these margins, the share of those that are at least so bad."""
    drawn, rest, events = bad + good, other_bad + other_good, bad + other_bad
    tables = {k: comb(drawn, k) * comb(rest, events - k) for k in range(events + 1) if k <= drawn}
    expected = sum(ways for k, ways in tables.items() if k >= bad) / comb(drawn + rest, events)
    assert fisher_greater((bad, drawn), (other_bad, rest)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("candidate", "stable", "p"),
    [
        ((3, 4), (1, 4), 17 / 70),  # the lady tasting tea, with one cup wrong (Fisher 1935)
        ((4, 4), (0, 4), 1 / 70),
        ((10, 13), (2, 17), 0.0004652),  # criminal twins: Fisher 1962, and the example of R's fisher.test
        ((0, 0), (5, 10), 1.0),
        ((5, 10), (0, 0), 1.0),
        ((0, 100), (0, 100), 1.0),
    ],
)
def test_fisher_on_known_tables(candidate: tuple[int, int], stable: tuple[int, int], p: float) -> None:
    assert fisher_greater(candidate, stable) == pytest.approx(p, rel=1e-4)


def test_fisher_is_quick_and_finite_where_counts_are_large() -> None:
    assert fisher_greater((5_000, 100_000), (90_000, 2_000_000)) < 1e-8
    assert fisher_greater((4_500, 100_000), (90_000, 2_000_000)) == pytest.approx(0.5, abs=0.01)
    assert 0.0 <= fisher_greater((100_000, 100_000), (0, 1_000_000)) < 1e-300


VALUES = st.lists(st.integers(0, 9).map(float), min_size=LEAST_VALUES, max_size=14)


@given(VALUES, VALUES)
def test_mann_whitney_follows_its_definition(candidate: list[float], stable: list[float]) -> None:
    """U counted pair by pair, and the variance over the midranks of the pooled values."""
    n, m = len(candidate), len(stable)
    u = sum((x > y) + (x == y) / 2 for x in candidate for y in stable)
    pooled = sorted(candidate + stable)
    ranks = {value: (2 * pooled.index(value) + pooled.count(value) + 1) / 2 for value in pooled}
    spread = sum((ranks[value] - (n + m + 1) / 2) ** 2 for value in pooled)
    variance = n * m * spread / ((n + m) * (n + m - 1))
    if spread == 0:
        assert mann_whitney_greater(candidate, stable) == 1.0
        return
    expected = 0.5 * math.erfc((u - n * m / 2 - 0.5) / math.sqrt(2 * variance))
    assert mann_whitney_greater(candidate, stable) == pytest.approx(expected, rel=1e-9)


@given(st.permutations(range(16)))
def test_mann_whitney_is_near_the_exact_test(order: list[int]) -> None:
    candidate, stable = order[:LEAST_VALUES], order[LEAST_VALUES:]
    assert mann_whitney_greater(candidate, stable) == pytest.approx(_exact(candidate), abs=0.02)


def _exact(candidate: list[int]) -> float:
    """The share of all ways to choose eight of sixteen ranks whose sum is at least so large."""
    return sum(count for total, count in _SUMS.items() if total >= sum(candidate)) / comb(16, 8)


_SUMS: dict[int, int] = {}
for _chosen in combinations(range(16), 8):
    _SUMS[sum(_chosen)] = _SUMS.get(sum(_chosen), 0) + 1


def test_few_values_decide_nothing() -> None:
    slow = [9.0] * (LEAST_VALUES - 1)
    assert mann_whitney_greater(slow, [1.0] * 100) == 1.0
    assert mann_whitney_greater([1.0] * 100, slow) == 1.0
    assert mann_whitney_greater([9.0] * LEAST_VALUES, [1.0] * 100) < 1e-6


@given(st.integers(0, 20), st.integers(1, 20), st.integers(0, 20), st.integers(1, 20))
def test_one_more_failure_never_looks_better(bad: int, more: int, other_bad: int, other_more: int) -> None:
    candidate, stable = (bad, bad + more), (other_bad, other_bad + other_more)
    assert fisher_greater((bad + 1, bad + more), stable) <= fisher_greater(candidate, stable) + 1e-12


@pytest.mark.parametrize(("values", "expected"), [([], 0.0), ([3.0], 3.0), ([4.0, 1.0], 2.5), ([9.0, 1.0, 2.0], 2.0)])
def test_median(values: list[float], expected: float) -> None:
    assert median(values) == expected


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_a_share_and_has_no_direction(one: str, other: str) -> None:
    assert 0.0 <= likeness(one, other) <= 1.0
    assert likeness(one, other) == pytest.approx(likeness(other, one))
    assert likeness(one, one) == 1.0


def test_likeness_orders_texts() -> None:
    said = "The capital of France is Paris."
    assert likeness(said, "The capital of France is Lyon.") > 0.7 > likeness(said, "I cannot say that.")
    assert likeness(said, "") < 0.1
    assert likeness("a" * 30_000 + "x", "a" * 30_000 + "y") == pytest.approx(1.0), "only the beginning is looked at"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1.0, 0.0], [0.0, 2.0], 0.0), ([1.0, 1.0], [2.0, 2.0], 1.0), ([1.0], [1.0, 0.0], 0.0), ([0.0], [1.0], 0.0)],
)
def test_cosine(one: list[float], other: list[float], expected: float) -> None:
    assert cosine(one, other) == pytest.approx(expected)
