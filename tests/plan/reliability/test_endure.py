"""Endurance in closed form: published runs, Daly's equation, bounds that must hold, and refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.reliability import Endurance, Faults, endure
from tandem.plan.reliability.formulas import best_interval_s, expected_wall_s
from tandem.plan.units import DAY_S

USEFUL = st.floats(60, 100 * DAY_S)
FAULTS = st.builds(
    Faults,
    nodes=st.integers(1, 4_000),
    failures_per_1000_node_days=st.floats(0, 10),
    restart_s=st.floats(0, 3_000),
    checkpoint_s=st.floats(0.1, 300),
)


def test_llama_3_405b() -> None:
    """419 unexpected interruptions in 54 days on 2,048 nodes, over 90 % effective (arXiv 2407.21783)."""
    faults = Faults(nodes=2048, failures_per_1000_node_days=3.788, restart_s=600, checkpoint_s=5)
    # So much useful time as fits 54 days.
    found = endure(49.65 * DAY_S, faults)
    assert found.wall_s.mid / DAY_S == pytest.approx(54, abs=0.2)
    assert found.interruptions.low < 419 < found.interruptions.high
    assert found.interruptions.mid == pytest.approx(419, rel=0.01)
    assert found.goodput_share.low > 0.90
    assert {"arXiv 2410.21680", "Daly 2006, equation 13"} <= {step.source for step in found.derivation.steps}


def test_a_long_job_has_dalys_mean_and_the_best_interval() -> None:
    faults = Faults(nodes=1500, failures_per_1000_node_days=4, restart_s=900, checkpoint_s=60)
    found = endure(90 * DAY_S, faults)
    assert found.interval_s == pytest.approx(best_interval_s(checkpoint_s=60, mean_s=faults.mean_s), rel=0.01)
    daly_s = expected_wall_s(
        useful_s=90 * DAY_S, checkpoint_s=60, mean_s=faults.mean_s, restart_s=900, interval_s=found.interval_s
    )
    assert found.wall_s.mid == pytest.approx(daly_s, rel=1e-9)


@given(USEFUL, FAULTS)
def test_the_parts_add_up(useful_s: float, faults: Faults) -> None:
    found = endure(useful_s, faults)
    assert useful_s + found.lost_s == pytest.approx(found.wall_s.mid, rel=1e-9)
    # Failures come at a constant rate, so that their mean number is the mean wall time by the mean time between them.
    assert found.interruptions.mid == pytest.approx(found.wall_s.mid / faults.mean_s, rel=1e-6)
    assert found.goodput_share.mid == pytest.approx(useful_s / found.wall_s.mid)
    assert found.wall_s.low >= useful_s
    assert 0 < found.interval_s <= useful_s


@given(USEFUL, FAULTS, st.floats(1, 1.5), st.sampled_from(["failures_per_1000_node_days", "restart_s", "checkpoint_s"]))
def test_more_trouble_never_finishes_sooner(useful_s: float, faults: Faults, factor: float, field: str) -> None:
    worse = Faults(**(_fields(faults) | {field: getattr(faults, field) * factor}))
    assert _wall_s(useful_s, worse) >= endure(useful_s, faults).wall_s.mid * (1 - 1e-12)


@given(USEFUL, FAULTS, st.floats(1, 3), st.integers(0, 1_000))
def test_more_work_or_nodes_never_finish_sooner(useful_s: float, faults: Faults, factor: float, nodes: int) -> None:
    wall_s = endure(useful_s, faults).wall_s.mid
    assert endure(useful_s * factor, faults).wall_s.mid >= wall_s * (1 - 1e-12)
    assert _wall_s(useful_s, Faults(**(_fields(faults) | {"nodes": faults.nodes + nodes}))) >= wall_s * (1 - 1e-12)


@given(USEFUL, FAULTS, st.floats(0.05, 20))
def test_no_named_interval_beats_the_best(useful_s: float, faults: Faults, factor: float) -> None:
    best = endure(useful_s, faults)
    try:
        named = endure(useful_s, faults, interval_s=best.interval_s * factor)
    except InvalidRequest:
        return
    # A last stretch that is shorter than the others can be no better than equal ones.
    assert named.wall_s.mid >= best.wall_s.mid * (1 - 1e-9)


def test_a_named_interval_leaves_a_rest() -> None:
    faults = Faults(nodes=1, failures_per_1000_node_days=0, checkpoint_s=10, measured=True)
    found = endure(250, faults, interval_s=100)
    assert found.wall_s.mid == 280  # saves after 100, 200 and 250
    assert endure(300, faults, interval_s=100).wall_s.mid == 330
    assert endure(30, faults, interval_s=100).wall_s.mid == 40
    assert (found.interruptions.high, found.spare_nodes) == (0, 0)


def test_a_job_that_never_finishes_is_refused_with_what_would_help() -> None:
    faults = Faults(nodes=12_500, failures_per_1000_node_days=6, restart_s=4 * 3_600, checkpoint_s=60)
    with pytest.raises(InvalidRequest, match="never finishes") as refused:
        endure(DAY_S, faults)
    assert "fewer nodes" in refused.value.remedy
    with pytest.raises(InvalidRequest, match="Save each"):
        endure(30 * DAY_S, Faults(nodes=12_500, restart_s=60), interval_s=10 * DAY_S)


@pytest.mark.parametrize(("useful_s", "interval_s"), [(0.0, None), (-1.0, None), (float("nan"), 5.0), (9.0, 0.0)])
def test_nonsense_is_refused(useful_s: float, interval_s: float | None) -> None:
    with pytest.raises(InvalidRequest, match="no job takes"):
        endure(useful_s, Faults(nodes=1), interval_s=interval_s)


def test_a_small_job_is_told_of_its_floor() -> None:
    assert any("other causes" in word for word in endure(DAY_S, Faults(nodes=4)).derivation.warnings)
    assert not endure(DAY_S, Faults(nodes=4_000)).derivation.warnings


def _wall_s(useful_s: float, faults: Faults) -> float:
    """A job that is refused takes for ever."""
    try:
        found: Endurance = endure(useful_s, faults)
    except InvalidRequest:
        return float("inf")
    return found.wall_s.mid


def _fields(faults: Faults) -> dict[str, float]:
    return {name: getattr(faults, name) for name in Faults.__dataclass_fields__}
