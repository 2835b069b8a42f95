"""What the wires carry for each group, by where it stands."""

import pytest

from tandem.plan.layout.collectives import wires_of
from tandem.plan.layout.job import Layout
from tests.plan.layout.jobs import bench

# The bench has 100 GB/s inside and 10 GB/s to other hosts, of which collectives reach 70 %.
INSIDE, BETWEEN = 70e9, 7e9


def test_within_a_host_all_is_fast() -> None:
    wires = wires_of(Layout(data=2, tensor=2), bench())
    assert wires.tensor_bytes_per_s == wires.data_bytes_per_s == wires.stage_bytes_per_s == pytest.approx(INSIDE)
    assert wires.data_latency_s == wires.hop_s


def test_a_ring_through_hosts_uses_the_ports_of_all_its_members() -> None:
    assert wires_of(Layout(data=8), bench(hosts=2)).data_bytes_per_s == pytest.approx(4 * BETWEEN)
    assert wires_of(Layout(data=2, tensor=4), bench(hosts=2)).data_bytes_per_s == pytest.approx(BETWEEN)
    wide = bench(devices=16, hosts=2)
    assert wires_of(Layout(data=32), wide).data_bytes_per_s == pytest.approx(INSIDE), "at most what is inside"


def test_what_leaves_a_host_is_slow() -> None:
    across = wires_of(Layout(tensor=8), bench(hosts=2))
    assert across.tensor_bytes_per_s == pytest.approx(BETWEEN)
    ring = wires_of(Layout(tensor=2, context=4), bench(hosts=2))
    assert (ring.tensor_bytes_per_s, ring.context_bytes_per_s) == (pytest.approx(INSIDE), pytest.approx(BETWEEN))
    assert wires_of(Layout(tensor=4, pipeline=2), bench(hosts=2)).stage_bytes_per_s == pytest.approx(BETWEEN)


def test_latency_grows_with_the_hosts_of_a_ring() -> None:
    near, far = (wires_of(Layout(data=4 * hosts), bench(hosts=hosts)) for hosts in (1, 100))
    assert far.data_latency_s == pytest.approx(100 * near.data_latency_s)
