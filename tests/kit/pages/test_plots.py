"""Plots: every finite point has its place, axes have round values, and the SVG is well formed."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.pages.plots import Axis, Line, plot, smoothed, thinned, ticks
from tandem.kit.pages.words import short

FINITE = st.floats(-1e12, 1e12)
POINTS = st.lists(st.tuples(st.floats(0, 1e12), st.floats(allow_nan=True, allow_infinity=True)), max_size=30)


@given(POINTS, POINTS, st.booleans())
def test_any_points_make_a_picture_inside_its_frame(
    points: list[tuple[float, float]], dots: list[tuple[float, float]], log: bool
) -> None:
    drawn = plot(
        [Line(name="a < b", points=points), Line(name="", points=dots, dots=True, style="held")],
        across="tokens & more",
        title="<Loss>",
        marks=[1.0, math.inf],
        log=log,
    )
    good = [y for _, y in [*points, *dots] if abs(y) <= 1e30 and (y >= 1e-30 or not log)]
    assert bool(drawn) == bool(good)
    if drawn:
        places = [float(number) for number in re.findall(r'(?:[xy]|cx|cy)="(-?[\d.]+)"', drawn)]
        ET.fromstring(drawn)
        assert "nan" not in drawn
        assert all(-1 <= place <= 440 for place in places)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    axis = Axis(low=low, high=low + width)
    if axis.high > axis.low:
        found = ticks(axis)
        assert len(found) <= 7
        room = (axis.high - axis.low) * 1e-6 + 1e-6
        assert all(axis.low - room <= value <= axis.high + room for value in found)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis(low=0, high=10), [0, 2, 4, 6, 8, 10]),
        (Axis(low=0, high=1_000_000), [0, 200_000, 400_000, 600_000, 800_000, 1_000_000]),
        (Axis(low=0.01, high=100, log=True), [0.01, 0.1, 1, 10, 100]),
        (Axis(low=1e-12, high=1e12, log=True), [10.0**power for power in range(-12, 13, 4)]),
    ],
)
def test_ticks_are_round(axis: Axis, expected: list[float]) -> None:
    assert ticks(axis) == pytest.approx(expected)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=300), st.integers(10, 50))
def test_thinning_keeps_the_highest_the_lowest_and_the_last(points: list[tuple[float, float]], most: int) -> None:
    points = sorted(points)
    kept = thinned(points, most)
    heights = [point[1] for point in points]
    assert {min(heights), max(heights)} <= {point[1] for point in kept}
    assert kept[-1] == points[-1]
    assert len(kept) <= most + 3
    assert kept == sorted(kept)


def test_smoothing_is_a_running_mean() -> None:
    points = [(0.0, 2.0), (1.0, 4.0), (2.0, 6.0), (3.0, 8.0)]
    assert smoothed(points, window=2) == [(0.0, 2.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]
    assert smoothed(points, window=1) == points


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0"), (1234, "1.23k"), (5e6, "5M"), (0.00123, "0.00123"), (-2e9, "-2G"), (7e13, "70T")]
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert short(value) == expected
