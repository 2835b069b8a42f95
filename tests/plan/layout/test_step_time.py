"""Time of a step: by hand on a bench of round numbers, and what makes it shorter."""

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster
from tandem.plan.flops import Convention
from tandem.plan.layout.job import Job, Layout
from tandem.plan.layout.memory import kept_bytes
from tandem.plan.layout.step_time import step_time, wide_of
from tests.plan.layout.jobs import CATALOGUE, SMALL, bench, h100, job
from tests.plan.layout.test_memory import layouts

JOB = Job(model=SMALL, samples=8)


def test_one_device_by_hand() -> None:
    step = step_time(JOB, Layout(), bench(devices=1))
    weights = SMALL.layer_parameters - 2 * 1024
    products_s = 6 * weights * 2048 / 0.5e15
    attention_s = 3.5 * 2 * 1024 * 2048 * 2048 / 0.25e15
    traffic_s = 9.3 * kept_bytes(SMALL, "none") * 2048 / 1e12
    logits_s = 6 * 8192 * 1024 * 2048 / 0.5e15 + 24 * 8192 * 2048 / 1e12
    stage_s = 4 * (products_s + attention_s + traffic_s + 1e-3) + logits_s
    assert step.compute_s == pytest.approx(8 * stage_s)
    assert step.tensor_s == step.pipeline_s == step.context_s == step.data_s == 0
    assert step.optimizer_s == pytest.approx(30 * SMALL.parameters / 1e12)
    assert step.tokens_per_s == pytest.approx(8 * 2048 / step.total_s)
    assert step.mfu_share == pytest.approx(SMALL.token_flop() * step.tokens_per_s / 1e15)
    assert (step.convention, step.peak_flops) == (Convention.A, 1e15)


def test_full_recomputation_is_a_fourth_pass() -> None:
    none, full = (step_time(JOB, Layout(recompute=one), bench(devices=1)) for one in ("none", "full"))
    assert full.compute_s > none.compute_s
    assert full.hfu_share == pytest.approx(full.mfu_share * 4 / 3)
    assert none.hfu_share == none.mfu_share


def test_frozen_weights_save_a_pass() -> None:
    adapter = replace(JOB, trained_parameters=1000)
    whole, small = (step_time(one, Layout(), bench(devices=1)) for one in (JOB, adapter))
    assert small.compute_s < whole.compute_s
    assert small.optimizer_s < whole.optimizer_s
    assert small.mfu_share < whole.mfu_share * 1.2, "its model FLOP are two thirds"


def test_the_bubble_is_what_the_paper_says() -> None:
    """(p - 1) / (m v) of the useful time (arXiv 2104.04473)."""
    of = Job(model=replace(SMALL, layers=16), samples=32)
    for chunks in (1, 2, 4):
        step = step_time(of, Layout(pipeline=4, chunks=chunks), bench())
        handover_s = 32 * chunks * 4 * 2048 * 1024 / 70e9
        assert step.pipeline_s - handover_s == pytest.approx(step.compute_s * 3 / (32 * chunks))


def test_stages_are_whole_layers() -> None:
    even, odd = (
        step_time(Job(model=replace(SMALL, layers=layers, vocab=64), samples=8), Layout(pipeline=4), bench()).compute_s
        for layers in (8, 7)
    )
    assert odd == pytest.approx(even, rel=1e-3), "one stage has two layers all the same"


def test_nothing_hides_tensor_parallelism() -> None:
    step = step_time(JOB, Layout(tensor=4), bench())
    sent = 2 * 3 / 4 * 2 * 2048 * 1024
    assert step.tensor_s == pytest.approx(8 * 4 * 4 * sent / 70e9)


def test_data_parallelism_hides_behind_computing_until_the_wires_are_slow() -> None:
    fast = h100(4)
    slow = replace(fast, host=msgspec.structs.replace(fast.host, between_bytes_per_s=1e9))
    near, far = (step_time(job(), Layout(data=32), cluster) for cluster in (fast, slow))
    assert near.data_s < 0.05 * near.total_s
    assert far.data_s > 0.3 * far.total_s
    assert far.compute_s == near.compute_s


