"""Spare nodes: Poisson's quantiles from tables, OPT's twelve, and large fleets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.reliability import spare_nodes
from tandem.plan.units import DAY_S


@pytest.mark.parametrize(
    ("away", "sure", "spares"),
    # Printed tables of the cumulative Poisson distribution.
    [(1, 0.99, 4), (1, 0.9, 2), (5, 0.95, 9), (10, 0.99, 18), (0, 0.99, 0), (0.01, 0.99, 0)],
)
def test_printed_tables(away: float, sure: float, spares: int) -> None:
    assert spare_nodes(failures_per_s=away / 100, repair_s=100, sure_share=sure) == spares


def test_opt_had_twelve() -> None:
    """About two machines a day and 12 spares (metaseq): enough 99 times of 100 where one is away for three days."""
    assert spare_nodes(failures_per_s=2 / DAY_S, repair_s=3 * DAY_S) == 12


@given(st.floats(0, 1e5), st.floats(1, 1.5))
def test_more_failures_never_want_fewer(away: float, factor: float) -> None:
    few, many = (spare_nodes(failures_per_s=mean, repair_s=1) for mean in (away, away * factor))
    assert away <= many + 1
    assert few <= many


def test_a_large_number_is_near_the_normal_quantile() -> None:
    assert spare_nodes(failures_per_s=1e4, repair_s=1) == pytest.approx(1e4 + 2.326 * 100, abs=3)


def test_as_good_as_sure_is_a_number_too() -> None:
    spares = spare_nodes(failures_per_s=100, repair_s=1, sure_share=math.nextafter(1, 0))
    assert 180 < spares < 220  # 8 standard deviations and more


@pytest.mark.parametrize(("rate", "repair_s", "sure"), [(-1, 1, 0.9), (1, -1, 0.9), (1, 1, 1.0), (1e9, 1e9, 0.9)])
def test_nonsense_is_refused(rate: float, repair_s: float, sure: float) -> None:
    with pytest.raises(InvalidRequest, match="No number of spares"):
        spare_nodes(failures_per_s=rate, repair_s=repair_s, sure_share=sure)
