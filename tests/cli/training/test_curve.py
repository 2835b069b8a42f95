"""Curves in a terminal: the size that was asked for, and dots where the points are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.cli.training.curve import curve

POINTS = st.lists(
    st.tuples(st.floats(-1e9, 1e9), st.floats(allow_nan=True, allow_infinity=True, width=32)), max_size=40
)


@given(POINTS, POINTS, st.integers(20, 120), st.integers(3, 15), st.booleans())
def test_a_curve_keeps_to_its_room(
    line: list[tuple[float, float]], marks: list[tuple[float, float]], width: int, height: int, plain: bool
) -> None:
    drawn = curve(line, marks, width=width, height=height, plain=plain).plain
    if not any(math.isfinite(y) for _, y in [*line, *marks]):
        assert drawn == ""
        return
    rows = drawn.split("\n")
    assert len(rows) == height
    assert max(map(len, rows)) <= width
    assert not plain or drawn.isascii()


def test_a_falling_line_falls() -> None:
    points = [(float(step), 10.0 - step) for step in range(11)]
    rows = curve(points, [], width=40, height=5, plain=True).plain.split("\n")
    first = [row[10:].index("*") for row in rows]
    assert first == sorted(first)
    assert rows[0][10] == "*"
    assert rows[-1].rstrip().endswith("*")
    assert rows[0].split()[0] == "10"
    assert rows[-1].split()[0] == "0"


def test_braille_dots_are_eight_to_a_character() -> None:
    rows = curve([(0.0, 1.0), (1.0, 0.0)], [], width=30, height=3).plain.split("\n")
    assert rows[0][10] == chr(0x2800 + 0x01 + 0x08), "the line begins in the upper left corner, and is flat"


@pytest.mark.parametrize(("plain", "mark"), [(True, "o"), (False, "●")])
def test_marks_stand_over_the_line(plain: bool, mark: str) -> None:
    drawn = curve([(0.0, 1.0), (9.0, 1.0)], [(9.0, 1.0)], width=30, height=3, plain=plain).plain
    assert drawn.count(mark) == 1
    assert drawn.split("\n")[1].rstrip().endswith(mark)
