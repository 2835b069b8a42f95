"""Memory of a device: by hand for a small model, and what makes it smaller."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.layout.job import RECOMPUTES, Job, Layout
from tandem.plan.layout.memory import kept_bytes, memory_of, stage_parameters
from tests.plan.layout.jobs import SMALL, bench, h100, job

JOB = Job(model=SMALL, samples=8)
# 12 h + 4 k + 6 f for h = 1024, k = 512, f = 3072.
KEPT = 12 * 1024 + 4 * 512 + 6 * 3072


def test_what_a_layer_keeps() -> None:
    assert kept_bytes(SMALL, "none") == KEPT
    assert kept_bytes(SMALL, "selective") == 8 * 1024 + 2 * 512 + 2 * 3072
    assert kept_bytes(SMALL, "full") == 2 * 1024


def test_gpt_keeps_as_much_as_its_paper_counts() -> None:
    """34 h a token of a GPT less dropout's masks (2 h), with f = 8 h / 3 for 4 h and k = h (arXiv 2205.05198)."""
    gpt = replace(SMALL, heads=8, kv_heads=8, width=3072, ffn=8192)
    assert kept_bytes(gpt, "none") == 32 * 3072


def test_one_device_by_hand() -> None:
    memory = memory_of(JOB, Layout(sharded=False), bench(devices=1))
    weights = SMALL.parameters
    assert memory.weights_bytes == 2 * weights
    assert memory.gradients_bytes == 4 * weights
    assert memory.optimizer_bytes == 12 * weights, "the weights in float32 and two moments"
    assert memory.activations_bytes == 2048 * 4 * KEPT
    assert memory.logits_bytes == 2048 * 8192 * 10
    assert memory.reserve_bytes == 2 * 2**30 + 0.05 * 10**12
    parts = (
        memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes,
        memory.activations_bytes + memory.logits_bytes + memory.reserve_bytes,
    )
    assert memory.total_bytes == pytest.approx(sum(parts))
    assert memory.fits
    assert not memory_of(JOB, Layout(sharded=False), bench(devices=1, memory_bytes=10**9)).fits


def test_float32_needs_no_copy() -> None:
    memory = memory_of(replace(JOB, precision="fp32"), Layout(sharded=False), bench(devices=1))
    states = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
    assert states == 16 * SMALL.parameters


def test_full_recomputation_keeps_inputs_and_one_layer() -> None:
    memory = memory_of(JOB, Layout(recompute="full"), bench(devices=1))
    assert memory.activations_bytes == 2048 * (4 * 2 * 1024 + KEPT - 2 * 1024)


def test_sharding_divides_all_but_the_layers_that_are_gathered() -> None:
    model = job().model
    memory = memory_of(job(), Layout(data=8), h100())
    gathered = max(2 * model.layer_parameters, model.embedding_parameters)
    assert memory.optimizer_bytes == pytest.approx(12 * model.parameters / 8)
    assert memory.weights_bytes == pytest.approx(2 * gathered)
    assert memory.gradients_bytes == pytest.approx(4 * model.parameters / 8 + 4 * gathered)


def test_between_stages_weights_stay_gathered() -> None:
    layout = Layout(data=4, tensor=2, pipeline=2)
    held = stage_parameters(SMALL, layout)
    assert held == (2 * SMALL.layer_parameters + SMALL.embedding_parameters) / 2
    memory = memory_of(Job(model=SMALL, samples=8), layout, bench(hosts=4))
    assert (memory.weights_bytes, memory.gradients_bytes) == (2 * held, 4 * held)
    assert memory.optimizer_bytes == 12 * held / 4


def test_the_first_stage_keeps_a_micro_batch_for_every_stage() -> None:
    model = replace(SMALL, layers=8)
    four = memory_of(Job(model=model, samples=64), Layout(pipeline=4), bench())
    assert four.activations_bytes == 2048 * 2 * KEPT * 4
    assert four.logits_bytes == 0, "they are at the other end"
    interleaved = memory_of(Job(model=model, samples=64), Layout(pipeline=4, chunks=2), bench())
    assert interleaved.activations_bytes == 2048 * 2 * KEPT * (4 + 3 / 2)
    two = memory_of(Job(model=replace(model, vocab=64), samples=2), Layout(pipeline=4), bench())
    assert two.activations_bytes == 2048 * 2 * KEPT * 2, "there are no more"


def test_the_last_stage_may_be_the_fullest() -> None:
    model = replace(SMALL, vocab=200_000)
    memory = memory_of(Job(model=model, samples=64), Layout(pipeline=2), bench(devices=2))
    assert memory.logits_bytes == 2048 * 200_000 * 10
    assert memory.activations_bytes == 2048 * 2 * KEPT, "of one micro-batch"


def test_an_adapter_has_small_gradients_and_no_second_copy() -> None:
    adapter = Job(model=SMALL, samples=8, trained_parameters=SMALL.parameters // 100)
    whole, small = (memory_of(one, Layout(sharded=False), bench(devices=1)) for one in (JOB, adapter))
    assert small.weights_bytes == whole.weights_bytes
    assert small.optimizer_bytes == pytest.approx(whole.optimizer_bytes / 100, rel=0.01)
    sharded = memory_of(adapter, Layout(data=4), bench())
    assert sharded.weights_bytes > 2 * SMALL.parameters / 4, "frozen weights are sharded as they are computed with"


layouts = st.builds(
    Layout,
    data=st.sampled_from([1, 2, 4]),
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 4]),
    context=st.sampled_from([1, 2]),
    sharded=st.booleans(),
    micro_samples=st.sampled_from([1, 2]),
    recompute=st.sampled_from(RECOMPUTES),
)


@given(layouts)
def test_what_makes_memory_smaller(layout: Layout) -> None:
    of = job(samples=64)
    cluster = h100(layout.devices // 8 or 1)

    def total(changed: Layout) -> float:
        return memory_of(of, changed, cluster).total_bytes

    assert total(replace(layout, recompute="full")) <= total(replace(layout, recompute="selective"))
    assert total(replace(layout, recompute="selective")) < total(replace(layout, recompute="none"))
    assert total(replace(layout, micro_samples=layout.micro_samples * 2)) > total(layout)
    assert total(replace(layout, context=layout.context * 2)) < total(layout)
    assert total(replace(layout, sharded=True, data=8)) <= total(replace(layout, sharded=False, data=8))
