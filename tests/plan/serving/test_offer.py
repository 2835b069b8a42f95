"""Serving plans: costs add up, the cheapest spread wins, growth says when, and refusals name the nearest that works."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan import Catalogue
from tandem.plan.serving import Latency, Service, ServingPlan, Traffic, serving_plan, serving_text
from tandem.plan.serving.capacity import keeps, rate_of
from tests.plan.serving.models import LLAMA_3_8B, LLAMA_3_70B, LLAMA_3_405B, catalogue, cluster

TRAFFIC = {"requests_per_s": 200.0, "prompt_tokens": 1000.0, "answer_tokens": 300.0}


def service(**changes: Any) -> Service:
    traffic = Traffic(**(TRAFFIC | changes.pop("traffic", {})))
    return Service(**({"model": LLAMA_3_8B, "traffic": traffic} | changes))


def plan(**changes: Any) -> ServingPlan:
    return serving_plan(service(**changes), cluster())


def test_the_promises_are_kept_with_the_spare_hosts_failed_and_not_with_one_host_fewer() -> None:
    for spare in (0, 1, 3):
        asked, found = service(spare_hosts=spare), plan(spare_hosts=spare)
        per_host = 8 // found.pace.replica.tensor
        left = (found.cluster.hosts - spare) * per_host
        assert keeps(asked, found.pace, left, 400.0)
        assert not keeps(asked, found.pace, left - per_host, 400.0)
        assert found.needed_replicas <= left < found.replicas or spare == 0
        assert found.first_token_s <= asked.latency.first_token_s
        assert found.pace.token_s <= asked.latency.token_s


def test_costs_add_up_to_the_price_of_the_hosts() -> None:
    found = plan()
    hour = 3600.0
    usd_per_hour = (
        found.prompt_usd_per_million_tokens * 200 * 1000 * hour / 1e6
        + found.answer_usd_per_million_tokens * 200 * 300 * hour / 1e6
    )
    assert usd_per_hour == pytest.approx(found.cluster.hosts * 24.0)
    assert found.month_usd == pytest.approx(found.cluster.hosts * 24.0 * 365.25 * 24 / 12)
    full_per_s = found.full_tokens_per_s / 300
    full = (
        found.full_prompt_usd_per_million_tokens * full_per_s * 1000 * hour / 1e6
        + found.full_answer_usd_per_million_tokens * full_per_s * 300 * hour / 1e6
    )
    assert full == pytest.approx(found.cluster.hosts * 24.0)
    assert found.answer_tokens_per_s == 60_000.0
    assert found.full_tokens_per_s >= 2 * found.answer_tokens_per_s, "the busiest hour has twice the mean"


def test_the_cheapest_spread_wins_and_the_others_say_why_not() -> None:
    found = plan(model=LLAMA_3_70B)
    answered = [other for other in found.others if other.hosts]
    assert all(other.hosts >= found.cluster.hosts for other in answered)
    assert {other.tensor for other in found.others} | {found.pace.replica.tensor} == {1, 2, 4, 8}
    [lost] = [other for other in found.others if not other.hosts]
    assert (lost.tensor, lost.stages) == (1, 1)
    assert "do not fit" in lost.why or "are asked for" in lost.why


def test_a_model_that_is_larger_than_a_host() -> None:
    found = plan(model=LLAMA_3_405B, traffic={"requests_per_s": 1.0}, latency=Latency(token_s=0.2, first_token_s=5.0))
    assert found.pace.replica.stages >= 2
    assert found.cluster.hosts % found.pace.replica.stages == 0
    with pytest.raises(InvalidRequest, match="do not fit 8 x h100-80") as caught:
        serving_plan(service(model=LLAMA_3_405B), cluster(hosts=1))
    assert "fewer bits" in caught.value.remedy
    assert serving_plan(
        service(model=LLAMA_3_405B, weights="fp8", traffic={"requests_per_s": 0.2}, spare_hosts=0), cluster(hosts=1)
    )


def test_fewer_bits_cost_less() -> None:
    costs = {weights: plan(weights=weights).full_answer_usd_per_million_tokens for weights in ("f32", "bf16", "fp8")}
    assert costs["fp8"] < costs["bf16"] < costs["f32"]


def test_when_to_add_a_machine() -> None:
    asked, found = service(traffic={"growth_share": 0.1}), plan(traffic={"growth_share": 0.1})
    assert found.enough_months is not None
    left = (found.cluster.hosts - 1) * (8 // found.pace.replica.tensor)
    most_per_s = rate_of(asked, found.pace, left)
    assert 400 * 1.1**found.enough_months == pytest.approx(most_per_s)
    assert [need.month for need in found.growth] == list(range(13))
    assert found.growth[0].hosts == found.cluster.hosts
    for need in found.growth:
        assert need.peak_per_s == pytest.approx(400 * 1.1**need.month)
        assert (need.hosts > found.cluster.hosts) == (need.month > found.enough_months)
        assert need.month_usd == pytest.approx(need.hosts * 24.0 * 365.25 * 24 / 12)


def test_nothing_grows() -> None:
    assert plan().enough_months is None
    assert "nothing grows" in serving_text(plan())
    assert plan(traffic={"growth_share": -0.2}).growth[-1].hosts <= plan().cluster.hosts


def test_growth_past_the_system_is_said() -> None:
    few = serving_plan(service(traffic={"growth_share": 0.5}), cluster(hosts=10))
    assert len(few.growth) < 13
    assert any(f"In {len(few.growth)} months h100-cloud has too few hosts" in said for said in few.derivation.warnings)


def test_too_few_hosts_names_the_nearest_that_works() -> None:
    with pytest.raises(InvalidRequest, match=r"need (\d+) hosts, 1 of them spare; h100-cloud has 2") as caught:
        serving_plan(service(), cluster(hosts=2))
    peak_per_s = float(caught.value.remedy.split("a peak of ")[1].split()[0])
    assert serving_plan(service(traffic={"requests_per_s": peak_per_s * 0.99 / 2}), cluster(hosts=2))
    with pytest.raises(InvalidRequest, match="has 1") as caught:
        serving_plan(service(), cluster(hosts=1))
    assert "spare fewer" in caught.value.remedy


def test_nonsense_months() -> None:
    with pytest.raises(InvalidRequest, match="-1 months"):
        serving_plan(service(), cluster(), months=-1)


def test_the_answer_names_what_it_rests_on() -> None:
    told = plan(factor_ratio=1.2).derivation
    assert any("price 8xh100-nanochat" in row for row in told.rows)
    assert any("Erlang C" in word for word in told.conventions)
    assert any("multiplied by 1.2" in word for word in told.conventions)
    assert any("85.0 %" in word for word in told.conventions)
    assert not any("multiplied" in word for word in plan().derivation.conventions)
    assert {step.what for step in told.steps} >= {"memory of a replica", "a step of decoding", "replicas"}
    text = serving_text(plan())
    assert "x 8xh100 hold" in text
    assert "a million tokens of prompts" in text


def test_without_a_price_costs_are_nothing_and_that_is_said() -> None:
    rows = catalogue()
    free = Catalogue(accelerators=rows.accelerators, hosts=rows.hosts, prices={}, systems=rows.systems)
    found = serving_plan(service(), free.cluster("h100-cloud"))
    assert found.month_usd == found.answer_usd_per_million_tokens == 0
    assert any("No price of 8xh100" in said for said in found.derivation.warnings)


def test_an_answer_is_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(plan()))["replicas"] == plan().replicas


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.01, 2000),
    st.floats(1.0, 3.0),
    st.floats(1.0, 2.0),
    st.sampled_from([1.0, 1.5]),
)
def test_more_traffic_and_slower_machines_never_need_less(
    requests_per_s: float, peak_ratio: float, more: float, factor_ratio: float
) -> None:
    base = {"requests_per_s": requests_per_s, "peak_ratio": peak_ratio}
    few = plan(traffic=base)
    many = plan(traffic=base | {"requests_per_s": requests_per_s * more}, factor_ratio=factor_ratio)
    assert many.cluster.hosts >= few.cluster.hosts
    assert many.month_usd >= few.month_usd
    assert math.isfinite(few.first_token_s)
