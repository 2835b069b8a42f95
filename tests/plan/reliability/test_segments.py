"""One stretch under failures against simulated ones, and against sums that are known."""

import math

import numpy as np
import pytest

from tandem.plan.reliability.segments import Stretch, stretch
from tandem.plan.reliability.spread import Spread


def test_against_simulated_stretches() -> None:
    """A walk failure by failure: mean, deviation and counts of 50,000 stretches as long as the mean time."""
    generator = np.random.default_rng(7)
    walls, counts = np.array([_walk(generator, length_s=100, restart_s=40, mean_s=100) for _ in range(50_000)]).T
    found = stretch(length_s=100, restart_s=40, mean_s=100)
    assert found.wall.mean == pytest.approx(walls.mean(), rel=0.02)
    assert found.wall.deviation == pytest.approx(walls.std(), rel=0.03)
    assert found.interruptions.mean == pytest.approx(counts.mean(), rel=0.02)
    assert found.interruptions.deviation == pytest.approx(counts.std(), rel=0.03)
    assert 100 + found.repeated_s + found.restarting_s == pytest.approx(found.wall.mean)


@pytest.mark.parametrize("mean_s", [1e2, 1e4, 1e5, 1e7, 1e10])
def test_dalys_mean_at_all_scales(mean_s: float) -> None:
    daly_s = mean_s * math.exp(30 / mean_s) * math.expm1(100 / mean_s)
    assert stretch(length_s=100, restart_s=30, mean_s=mean_s).wall.mean == pytest.approx(daly_s, rel=1e-9)


def test_without_failures() -> None:
    sure = stretch(length_s=100, restart_s=30, mean_s=math.inf)
    assert sure == Stretch(wall=Spread(100), interruptions=Spread(0))
    assert sure.times(3).plus(sure).wall == Spread(400)


def _walk(generator: np.random.Generator, *, length_s: float, restart_s: float, mean_s: float) -> tuple[float, int]:
    wall_s, wanted_s, count = 0.0, length_s, 0
    while True:
        gap_s = generator.exponential(mean_s)
        if gap_s >= wanted_s:
            return wall_s + wanted_s, count
        wall_s, wanted_s, count = wall_s + gap_s, restart_s + length_s, count + 1
