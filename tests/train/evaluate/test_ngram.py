"""The n-gram baseline, against the same formula with dictionaries."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.train.evaluate.ngram import NGram, gathered

VOCABULARY = 5
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), max_size=40)


def by_dictionaries(tokens: list[int], context: list[int], *, order: int) -> list[float]:
    """Witten and Bell's interpolation, from the shortest context to the longest."""
    counts = Counter(tokens)
    p = [(counts[token] + 1) / (len(tokens) + VOCABULARY) for token in range(VOCABULARY)]
    for size in range(1, min(order - 1, len(context)) + 1):
        seen = tuple(context[-size:])
        follows = Counter(
            tokens[place + size] for place in range(len(tokens) - size) if tuple(tokens[place : place + size]) == seen
        )
        if not follows:
            break
        kinds, total = len(follows), sum(follows.values())
        p = [(follows[token] + kinds * p[token]) / (total + kinds) for token in range(VOCABULARY)]
    return p


@given(TOKENS, TOKENS, st.integers(2, 5))
def test_probabilities_are_those_of_the_formula(tokens: list[int], context: list[int], order: int) -> None:
    model = NGram(np.array(tokens, dtype=np.int32), vocabulary=VOCABULARY, order=order)
    found = model.probabilities(context)
    assert found.tolist() == pytest.approx(by_dictionaries(tokens, context, order=order))
    assert found.sum() == pytest.approx(1.0)


def test_it_goes_on_as_what_it_has_seen_until_a_stop() -> None:
    model = NGram(np.array([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 7, 2, 3, 4, 9] * 3, dtype=np.int32), vocabulary=10)
    assert model.greedy([7, 2], 10, {9}) == [3, 4]
    assert model.greedy([1, 2], 3, set()) == [3, 4, 9]
    assert model.size == 45


def test_asking_changes_nothing() -> None:
    model = NGram(np.array([1, 2, 1, 3], dtype=np.int32), vocabulary=5)
    first = model.probabilities([1]).tolist()
    assert model.probabilities([1]).tolist() == first
    assert model.probabilities([]).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("most", "expected"), [(100, [1, 2, 3, 4, 5]), (5, [1, 2, 3, 4, 5]), (3, [1, 2, 3]), (0, [])])
def test_rows_are_gathered_up_to_a_limit(most: int, expected: list[int]) -> None:
    assert gathered([[1, 2], [], [3, 4, 5]], most=most).tolist() == expected
