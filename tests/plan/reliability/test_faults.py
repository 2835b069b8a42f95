"""Mean times: of nodes, of small jobs that die of other causes, of a cluster's rows; nonsense is refused."""

import math
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan import parse_catalogue
from tandem.plan.reliability import Faults
from tandem.plan.units import HOUR_S


def test_a_small_job_is_not_told_a_mean_time_of_hardware_alone() -> None:
    """Measured 7.9 h at 1,024 GPUs, where the nodes alone would give 28.8 h (arXiv 2410.21680)."""
    faults = Faults(nodes=128, failures_per_1000_node_days=6.5)
    assert faults.hardware_mean_s / HOUR_S == pytest.approx(28.8, abs=0.05)
    assert faults.mean_s / HOUR_S == pytest.approx(7.9)
    assert "floor" in faults.step.formula
    assert "28.8" in faults.step.value


def test_a_large_job_has_the_rate_of_its_nodes() -> None:
    faults = Faults(nodes=2048, failures_per_1000_node_days=6.5)
    assert faults.mean_s == faults.hardware_mean_s
    assert "1 / (nodes x rate)" in faults.step.formula


def test_a_measured_rate_has_no_floor() -> None:
    assert Faults(nodes=124, failures_per_1000_node_days=16, measured=True).mean_s / HOUR_S == pytest.approx(
        12.1, abs=0.01
    )
    assert Faults(nodes=1, failures_per_1000_node_days=0, measured=True).mean_s == math.inf
    assert Faults(nodes=1, failures_per_1000_node_days=0).mean_s == 128 * 7.9 * HOUR_S


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.floats(0, 20))
def test_more_nodes_never_live_longer(nodes: int, more: int, rate: float) -> None:
    few = Faults(nodes=nodes, failures_per_1000_node_days=rate)
    many = Faults(nodes=nodes + more, failures_per_1000_node_days=rate)
    assert many.mean_s <= few.mean_s


def test_of_a_clusters_rows() -> None:
    known = parse_catalogue((files("tandem.plan") / "catalogue.toml").read_text(), where="catalogue.toml")
    cluster = known.cluster("h100-cloud", hosts=300)
    faults = Faults.of(cluster, checkpoint_s=12)
    assert (faults.nodes, faults.checkpoint_s) == (300, 12)
    assert faults.failures_per_1000_node_days == cluster.failures_per_1000_node_days
    assert faults.restart_s == cluster.restart_s


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodes", 0),
        ("nodes", 10**9),
        ("checkpoint_s", 0.0),
        ("checkpoint_s", math.nan),
        ("restart_s", -1.0),
        ("repair_s", math.inf),
        ("failures_per_1000_node_days", -4.0),
    ],
)
def test_nonsense_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Faults(**({"nodes": 8} | {field: value}))
    assert refused.value.param == field
