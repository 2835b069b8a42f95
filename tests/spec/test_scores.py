"""Scores: distances against a plain reference and the definition, where a completion ends, and what parses."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.spec.scores import edit_distance, edit_similarity, parses, stopped_at_suffix

WORDS = st.text(alphabet="ab ü\n", max_size=12)
TEXTS = st.text(st.sampled_from("ab🙂 "), max_size=9)


def plain_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for number, letter in enumerate(first, start=1):
        row, before = [number], row
        for place, other in enumerate(second, start=1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (letter != other)))
    return row[-1]


@given(WORDS, WORDS)
def test_a_distance_is_levenshteins(first: str, second: str) -> None:
    assert edit_distance(first, second) == plain_distance(first, second)


@given(WORDS, WORDS)
def test_similarity_is_1_for_equal_texts_alone(first: str, second: str) -> None:
    assert 0.0 <= edit_similarity(first, second) <= 1.0
    assert (edit_similarity(first, second) == 1.0) == (first == second)


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


@pytest.mark.parametrize(
    ("completion", "suffix", "expected"),
    [
        ("self.name) + x", ") + other", "self.name"),  # as much of the suffix as there is
        ("f(a) + g(b)", "(b)\n", "f(a) + g"),
        ("f(a)", ":\n", "f(a)"),
        ("return x", "\nreturn x", "return x"),  # nothing of its line follows
        ("x)", ")", "x"),
        ("", "x", ""),
    ],
)
def test_it_stops_where_the_suffix_begins(completion: str, suffix: str, expected: str) -> None:
    assert stopped_at_suffix(completion, suffix) == expected


@pytest.mark.parametrize(
    ("program", "parsed"),
    [("x = 1\n", True), ("x = (\n", False), ("'\\d'", True), ("x\0", False), ("(" * 5000 + ")" * 5000, False)],
)
def test_parses(program: str, parsed: bool) -> None:
    assert parses(program) == parsed


def test_some_programs() -> None:
    assert parses("x = 1\n")
    assert not parses("x =\n")
    assert not parses("\0")
    assert parses('"\\d"\n'), "a doubtful escape is a warning and no error"
