"""Answers that weigh money: systems side by side, a second tranche, and where the money stands."""

from typing import Any

import pytest

from tandem.flows.planning import Ground, SystemsAsk, answer_funding, answer_systems
from tandem.flows.planning.asks import FundingAsk
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.plan.funding import Claim, Cost, Tariff, Tranche, Used
from tandem.plan.systems import Rules
from tests.plan.published import catalogue

GROUND = Ground(catalogue=catalogue(), allowed=("h100-cloud",), factors={})
TWO = ("8xh100", "8xa100-80")
LAB = Claim(party="lab", invested_micro_usd=100 * 10**6, cap_ratio=2.0)
TARIFF = Tariff(deployment="*", prompt_usd_per_million_tokens=1.0, answer_usd_per_million_tokens=2.0)


def test_systems_are_compared_as_they_were_named() -> None:
    answer = answer_systems(SystemsAsk(systems=TWO, devices=8, span_s=3600.0), GROUND, rules=Rules())
    assert {offer.system for offer in answer.choice.offers} == set(TWO)
    assert answer.choice.recommended == "8xh100"
    assert answer.more is None


def test_the_charter_has_the_last_word() -> None:
    ask = SystemsAsk(systems=TWO, devices=8, span_s=3600.0)
    answer = answer_systems(ask, GROUND, rules=Rules(train=("*a100*",)))
    assert answer.choice.recommended == "8xa100-80"
    assert [offer.allowed for offer in answer.choice.offers] == [True, False]


def test_who_names_no_systems_sees_those_of_the_catalogue() -> None:
    answer = answer_systems(SystemsAsk(devices=8, span_s=600.0), GROUND, rules=Rules())
    assert {offer.system for offer in answer.choice.offers} == set(GROUND.catalogue.systems)


def test_more_money_buys_a_lower_loss() -> None:
    ask = SystemsAsk(systems=TWO, budget_usd=100.0, more_usd=400.0)
    answer = answer_systems(ask, GROUND, rules=Rules())
    assert answer.more is not None
    assert answer.more.gained_nats > 0
    assert answer.more.first == answer.choice.best


@pytest.mark.parametrize(
    ("said", "problem", "param"),
    [
        ({"system": "8xh100"}, "Give `systems`", "systems"),
        ({"hosts": 2}, "Give `systems`", "systems"),
        ({"price": "8xh100-spot"}, "Give `systems`", "systems"),
        ({"more_usd": 5.0}, "comes on top of a budget", "more_usd"),
        ({"systems": ("8xh100", "8xh100")}, "each once", "system"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(said: dict[str, Any], problem: str, param: str) -> None:
    ask = SystemsAsk(**{"devices": 8, "span_s": 600.0, "systems": TWO, **said})
    with pytest.raises(InvalidRequest, match=problem) as caught:
        answer_systems(ask, GROUND, rules=Rules())
    assert caught.value.param == param


def test_an_unknown_system_is_named() -> None:
    with pytest.raises(NotFound, match="'moon'"):
        answer_systems(SystemsAsk(systems=("moon",), devices=8, span_s=600.0), GROUND, rules=Rules())


def funded(month: str = "2027-02", **said: Any) -> Any:
    spent = (Cost(stage="train", month="2027-01", amount_usd=30.0), Cost(stage="train", month="2027-03", amount_usd=9))
    used = tuple(
        Used(month=one, deployment="coder", prompt_tokens=10**7, completion_tokens=10**7, cached_tokens=0)
        for one in ("2027-01", "2027-03")
    )
    return answer_funding(FundingAsk(**said), month=month, spent=spent, used=used, claims=(LAB,))


def test_what_is_known_here_stands_beside_what_is_said() -> None:
    paid = Tranche(name="first", amount_usd=100.0, month="2027-01", paid=True)
    rent = Cost(stage="rent", month="2027-02", amount_usd=20.0)
    view = funded(tranches=(paid,), spent=(rent,), tariffs=(TARIFF,))
    assert view.month == "2027-02"
    assert view.paid_micro_usd == 100 * 10**6
    assert view.spent_micro_usd == 50 * 10**6, "what the runs cost so far and the rent; nothing of March"
    assert view.earned_micro_usd == 30 * 10**6, "ten million of each, in January alone"
    later = funded("2027-03", tranches=(paid,), spent=(rent,), tariffs=(TARIFF,))
    assert (later.spent_micro_usd, later.earned_micro_usd) == (59 * 10**6, 60 * 10**6)


def test_what_a_party_got_back_is_no_longer_due() -> None:
    (fresh,), (part,) = (funded(returned_usd=returned).distribution.parts for returned in ({}, {"lab": 150.0}))
    assert fresh.left_micro_usd == 200 * 10**6
    assert part.left_micro_usd == 50 * 10**6


def test_a_party_without_a_claim_got_nothing_back() -> None:
    with pytest.raises(InvalidRequest, match="zoe got money back, but has no claim.*name lab") as caught:
        funded(returned_usd={"zoe": 1.0})
    assert caught.value.param == "returned_usd"
    with pytest.raises(InvalidRequest, match="name nobody"):
        answer_funding(FundingAsk(returned_usd={"zoe": 1.0}), month="2027-02", spent=(), used=(), claims=())
