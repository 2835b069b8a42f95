"""What is said of layouts: memory with its parts, and the reason why one is slower."""

import pytest

from tandem.plan.layout.job import Layout
from tandem.plan.layout.memory import Memory
from tandem.plan.layout.step_time import step_time
from tandem.plan.layout.words import memory_words, slower_words
from tests.plan.layout.jobs import h100, job

GIB = 2**30


def test_memory_in_words() -> None:
    memory = Memory(
        weights_bytes=GIB,
        gradients_bytes=2 * GIB,
        optimizer_bytes=3 * GIB,
        activations_bytes=4.5 * GIB,
        logits_bytes=0,
        reserve_bytes=GIB,
        device_bytes=80 * GIB,
    )
    assert memory_words(memory) == (
        "11.5 of 80.0 GiB: weights 1.0, gradients 2.0, optimizer 3.0, activations 4.5, reserve 1.0"
    )


BEST = Layout(data=8)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(data=1, tensor=8), "tensor parallelism over 8 devices takes"),
        (Layout(data=1, pipeline=8), "the bubble of 8 stages takes"),
        (Layout(data=8, recompute="full"), "memory asks for full recomputation"),
        (Layout(data=2, context=4), "attention goes round a ring of 4 devices"),
        (Layout(data=8, sharded=False), "the optimizer takes"),
    ],
)
def test_the_reason_is_the_part_that_grew(layout: Layout, reason: str) -> None:
    of = job(samples=16)
    best, step = (step_time(of, one, h100()) for one in (BEST, layout))
    words = slower_words(layout, step, best_layout=BEST, best=best)
    assert words.startswith(f"{100 * (step.total_s / best.total_s - 1):.1f} % slower: {reason}")
    assert words.endswith(".")


def test_equals_differ_by_memory_only() -> None:
    step = step_time(job(), BEST, h100())
    assert slower_words(BEST, step, best_layout=BEST, best=step) == "0.0 % slower: as fast, with more memory."
