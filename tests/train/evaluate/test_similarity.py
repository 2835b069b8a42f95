"""Edit distance against its definition, and the interval of a paired difference."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.train.evaluate.similarity import edit_distance, edit_similarity, paired_gain

TEXTS = st.text(st.sampled_from("ab🙂 "), max_size=9)


def by_definition(first: str, second: str) -> int:
    @cache
    def distance(left: int, right: int) -> int:
        if not left or not right:
            return left + right
        replaced = distance(left - 1, right - 1) + (first[left - 1] != second[right - 1])
        return min(replaced, distance(left - 1, right) + 1, distance(left, right - 1) + 1)

    return distance(len(first), len(second))


@given(TEXTS, TEXTS)
def test_the_distance_is_levenshteins(first: str, second: str) -> None:
    assert edit_distance(first, second) == by_definition(first, second)


@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [("", "", 1.0), ("abc", "", 0.0), ("kitten", "sitting", 1 - 3 / 7), ("🙂x", "🙂y", 0.5), ("same", "same", 1.0)],
)
def test_similarity(first: str, second: str, similarity: float) -> None:
    assert edit_similarity(first, second) == pytest.approx(similarity)


def test_the_interval_holds_the_mean_and_is_the_same_for_a_seed() -> None:
    random = np.random.default_rng(0)
    theirs = random.random(200)
    ours = theirs + random.normal(0.1, 0.2, size=200)
    found = paired_gain(ours.tolist(), theirs.tolist(), seed=3)
    assert found == paired_gain(ours.tolist(), theirs.tolist(), seed=3)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx((ours - theirs).mean())
    # 1.96 standard errors, as the normal approximation has it
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.2 / 200**0.5, rel=0.2)


@pytest.mark.parametrize("scores", [[], [0.5, 0.5], [0.0, 1.0]])
def test_equal_scores_gain_nothing(scores: list[float]) -> None:
    assert tuple(paired_gain(scores, scores, seed=0)) == (0.0, 0.0, 0.0)
