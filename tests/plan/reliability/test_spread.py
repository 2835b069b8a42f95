"""Intervals from mean and deviation: normal for many failures, skewed for few, none where nothing varies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.reliability.spread import Spread
from tandem.plan.units import Interval


def test_sums_of_independent_quantities() -> None:
    assert Spread(2, 3).times(4) == Spread(8, 6)
    assert Spread(2, 3).plus(Spread(5, 4)) == Spread(7, 5)


def test_many_are_normal() -> None:
    interval = Spread(1e6, 1e3).interval()
    assert interval.low == pytest.approx(1e6 - 1_645, abs=5)
    assert interval.high == pytest.approx(1e6 + 1_645, abs=5)


@pytest.mark.parametrize("shape", [0.5, 1.0, 4.0, 50.0])
def test_few_are_a_gamma(shape: float) -> None:
    drawn = np.random.default_rng(0).gamma(shape, 1.0, 400_000)
    low, high = np.quantile(drawn, (0.05, 0.95))
    interval = Spread(shape, shape**0.5).interval()
    assert interval.low == pytest.approx(low, abs=0.02 * shape + 0.02)
    assert interval.high == pytest.approx(high, rel=0.03)


def test_nothing_varies() -> None:
    assert Spread(5, 0).interval() == Interval(5, 5, 5)


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_mean_is_inside_and_nothing_is_below_the_least(above: float, deviation: float, least: float) -> None:
    interval = Spread(least + above, deviation).interval(least=least)
    assert least <= interval.low <= interval.mid <= interval.high
