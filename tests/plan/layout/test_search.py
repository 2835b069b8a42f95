"""The layouts that are looked at: all divide, none twice, and few enough for any number of devices."""

from collections import Counter
from dataclasses import replace

import pytest

from tandem.plan.layout.job import Layout, check_layout
from tandem.plan.layout.memory import memory_of
from tandem.plan.layout.search import spreads, variants
from tests.plan.layout.jobs import bench, h100, job


@pytest.mark.parametrize(("parameters", "hosts"), [(8e9, 1), (70e9, 12), (405e9, 250)])
def test_all_that_is_looked_at_can_be(parameters: float, hosts: int) -> None:
    cluster = h100(hosts)
    of = job(parameters, samples=cluster.devices)
    found = [one.layout for spread in spreads(of, cluster) for one in variants(of, spread, cluster)]
    assert found
    for layout in found:
        check_layout(of, layout, cluster)
    assert max(Counter(found).values()) == 1


def test_tensor_parallelism_stays_in_a_host_unless_asked() -> None:
    of, cluster = job(405e9, samples=64), h100(8)
    assert {layout.tensor for layout in spreads(of, cluster)} == {1, 2, 4, 8}
    wide = {layout.tensor for layout in spreads(of, cluster, tensor_across_hosts=True)}
    assert wide == {1, 2, 4, 8, 16, 32, 64}


def test_short_contexts_are_not_cut() -> None:
    assert {layout.context for layout in spreads(job(context=2048), h100())} == {1}
    assert {layout.context for layout in spreads(job(context=8192), h100())} == {1, 2, 4}


def test_as_little_is_recomputed_as_memory_asks() -> None:
    of, cluster = job(samples=64), h100()
    for spread in spreads(of, cluster):
        for one in variants(of, spread, cluster):
            assert one.memory == memory_of(of, one.layout, cluster)
            less = {"none": None, "selective": "none", "full": "selective"}[one.layout.recompute]
            if less:
                assert not memory_of(of, replace(one.layout, recompute=less), cluster).fits


def test_a_batch_that_cannot_be_dealt_has_no_variants() -> None:
    assert not list(variants(job(samples=9), Layout(data=8), h100()))


def test_interleaved_stages_take_their_rounds() -> None:
    of = job(samples=12)
    found = [one.layout for one in variants(of, Layout(data=1, pipeline=8), h100())]
    assert all(layout.chunks == 1 for layout in found), "12 micro-batches are no rounds of 8"


def test_a_machine_of_one_device() -> None:
    of = job(1e7, samples=8, context=512)
    found = [one.layout for spread in spreads(of, bench(devices=1)) for one in variants(of, spread, bench(devices=1))]
    assert [(layout.micro_samples, layout.sharded) for layout in found] == [
        (1, False),
        (2, False),
        (4, False),
        (8, False),
    ]
