"""The simulation of jobs agrees with the closed form: means, spreads and parts, over all kinds of jobs."""

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan.reliability import Faults, endure, monte_carlo
from tandem.plan.units import DAY_S, Interval

JOBS = {
    "few failures": (DAY_S, Faults(nodes=16, restart_s=900, checkpoint_s=30), 3_000.0),
    "some failures": (3 * DAY_S, Faults(nodes=124, failures_per_1000_node_days=16, checkpoint_s=120), None),
    "Llama 3": (50 * DAY_S, Faults(nodes=2048, failures_per_1000_node_days=3.79, checkpoint_s=3), None),
    "restarts that fail too": (2 * DAY_S, Faults(nodes=12_500, restart_s=900), None),
    "saves too rare": (2 * DAY_S, Faults(nodes=12_500, restart_s=300), 3_000.0),
    "a rest": (10_000.0, Faults(nodes=2048, failures_per_1000_node_days=16, checkpoint_s=10), 3_500.0),
}


@pytest.mark.parametrize("job", JOBS)
def test_it_agrees_with_the_closed_form(job: str) -> None:
    useful_s, faults, interval_s = JOBS[job]
    exact = endure(useful_s, faults, interval_s=interval_s)
    found = monte_carlo(useful_s, faults, interval_s=interval_s, runs=20_000, seed=1)
    assert found.interval_s == exact.interval_s
    assert found.spare_nodes == exact.spare_nodes
    # Four standard errors of 20,000 runs, from the width of the interval.
    error_s = 4 * (exact.wall_s.high - exact.wall_s.low) / 3.29 / 20_000**0.5
    assert found.wall_s.mid == pytest.approx(exact.wall_s.mid, abs=error_s)
    assert found.interruptions.mid == pytest.approx(exact.interruptions.mid, rel=0.02)
    assert found.repeated_s == pytest.approx(exact.repeated_s, rel=0.05)
    assert found.restarting_s == pytest.approx(exact.restarting_s, rel=0.03)
    for sampled, closed, whole in (
        (found.wall_s, exact.wall_s, 0.0),
        (found.interruptions, exact.interruptions, 1.0),  # a sampled count is whole
    ):
        assert _ends(sampled) == pytest.approx(_ends(closed), abs=0.06 * (closed.high - closed.low) + whole)


def test_equal_seeds_equal_numbers() -> None:
    useful_s, faults, _ = JOBS["some failures"]
    assert monte_carlo(useful_s, faults, seed=3) == monte_carlo(useful_s, faults, seed=3)
    assert monte_carlo(useful_s, faults, seed=3).wall_s != monte_carlo(useful_s, faults, seed=4).wall_s
    assert "seed 3" in monte_carlo(useful_s, faults, seed=3).method


def test_without_failures_all_runs_are_equal() -> None:
    faults = Faults(nodes=8, failures_per_1000_node_days=0, checkpoint_s=10, measured=True)
    assert monte_carlo(250, faults, interval_s=100, runs=50).wall_s == Interval(280, 280, 280)


def test_too_much_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="too much to simulate"):
        monte_carlo(DAY_S, Faults(nodes=8), runs=10**7)
    with pytest.raises(InvalidRequest, match="closed form"):
        monte_carlo(20_000 * DAY_S, Faults(nodes=10_000, failures_per_1000_node_days=5, restart_s=0, checkpoint_s=1))
    with pytest.raises(InvalidRequest, match="saves each are too much to simulate"):
        monte_carlo(54 * DAY_S, Faults(nodes=8, checkpoint_s=1e-30))


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
