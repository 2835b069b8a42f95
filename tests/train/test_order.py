"""The order of samples: permutations, shares of ranks, steps across epochs, and randomness by its place."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.train.order import Order, generator

seeds = st.integers(0, 2**63 - 1)
sizes = st.integers(1, 300)
batches = st.integers(8, 50)
unhurried = settings(deadline=None, max_examples=40)


def run_of(order: Order, *, batch: int, first: int, count: int) -> list[int]:
    """The samples at positions [first, first + count) of a run, read step by step."""
    steps = range(first // batch, (first + count - 1) // batch + 1)
    ids = np.concatenate([order.sample_ids(step) for step in steps])
    skip = first - steps[0] * batch
    return [int(one) for one in ids[skip : skip + count]]


@unhurried
@given(seed=seeds, size=sizes, batch=batches, epoch=st.integers(0, 2**20))
def test_each_epoch_holds_each_sample_once(seed: int, size: int, batch: int, epoch: int) -> None:
    ids = run_of(Order(seed, size, batch), batch=batch, first=epoch * size, count=size)
    assert sorted(ids) == list(range(size))


@unhurried
@given(seed=seeds, size=sizes, batches=st.tuples(batches, batches), position=st.integers(0, 2**40))
def test_how_a_run_is_cut_into_steps_changes_nothing(
    seed: int, size: int, batches: tuple[int, int], position: int
) -> None:
    """Steps that straddle epochs included: positions decide, not steps."""
    one, other = (
        run_of(Order(seed, size, batch), batch=batch, first=position, count=2 * size + 3) for batch in batches
    )
    assert one == other


@unhurried
@given(seed=seeds, size=sizes, batch=st.integers(1, 50), step=st.integers(0, 2**30))
def test_a_step_has_no_past(seed: int, size: int, batch: int, step: int) -> None:
    order = Order(seed, size, batch)
    order.sample_ids(step + 1)
    ids = order.sample_ids(step)
    assert ids.dtype == np.int64
    assert ids.shape == (batch,)
    np.testing.assert_array_equal(ids, Order(seed, size, batch).sample_ids(step))


@pytest.mark.parametrize("world", [1, 2, 3])
@unhurried
@given(seed=seeds, size=sizes, share=st.integers(1, 20), step=st.integers(0, 2**30))
def test_ranks_share_the_same_samples(world: int, seed: int, size: int, share: int, step: int) -> None:
    batch = 6 * share
    ids = Order(seed, size, batch).sample_ids(step)
    by_rank = [Order(seed, size, batch).sample_ids(step)[rank::world] for rank in range(world)]
    assert {len(part) for part in by_rank} == {batch // world}
    together = np.empty_like(ids)
    for rank, part in enumerate(by_rank):
        together[rank::world] = part
    np.testing.assert_array_equal(together, ids)


def test_all_orders_of_a_small_epoch_are_about_equally_likely() -> None:
    epochs = 2400
    ids = run_of(Order(7, 4, 4), batch=4, first=0, count=4 * epochs)
    seen = Counter(tuple(ids[4 * epoch : 4 * epoch + 4]) for epoch in range(epochs))
    assert set(seen) == set(permutations(range(4)))
    expected = epochs / 24
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 49.7  # chi squared, 23 df, p = 0.001


def test_neighbours_are_torn_apart() -> None:
    size = 10_000
    ids = np.asarray(run_of(Order(1, size, 100), batch=100, first=0, count=size))
    assert abs(np.corrcoef(np.arange(size), ids)[0, 1]) < 0.04  # 4 standard deviations of a random order
    assert abs(np.corrcoef(ids[1:], ids[:-1])[0, 1]) < 0.04
    fixed = int((ids == np.arange(size)).sum())
    assert fixed < 8, "a random order leaves about one sample in place"


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    size = 1000
    orders = [Order(seed, size, size).sample_ids(epoch) for seed in (0, 1, 2**63 - 1) for epoch in range(4)]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).sum() < 12, "two random orders agree in about one place"


def test_what_the_order_is_stays_as_it_is() -> None:
    """Another order is another model of the same recipe."""
    assert Order(0, 10, 12).sample_ids(0).tolist() == [1, 3, 5, 9, 4, 2, 6, 7, 8, 0, 2, 0]
    assert generator(0, "example", 3).integers(0, 1000, 5).tolist() == [377, 429, 96, 531, 717]


@unhurried
@given(seed=seeds, counter=st.integers(0, 2**64 - 1))
def test_randomness_depends_on_its_place_alone(seed: int, counter: int) -> None:
    numbers = generator(seed, "example", counter).random(8)
    np.testing.assert_array_equal(numbers, generator(seed, "example", counter).random(8))
    others = (
        generator(seed, "example", (counter + 1) % 2**64),
        generator(seed, "init", counter),
        generator(seed ^ 1, "example", counter),
    )
    for other in others:
        assert not set(numbers) & set(other.random(64)), "streams do not overlap"
