"""Capacity: promises are kept by what is planned and broken by less, and hosts may fail."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.serving import Engine, Latency, Replica, Service, Traffic
from tandem.plan.serving.capacity import (
    first_token_s,
    hosts_for,
    keeps,
    left_of,
    pace_of,
    paced,
    rate_of,
    replicas_for,
    replicas_of,
    replicas_to_try,
)
from tests.plan.serving.models import LLAMA_3_8B, LLAMA_3_70B, LLAMA_3_405B, cluster


def service(**changes: Any) -> Service:
    traffic = Traffic(requests_per_s=20.0, prompt_tokens=1000.0, answer_tokens=300.0)
    return Service(**({"model": LLAMA_3_8B, "traffic": traffic} | changes))


ONE = Replica(model=LLAMA_3_8B, cluster=cluster())


def test_a_pace_by_hand() -> None:
    """A request sees 300 steps, and the prompts of the ten that share the replica."""
    pace = pace_of(service(), ONE, 10)
    assert pace.stay_s == pytest.approx(300 * ONE.step_s(10, read_tokens=1150) + 10 * ONE.prompt_busy_s(1000))
    assert pace.token_s == pytest.approx(pace.stay_s / 300)
    assert pace.requests_per_s == pytest.approx(10 / pace.stay_s)


def test_the_largest_batch_that_keeps_the_promise() -> None:
    tight = service(latency=Latency(token_s=0.02))
    pace, _ = paced(tight, ONE, peak_per_s=40.0)
    assert pace.batch < ONE.engine.largest_batch
    assert pace.token_s <= 0.02 < pace_of(tight, ONE, pace.batch + 1).token_s


def test_a_smaller_batch_where_the_first_token_is_in_haste() -> None:
    """With long prompts and a full batch the first token is late however many replicas there are."""
    traffic = Traffic(requests_per_s=5.0, prompt_tokens=4000.0, answer_tokens=2000.0)
    alone_s = ONE.prompt_s(4000.0)
    hasty = service(traffic=traffic, latency=Latency(first_token_s=alone_s + 0.015, token_s=1.0))
    pace, replicas = paced(hasty, ONE, peak_per_s=10.0)
    full = pace_of(hasty, ONE, ONE.batch_limit(6000.0))
    with pytest.raises(InvalidRequest, match="even on an idle replica"):
        replicas_for(hasty, full, 10.0)
    assert pace.batch < full.batch
    assert keeps(hasty, pace, replicas, 10.0)


@settings(max_examples=50)
@given(st.floats(0.1, 5000), st.sampled_from([64, 256]))
def test_the_fewest_replicas(peak_per_s: float, largest: int) -> None:
    asked = service(engine=Engine(largest_batch=largest))
    pace = pace_of(asked, ONE, largest)
    replicas = replicas_for(asked, pace, peak_per_s)
    assert keeps(asked, pace, replicas, peak_per_s)
    assert replicas == 1 or not keeps(asked, pace, replicas - 1, peak_per_s)
    assert replicas * pace.requests_per_s > peak_per_s, "no promise is kept above what can be answered"
    assert replicas_for(asked, pace, peak_per_s * 1.5) >= replicas


def test_a_rate_and_its_replicas_are_each_others_inverse() -> None:
    pace = pace_of(service(), ONE, 64)
    for replicas in (1, 3, 50):
        most_per_s = rate_of(service(), pace, replicas)
        assert replicas_for(service(), pace, most_per_s * 0.999) == replicas
        assert replicas_for(service(), pace, most_per_s * 1.001) == replicas + 1
    assert rate_of(service(), pace, 0) == 0.0


def test_the_first_token_waits_longer_with_less_room() -> None:
    pace = pace_of(service(), ONE, 64)
    waits = [
        first_token_s(pace, 2, share * 2 * pace.requests_per_s, met_share=0.95) for share in (0.1, 0.8, 0.99, 0.999)
    ]
    assert waits == sorted(waits)
    assert waits[0] >= pace.prompt_s + pace.step_s
    assert first_token_s(pace, 2, 2 * pace.requests_per_s, met_share=0.95) == float("inf")
    stricter = first_token_s(pace, 2, 1.9 * pace.requests_per_s, met_share=0.99)
    assert stricter > first_token_s(pace, 2, 1.9 * pace.requests_per_s, met_share=0.9)


def test_hosts_and_what_is_left_of_them() -> None:
    whole = Replica(model=LLAMA_3_70B, cluster=cluster(), tensor=4)
    assert hosts_for(cluster(), whole, 5, spare_hosts=0) == 3
    assert hosts_for(cluster(), whole, 5, spare_hosts=1) == 4
    assert left_of(cluster(), whole, 4, spare_hosts=1) == 6
    assert left_of(cluster(), whole, 1, spare_hosts=2) == 0
    assert replicas_of(cluster(), whole, 4) == 8
    wide = Replica(model=LLAMA_3_405B, cluster=cluster(), tensor=8, stages=2)
    assert hosts_for(cluster(), wide, 5, spare_hosts=1) == 12, "a failed host ends the replica that it is a part of"
    assert left_of(cluster(), wide, 12, spare_hosts=1) == 5
    assert replicas_of(cluster(), wide, 13) == 6


@given(st.integers(1, 500), st.integers(0, 5), st.sampled_from([(1, 1), (4, 1), (8, 1), (8, 2), (8, 3)]))
def test_what_is_left_is_what_was_needed(replicas: int, spare_hosts: int, spread: tuple[int, int]) -> None:
    one = Replica(model=LLAMA_3_405B, cluster=cluster(), tensor=spread[0], stages=spread[1])
    hosts = hosts_for(cluster(), one, replicas, spare_hosts=spare_hosts)
    assert left_of(cluster(), one, hosts, spare_hosts=spare_hosts) >= replicas
    assert left_of(cluster(), one, hosts - 1, spare_hosts=spare_hosts) < replicas


def test_ways_to_spread_a_copy() -> None:
    small = list(replicas_to_try(service(), cluster()))
    assert [(one.tensor, one.stages) for one in small] == [(1, 1), (2, 1), (4, 1), (8, 1)]
    large = list(replicas_to_try(service(model=LLAMA_3_405B), cluster()))
    assert [(one.tensor, one.stages) for one in large[4:]] == [(8, 2)], "2 hosts hold it with a full batch"
    long = Traffic(requests_per_s=20.0, prompt_tokens=8000.0, answer_tokens=300.0)
    deeper = list(replicas_to_try(service(model=LLAMA_3_405B, traffic=long), cluster()))
    assert [(one.tensor, one.stages) for one in deeper[4:]] == [(8, 2), (8, 3), (8, 4)], "as many as a full batch needs"
    assert [one.stages for one in replicas_to_try(service(model=LLAMA_3_405B), cluster(hosts=1))] == [1] * 4


@pytest.mark.parametrize(
    ("changes", "peak_per_s", "said"),
    [
        ({"model": LLAMA_3_70B}, 1.0, "do not fit 1 x h100-80"),
        ({"latency": Latency(token_s=1e-3)}, 1.0, "even for one request at a time"),
        ({"latency": Latency(first_token_s=1e-3)}, 1.0, "even on an idle replica"),
        ({}, 1e9, "more than 1,000,000 replicas"),
    ],
)
def test_what_cannot_be_kept(changes: dict[str, Any], peak_per_s: float, said: str) -> None:
    asked = service(**changes)
    with pytest.raises(InvalidRequest, match=said) as caught:
        paced(asked, Replica(model=asked.model, cluster=cluster()), peak_per_s=peak_per_s)
    assert caught.value.remedy


def test_what_no_service_is() -> None:
    with pytest.raises(InvalidRequest, match="longer than the model's context of 131072"):
        service(traffic=Traffic(requests_per_s=1.0, prompt_tokens=131_000.0, answer_tokens=100.0))
    with pytest.raises(InvalidRequest, match="-1 hosts cannot fail"):
        service(spare_hosts=-1)
