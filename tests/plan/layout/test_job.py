"""Jobs and layouts: what they hold, and refusals with the nearest that works."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.layout.job import Job, Layout, check_layout, divisors, nearest_divisor, splits_heads
from tests.plan.layout.jobs import SMALL, h100, job


def test_a_job_knows_its_tokens_and_what_it_trains() -> None:
    whole = Job(model=SMALL, samples=3)
    assert (whole.tokens, whole.trained, whole.frozen) == (3 * 2048, SMALL.parameters, False)
    adapter = Job(model=SMALL, samples=3, trained_parameters=1000)
    assert (adapter.trained, adapter.frozen) == (1000, True)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": -2}, {"samples": 1, "trained_parameters": 0}])
def test_a_job_without_work_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="1 or more"):
        Job(model=SMALL, **wrong)


@pytest.mark.parametrize("name", ["data", "tensor", "pipeline", "context", "micro_samples", "chunks"])
def test_a_layout_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} = 0"):
        Layout(**{name: 0})


def test_a_step_is_dealt_to_groups() -> None:
    layout = Layout(data=4, tensor=2, pipeline=3, context=2, micro_samples=2)
    assert layout.devices == 48
    assert layout.micro_batches(Job(model=SMALL, samples=64)) == 8
    assert layout.micro_tokens(Job(model=SMALL, samples=64)) == 2048, "two sequences, each on two devices"


def test_a_layout_in_words() -> None:
    assert Layout().words == "data 1 (sharded), 1 sequence at once, no recomputation"
    layout = Layout(data=8, tensor=4, pipeline=2, context=2, sharded=False, micro_samples=3, recompute="full", chunks=5)
    assert layout.words == (
        "data 8 x tensor 4 x context 2 x pipeline 2 (5 chunks), 3 sequences at once, full recomputation"
    )


def test_what_can_be_is_let_through() -> None:
    check_layout(job(), Layout(data=8), h100())
    check_layout(job(), Layout(data=2, tensor=8, pipeline=2), h100(4))
    check_layout(job(405e9), Layout(tensor=16), h100(2), tensor_across_hosts=True)


@pytest.mark.parametrize(
    ("layout", "hosts", "what", "remedy"),
    [
        (Layout(data=7), 1, "takes 7 devices, 8xh100 has 8", "data = 8 uses 8"),
        (Layout(data=1, tensor=8, pipeline=3), 2, "takes 24 devices, 8xh100 has 16", "one of the three smaller"),
        (Layout(data=1, tensor=16), 2, "over 16 devices does not fit a host of 8", "Use 8"),
        (Layout(data=1, tensor=3), 1, "32 heads of queries and 8 of keys cannot be split over 3", "tensor = 2"),
        (Layout(data=1, tensor=8, pipeline=64), 64, "64 stages of 1 chunks need as many layers", "at most 32 stages"),
        (Layout(data=1, pipeline=8, chunks=5), 1, "8 stages of 5 chunks", "at most 6 stages"),
        (Layout(data=8, context=3), 3, "8192 tokens cannot be split over 3", "Use 2"),
        (Layout(data=8, micro_samples=3), 1, "64 sequences cannot be dealt to 8 groups of devices, 3", "72"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(
    layout: Layout, hosts: int, what: str, remedy: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_layout(job(), layout, h100(hosts))
    assert what in refused.value.message
    assert remedy in refused.value.remedy


def test_seven_devices_with_tensor_parallelism_over_eight() -> None:
    from tests.plan.layout.jobs import bench

    with pytest.raises(InvalidRequest, match="over 8 devices does not fit a host of 7. Use 7"):
        check_layout(job(), Layout(tensor=8), bench(devices=7))


def test_heads_are_not_cut() -> None:
    assert [size for size in range(1, 40) if splits_heads(job().model, size)] == [1, 2, 4, 8, 16, 32]


@given(st.integers(1, 10**6))
def test_divisors(number: int) -> None:
    found = divisors(number)
    assert found == sorted(set(found))
    assert all(number % one == 0 for one in found)
    assert (found[0], found[-1]) == (1, number)
    assert len(found) == prod(power + 1 for power in _powers(number))


@given(st.integers(1, 10**4), st.integers(1, 10**4))
def test_the_nearest_divisor(number: int, wanted: int) -> None:
    found = nearest_divisor(number, wanted)
    assert number % found == 0
    assert all(abs(found - wanted) <= abs(one - wanted) for one in divisors(number))


def _powers(number: int) -> list[int]:
    """How often each prime factor divides a number."""
    found, factor = [], 2
    while number > 1:
        power = 0
        while number % factor == 0:
            number, power = number // factor, power + 1
        found += [power] * bool(power)
        factor += 1
    return found
