"""Near-duplicates: those at the threshold are found, those below are kept, short ones are left alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.train.data.duplicates import FEW_WORDS, PERMUTATIONS, NearDuplicates, band_rows


def words(count: int, seed: int) -> list[str]:
    drawn = random.Random(seed)
    return [f"w{drawn.randrange(10**6)}" for _ in range(count)]


def grams(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(text[place : place + 5]) for place in range(len(text) - 4)}


@pytest.mark.parametrize("changed", [0, 1, 5, 20, 100])
def test_the_estimate_is_near_the_true_similarity(changed: int) -> None:
    one = words(1000, seed=1)
    other = list(one)
    for place in range(changed):
        other[place * 10] = f"other{place}"
    true = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
    estimate = NearDuplicates(0.85).similarity(" ".join(one), " ".join(other))
    assert abs(estimate - true) < 4 * (true * (1 - true) / PERMUTATIONS) ** 0.5 + 1e-9


@pytest.mark.parametrize(("changed", "alike"), [(0, True), (1, True), (10, False), (60, False)])
def test_copies_with_few_changes_are_alike(changed: int, alike: bool) -> None:
    near = NearDuplicates(0.85)
    one = words(300, seed=2)
    other = list(one)
    for place in range(changed):
        other[place * 5] = f"other{place}"
    assert not near.seen(" ".join(one))
    assert near.seen("  \n".join(other)) is alike


def test_many_different_texts_are_all_kept_and_all_their_copies_found() -> None:
    near = NearDuplicates(0.85)
    texts = [" ".join(words(60, seed=seed)) for seed in range(1500)]
    assert not any(near.seen(text) for text in texts)
    assert all(near.seen(f"{text} more") for text in texts)


def test_short_texts_are_never_alike() -> None:
    near = NearDuplicates(0.5)
    text = " ".join(words(FEW_WORDS - 1, seed=3))
    assert not near.seen(text)
    assert not near.seen(text)


@given(st.floats(0.01, 1.0))
def test_bands_find_those_at_the_threshold(threshold: float) -> None:
    rows = band_rows(threshold)
    assert 1 <= rows <= PERMUTATIONS
    assert rows == 1 or 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= 0.99