def test_gradients_of_unsharded_weights_are_reduced_once() -> None:
    of = Job(model=SMALL, samples=160)
    slow = bench(hosts=4)
    slow = replace(slow, host=msgspec.structs.replace(slow.host, between_bytes_per_s=1e8))
    sharded, whole = (step_time(of, Layout(data=16, sharded=one), slow) for one in (True, False))
    assert whole.data_s < sharded.data_s, "sharded ones are gathered for each of ten micro-batches"
    assert whole.optimizer_s > sharded.optimizer_s


def test_a_ring_of_contexts_hides_behind_attention() -> None:
    long = Job(model=replace(SMALL, context=131_072), samples=1)
    ring = step_time(long, Layout(context=4), bench())
    assert 0 < ring.context_s < 0.01 * ring.total_s
    slow = replace(bench(), host=msgspec.structs.replace(bench().host, inside_bytes_per_s=1e6))
    assert step_time(long, Layout(context=4), slow).context_s > ring.context_s


def test_eight_bits_are_faster_but_not_twice() -> None:
    wide, narrow = (step_time(job(precision=one), Layout(data=8), h100()) for one in ("bf16", "fp8"))
    assert 1.1 < narrow.tokens_per_s / wide.tokens_per_s < 1.8
    assert narrow.peak_flops == 2 * wide.peak_flops
    assert narrow.mfu_share < wide.mfu_share, "of a peak twice as high"


def test_what_the_device_has_not_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no peak for fp8"):
        step_time(job(precision="fp8"), Layout(data=8), CATALOGUE.cluster("8xa100-80"))


def test_attention_is_computed_in_sixteen_bits_where_there_are_such() -> None:
    assert wide_of(CATALOGUE.accelerators["h100-80"]) == "bf16"
    assert wide_of(CATALOGUE.accelerators["v100-32"]) == "fp16"


@given(layouts, st.floats(0.2, 5))
def test_parts_add_up_and_own_runs_scale_them(layout: Layout, factor_ratio: float) -> None:
    of, cluster = job(samples=64), _cluster_of(layout)
    step = step_time(of, layout, cluster)
    parts = (step.compute_s, step.tensor_s, step.pipeline_s, step.context_s, step.data_s, step.optimizer_s)
    assert step.total_s == pytest.approx(math.fsum(parts))
    assert min(parts) >= 0
    assert 0 < step.mfu_share < 1
    scaled = step_time(of, layout, cluster, factor_ratio=factor_ratio)
    assert scaled.total_s == pytest.approx(factor_ratio * step.total_s)
    assert scaled.mfu_share == pytest.approx(step.mfu_share / factor_ratio)


@given(layouts, st.floats(1, 10))
def test_better_hardware_is_never_slower(layout: Layout, better: float) -> None:
    of, cluster = job(samples=64), _cluster_of(layout)
    device, host = cluster.accelerator, cluster.host
    before = step_time(of, layout, cluster).total_s
    for changed in (
        replace(cluster, host=msgspec.structs.replace(host, inside_bytes_per_s=host.inside_bytes_per_s * better)),
        replace(cluster, host=msgspec.structs.replace(host, between_bytes_per_s=host.between_bytes_per_s * better)),
        replace(
            cluster,
            accelerator=msgspec.structs.replace(device, memory_bytes_per_s=device.memory_bytes_per_s * better),
        ),
    ):
        # Computing that is faster hides less: what it wins is never more than lost.
        assert step_time(of, layout, changed).total_s <= before * (1 + 1e-9)


@given(layouts)
def test_less_recomputation_is_faster(layout: Layout) -> None:
    of, cluster = job(samples=64), _cluster_of(layout)
    none, selective, full = (
        step_time(of, replace(layout, recompute=one), cluster).total_s for one in ("none", "selective", "full")
    )
    assert none < selective < full


def _cluster_of(layout: Layout) -> Cluster:
    return bench(devices=layout.devices) if layout.devices < 8 else h100(layout.devices // 8)
