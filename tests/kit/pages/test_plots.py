"""Plots: every finite point has its place, axes have round values, and the SVG is well formed."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.pages.plots import Axis, Line, plot, smoothed, thinned, ticks

FINITE = st.floats(-1e12, 1e12)
POINTS = st.lists(st.tuples(st.floats(0, 1e12), st.floats(allow_nan=True, allow_infinity=True)), max_size=30)


@given(POINTS, POINTS, st.booleans(), st.booleans())
def test_any_points_make_a_picture_inside_its_frame(
    points: list[tuple[float, float]], dots: list[tuple[float, float]], log: bool, log_across: bool
) -> None:
    drawn = plot(
        [Line(name="a < b", points=points), Line(name="", points=dots, dots=True, style="held")],
        across="tokens & more",
        title="<Loss>",
        marks=[1.0, math.inf],
        log=log,
        log_across=log_across,
    )
    good = [
        y for x, y in [*points, *dots] if abs(y) <= 1e30 and (y >= 1e-30 or not log) and (x >= 1e-30 or not log_across)
    ]
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


def test_the_last_word_below_an_axis_stays_inside_the_frame() -> None:
    drawn = plot([Line(name="", points=[(1e12, 1.0), (1.01e15, 2.0)])], across="FLOP", title="Loss", log_across=True)
    ((place, told),) = re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor="middle">(1e\+15)</text>', drawn)
    assert float(place) + 3.3 * len(told) <= 440


def test_smoothing_is_a_running_mean() -> None:
    points = [(0.0, 2.0), (1.0, 4.0), (2.0, 6.0), (3.0, 8.0)]
    assert smoothed(points, window=2) == [(0.0, 2.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]
    assert smoothed(points, window=1) == points


def places(drawn: str, kind: str) -> list[float]:
    """Where a plot has its dots: `cx` across, `cy` down."""
    return [float(number) for number in re.findall(rf'{kind}="(-?[\d.]+)"', drawn)]


def test_powers_of_ten_are_equally_far_across() -> None:
    points = [(10.0**power, 1.0 + power) for power in range(-2, 5)]
    drawn = plot([Line(name="", points=points, dots=True)], across="x", title="t", log_across=True)
    across = places(drawn, "cx")
    steps = [right - left for left, right in pairwise(across)]
    assert steps == pytest.approx([steps[0]] * 6, abs=0.11)  # rounded to a tenth of a pixel
    assert (across[0], across[-1]) == (52.0, 428.0), "the whole width is used"
    for label in ("0.01", "1", "100", "10k"):
        assert f">{label}</text>" in drawn


def test_across_alone_goes_by_powers() -> None:
    points = [(1.0, 0.0), (10.0, 5.0), (100.0, 10.0)]
    drawn = plot([Line(name="", points=points, dots=True)], across="x", title="t", log_across=True)
    down = places(drawn, "cy")
    assert down[0] - down[1] == pytest.approx(down[1] - down[2], abs=0.11), "the values go evenly"


def test_places_that_are_not_positive_have_none_by_powers() -> None:
    points = [(-1.0, 1.0), (0.0, 2.0), (1.0, 3.0), (10.0, 4.0)]
    drawn = plot([Line(name="", points=points, dots=True)], across="x", title="t", marks=[-1.0, 3.0], log_across=True)
    assert len(places(drawn, "cx")) == 2
    assert drawn.count('class="mark"') == 1
    assert plot([Line(name="", points=points[:2])], across="x", title="t", log_across=True) == ""


def test_a_single_place_by_powers_stands_in_the_middle() -> None:
    drawn = plot([Line(name="", points=[(1e20, 2.0)])], across="FLOP", title="t", log_across=True)
    assert places(drawn, "cx") == [240.0]
