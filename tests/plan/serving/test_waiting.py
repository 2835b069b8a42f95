"""Erlang's formulas against printed tables, their sums written out, and a simulated queue."""

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.serving import erlang_b, erlang_c, waiting_s


@pytest.mark.parametrize(
    ("places", "load", "lost"),
    # Printed tables of Erlang B give the load for a share lost of 0.01, 0.02 and 0.1.
    [(1, 0.0101, 0.01), (10, 4.461, 0.01), (20, 12.03, 0.01), (100, 84.06, 0.01), (10, 5.084, 0.02), (5, 2.881, 0.1)],
)
def test_printed_tables(places: int, load: float, lost: float) -> None:
    assert erlang_b(places, load) == pytest.approx(lost, rel=0.005)


@given(st.integers(1, 150), st.floats(0.01, 200))
def test_the_sum_written_out(places: int, load: float) -> None:
    logs = [k * math.log(load) - math.lgamma(k + 1) for k in range(places + 1)]
    most = max(logs)
    expected = math.exp(logs[-1] - most) / sum(math.exp(one - most) for one in logs)
    assert erlang_b(places, load) == pytest.approx(expected, rel=1e-8, abs=1e-17)


def test_one_place_waits_as_often_as_it_is_busy() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(3, 3.0) == 1.0
    assert erlang_c(3, 0.0) == 0.0


@given(st.integers(1, 10**6), st.floats(0.001, 0.999))
def test_more_places_wait_less_and_more_load_waits_more(places: int, busy: float) -> None:
    load = places * busy
    assert erlang_c(places + 1, load) <= erlang_c(places, load) * (1 + 1e-9) + 1e-17
    assert erlang_c(places, load * 0.9) <= erlang_c(places, load) * (1 + 1e-9) + 1e-17


def test_a_wait_that_few_exceed() -> None:
    assert waiting_s(1, 1.0, stay_s=1.0, late_share=0.05) == math.inf
    assert waiting_s(100, 10.0, stay_s=1.0, late_share=0.05) == 0.0
    # M/M/1: P(wait > t) = busy exp(-(1 - busy) t / stay).
    waited_s = waiting_s(1, 0.5, stay_s=2.0, late_share=0.05)
    assert 0.5 * math.exp(-0.5 * waited_s / 2.0) == pytest.approx(0.05)


def test_against_a_simulated_queue() -> None:
    places, stay_s, rate_per_s, late = 8, 4.0, 1.6, 0.1
    draw = np.random.default_rng(7)
    arrivals = np.cumsum(draw.exponential(1 / rate_per_s, size=200_000))
    stays = draw.exponential(stay_s, size=arrivals.size)
    free = [0.0] * places
    waits = []
    for arrival, stay in zip(arrivals, stays, strict=True):
        start = max(arrival, heapq.heappop(free))
        waits.append(start - arrival)
        heapq.heappush(free, start + stay)
    load = rate_per_s * stay_s
    assert np.mean(np.array(waits) > 0) == pytest.approx(erlang_c(places, load), rel=0.05)
    assert np.quantile(waits, 1 - late) == pytest.approx(
        waiting_s(places, load, stay_s=stay_s, late_share=late), rel=0.1
    )
