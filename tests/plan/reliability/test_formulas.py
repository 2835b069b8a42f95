"""The formulas against the examples of their sources, against each other, and against the exact optimum."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.reliability.formulas import (
    availability_optimal_s,
    best_interval_s,
    daly_s,
    effective_time_share,
    expected_wall_s,
    mean_time_s,
    with_recovery_s,
    workshop_interval_s,
    young_s,
)
from tandem.plan.units import DAY_S, HOUR_S
from tests.plan.published import table

PUBLISHED = {(row["what"], int(row["devices"])): row for row in table("interruptions")}


@pytest.mark.parametrize("devices", [16_384, 131_072])
def test_hpca_projections(devices: int) -> None:
    row = PUBLISHED["projected mean time between failures", devices]
    rate = float(row["failures_per_1000_node_days"])
    hours = mean_time_s(nodes=int(row["nodes"]), failures_per_1000_node_days=rate) / HOUR_S
    assert hours == pytest.approx(float(row["value"]), abs=0.005)  # printed to two digits


def test_llama_3_is_interrupted_each_3_hours() -> None:
    mean_s = mean_time_s(nodes=2048, failures_per_1000_node_days=3.788)
    assert 54 * DAY_S / mean_s == pytest.approx(419, abs=0.5)
    assert mean_s / HOUR_S == pytest.approx(3.09, abs=0.01)


def test_the_example_of_young_with_recovery() -> None:
    """changlan.org: M 6,000 s, R 600 s, C 10 s, steps of 15 s give 24 steps."""
    assert with_recovery_s(checkpoint_s=10, mean_s=6_000, restart_s=600) / 15 == pytest.approx(24.22, abs=0.01)
    assert young_s(checkpoint_s=10, mean_s=6_000) / 15 == pytest.approx(23.1, abs=0.01)


def test_the_workshop_keeps_youngs_interval_in_bounds() -> None:
    assert workshop_interval_s(checkpoint_s=10, mean_s=6_000) == young_s(checkpoint_s=10, mean_s=6_000)
    assert workshop_interval_s(checkpoint_s=0.01, mean_s=600) == 30
    assert workshop_interval_s(checkpoint_s=60, mean_s=30 * DAY_S) == 1_800


def test_no_failures_no_mean_time() -> None:
    assert mean_time_s(nodes=8, failures_per_1000_node_days=0) == math.inf
    assert best_interval_s(checkpoint_s=1, mean_s=math.inf) == math.inf
    assert expected_wall_s(useful_s=100, checkpoint_s=1, mean_s=math.inf, restart_s=9, interval_s=8) == 112.5


def test_what_is_beyond_numbers_is_infinite() -> None:
    assert expected_wall_s(useful_s=1, checkpoint_s=1, mean_s=1e-3, restart_s=1, interval_s=1) == math.inf


@given(st.floats(0.01, 1e3), st.floats(1, 1e7), st.floats(0, 1e4))
def test_the_best_interval_is_the_best(checkpoint_s: float, mean_s: float, restart_s: float) -> None:
    best = best_interval_s(checkpoint_s=checkpoint_s, mean_s=mean_s)

    def wall(interval_s: float) -> float:
        return expected_wall_s(
            useful_s=1, checkpoint_s=checkpoint_s, mean_s=mean_s, restart_s=restart_s, interval_s=interval_s
        )

    tried = [best * factor for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0)]
    tried += [young_s(checkpoint_s=checkpoint_s, mean_s=mean_s), mean_s]
    assert all(wall(best) <= wall(interval_s) * (1 + 1e-9) for interval_s in tried)


@pytest.mark.parametrize("checkpoint_s", [5e-324, 1e-300, 1e-40, 1e-30, 1e-20, 1e-17, 1e-12, 1e-6])
def test_saves_that_cost_next_to_nothing_follow_young(checkpoint_s: float) -> None:
    young = young_s(checkpoint_s=checkpoint_s, mean_s=5_000)
    assert best_interval_s(checkpoint_s=checkpoint_s, mean_s=5_000) == pytest.approx(young, rel=1e-4)


@given(st.floats(0.01, 0.49))
def test_daly_is_near_the_best_and_nearer_than_young(cost_ratio: float) -> None:
    best = best_interval_s(checkpoint_s=cost_ratio, mean_s=1)
    daly, young = daly_s(checkpoint_s=cost_ratio, mean_s=1), young_s(checkpoint_s=cost_ratio, mean_s=1)
    assert abs(daly - best) < abs(young - best)
    assert daly == pytest.approx(best, rel=0.006)
    assert daly_s(checkpoint_s=2.5, mean_s=1) == 1


def test_the_availability_interval_includes_the_save_and_is_young_for_short_saves() -> None:
    interval_s = availability_optimal_s(checkpoint_s=1e-3, mean_s=1e6, restart_s=1)
    assert interval_s == pytest.approx(young_s(checkpoint_s=1e-3, mean_s=1e6), rel=1e-4)
    # By hand: 10 + sqrt(2 (5,000 + 600) 10 + 100).
    assert availability_optimal_s(checkpoint_s=10, mean_s=5_000, restart_s=600) == pytest.approx(344.81, abs=0.01)


def test_the_effective_time_ratio_is_the_exact_one_while_failures_are_rare() -> None:
    told = {"checkpoint_s": 20.0, "mean_s": 30 * HOUR_S, "restart_s": 600.0, "interval_s": 1_200.0}
    exact = 1 / expected_wall_s(useful_s=1, **told)
    assert effective_time_share(**told) == pytest.approx(exact, abs=5e-4)
    # By hand: (1 - (600 + 600) / 108,000) / (1 + 20 / 1,200).
    assert effective_time_share(**told) == pytest.approx(0.97268, abs=1e-5)
