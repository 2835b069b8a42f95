"""Fleets of a cluster's rows and of other sizes; nonsense is refused."""

import math
from typing import Any

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan.simulation import Fleet
from tests.plan.published import catalogue


def test_of_a_cluster() -> None:
    cluster = catalogue().cluster("h100-cloud", hosts=64)
    fleet = Fleet.of(cluster, parameters=70_000_000_000)
    assert (fleet.devices, fleet.nodes, fleet.replica_devices, fleet.replicas) == (512, 64, 512, 1)
    assert fleet.failures_per_1000_node_days == cluster.failures_per_1000_node_days
    assert fleet.node_bytes_per_s == cluster.host.storage_bytes_per_s
    assert fleet.checkpoint_bytes == pytest.approx(0.98e12)


def test_of_another_size() -> None:
    fleet = Fleet(devices=8_192)
    assert fleet.of_devices(16_384).replicas == 16
    assert fleet.of_devices(100).replica_devices == 100
    assert fleet.of_devices(100).nodes == 13


@pytest.mark.parametrize(
    "fields",
    [
        {"devices": 0},
        {"devices": 10**8},
        {"devices_per_node": 0},
        {"replica_devices": 9_000},
        {"span_s": 0.0},
        {"span_s": math.nan},
        {"slow_share": 1.0},
        {"parameters": 0},
        {"failures_per_1000_node_days": -1.0},
        {"planned_per_1000_node_days": math.nan},
        {"node_bytes_per_s": 0.0},
        {"repair_s": -1.0},
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Fleet(**({"devices": 8_192} | fields))
    assert refused.value.remedy
