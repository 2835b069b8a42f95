"""Several systems side by side: the best that may have it is recommended with reasons, and what more money buys."""

from dataclasses import replace
from importlib.resources import files

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan import Cluster, Interval, parse_catalogue
from tandem.plan.quote import Ask
from tandem.plan.systems import MoreMoney, Rules, SystemChoice, compare_systems, second_tranche
from tandem.plan.workshop import Factor

ROWS = """
[prices.dear]
host = "8xa100-80"
usd_per_hour = 20
[systems.old]
host = "8xa100-80"
hosts = 8
price = "dear"
[systems.new]
host = "8xh100"
hosts = 8
[systems.spot]
host = "8xh100"
hosts = 8
price = "8xh100-spot"
[systems.flaky]
host = "8xh100"
hosts = 8
failures_per_1000_node_days = 500
restart_s = 10_000
"""


def clusters(*names: str) -> list[Cluster]:
    packaged = (files("tandem.plan") / "catalogue.toml").read_text(encoding="utf-8")
    catalogue = parse_catalogue(ROWS, where="here", over=parse_catalogue(packaged, where="the package"))
    return [catalogue.cluster(name) for name in names]


def chosen(ask: Ask, *names: str, rules: Rules | None = None) -> SystemChoice:
    return compare_systems(ask, clusters(*names), rules=rules)


MONEY = Ask(budget_usd=5000.0)
DEVICES = Ask(devices=32, span_s=86_400.0)


def test_money_goes_where_it_buys_the_lowest_loss() -> None:
    found = chosen(MONEY, "old", "new")
    assert found.recommended == "new"
    assert [offer.system for offer in found.offers] == ["new", "old"]
    best, other = (offer.quote for offer in found.offers)
    assert best is found.best is not None
    assert other is not None
    assert best.loss_nats.mid < other.loss_nats.mid
    assert "lowest loss" in found.why
    assert "nats more" in found.offers[1].why
    assert found.derivation.conventions, "the quote's own derivation follows"
    assert "system old" in found.derivation.rows


def test_the_same_loss_is_told_apart_by_cost() -> None:
    found = chosen(DEVICES, "new", "spot")
    assert found.recommended == "spot"
    assert "the same loss, as long" in found.offers[1].why
    assert any("taken away" in risk for risk in found.offers[0].risks)
    assert not any("taken away" in risk for risk in found.offers[1].risks)


def test_a_loss_is_reached_where_it_costs_least() -> None:
    found = chosen(Ask(target_loss_nats=2.6), "old", "new", "spot")
    assert [offer.system for offer in found.offers] == ["spot", "new", "old"]
    costs = [offer.quote.cost_usd.mid for offer in found.offers if offer.quote]
    assert costs == sorted(costs)
    assert "costs least" in found.why


def test_an_unknown_price_is_not_the_lowest() -> None:
    new, spot = clusters("new", "spot")
    found = compare_systems(DEVICES, [replace(spot, price=None), new])
    assert found.recommended == "new"
    assert "No price is known." in found.offers[1].risks
    assert found.offers[1].why == "the same loss, as long, at a price that is not known"
    dear = compare_systems(MONEY, [replace(spot, price=None), new])
    assert dear.recommended == "new"
    assert dear.offers[1].quote is None, "money buys nothing that has no price"


def test_failures_are_a_risk_and_cost_loss() -> None:
    found = chosen(DEVICES, "flaky", "new")
    assert found.recommended == "new"
    assert any("are lost to saves, failures and restarts" in risk for risk in found.offers[1].risks)
    assert not any("are lost to" in risk for risk in found.offers[0].risks)


def test_what_the_charter_does_not_allow_is_shown_and_not_recommended() -> None:
    found = chosen(DEVICES, "old", "new", rules=Rules(train=("ol*",)))
    assert found.recommended == "old"
    lost = found.offers[1]
    assert (lost.system, lost.allowed) == ("new", False)
    assert lost.quote is not None
    assert lost.why.startswith("the charter lets models be trained on ol*; 0.")
    assert any(said.startswith("new would be better, but the charter") for said in found.derivation.warnings)
    worse = chosen(DEVICES, "old", "new", rules=Rules(train=("new",)))
    assert worse.recommended == "new"
    assert not any("would be better" in said for said in worse.derivation.warnings)


def test_a_run_that_is_too_dear_for_the_charter() -> None:
    cheap = chosen(DEVICES, "new", "spot", rules=Rules(run_usd=1000.0))
    assert cheap.recommended == "spot"
    assert "the charter lets a run cost $1,000" in cheap.offers[1].why
    limit = cheap.offers[0].quote
    assert limit is not None
    close = chosen(DEVICES, "spot", rules=Rules(run_usd=limit.cost_usd.mid * 1.01))
    assert any("It may cost up to" in risk for risk in close.offers[0].risks)


def test_nobody_can() -> None:
    none = chosen(DEVICES, "old", "new", rules=Rules(train=()))
    assert none.recommended == ""
    assert none.best is None
    assert none.derivation.warnings == (none.why,)
    assert "trained on nothing" in none.why
    few = chosen(Ask(devices=12, span_s=3600.0), "old", "new")
    assert few.recommended == ""
    assert all(offer.quote is None for offer in few.offers)
    assert "Ask for 16 devices." in few.why or "Ask for 8 devices." in few.why


def test_one_that_cannot_comes_last_with_its_reason() -> None:
    found = chosen(Ask(devices=128, span_s=86_400.0), "new", "h100-cloud")
    assert found.recommended == "h100-cloud"
    assert found.offers[1].quote is None
    assert "new has 64" in found.offers[1].why


def test_own_runs_are_used_and_take_the_doubt_away() -> None:
    slow = Factor(system="new", ratio=Interval(1.9, 2.0, 2.1), runs=("run-1",))
    plain, measured = (compare_systems(DEVICES, clusters("new"), factors=one) for one in (None, {"new": slow}))
    assert any("No run of our own" in risk for risk in plain.offers[0].risks)
    assert not any("No run of our own" in risk for risk in measured.offers[0].risks)
    assert plain.best is not None
    assert measured.best is not None
    assert measured.best.loss_nats.mid > plain.best.loss_nats.mid


def test_nonsense() -> None:
    with pytest.raises(InvalidRequest, match="each once"):
        compare_systems(MONEY, [])
    with pytest.raises(InvalidRequest, match="each once"):
        chosen(MONEY, "new", "new")
    for ask, more_usd in ((DEVICES, 10.0), (MONEY, 0.0), (MONEY, -5.0), (MONEY, float("nan"))):
        with pytest.raises(InvalidRequest, match="on top of a budget"):
            second_tranche(ask, clusters("new"), more_usd=more_usd)
    with pytest.raises(InvalidRequest, match="trained on nothing"):
        second_tranche(MONEY, clusters("new"), more_usd=10.0, rules=Rules(train=()))
    with pytest.raises(InvalidRequest, match="the charter lets a run cost"):
        second_tranche(MONEY, clusters("new"), more_usd=5000.0, rules=Rules(run_usd=6000.0))


@pytest.fixture(scope="module")
def more() -> MoreMoney:
    return second_tranche(MONEY, clusters("old", "new"), more_usd=10_000.0)


def test_a_second_tranche_buys_a_lower_loss_and_wears_off(more: MoreMoney) -> None:
    assert more.first.system == more.both.system == "new"
    assert more.gained_nats == pytest.approx(more.first.loss_nats.mid - more.both.loss_nats.mid)
    assert more.gained_nats > 0
    assert more.parameters_ratio > 1
    assert more.tokens_ratio > 1
    assert more.both.cost_usd.mid == pytest.approx(15_000, rel=0.01)
    assert more.alone is not None
    assert more.first.loss_nats.mid > more.alone.loss_nats.mid > more.both.loss_nats.mid
    once, twice = more.rungs
    assert (once.more_usd, twice.more_usd) == (10_000, 20_000)
    assert once.loss_nats == more.both.loss_nats
    assert 0 < once.loss_nats.mid - twice.loss_nats.mid < more.gained_nats
    assert once.left_usd == 0
    assert f"$10,000 more buy {more.gained_nats:.3f} nats on new" in more.why


def test_money_that_a_system_cannot_spend_is_left() -> None:
    found = second_tranche(Ask(budget_usd=1000.0, most_wall_s=86_400.0), clusters("spot"), more_usd=1e6)
    assert found.rungs[0].left_usd == pytest.approx(1_001_000 - found.both.cost_usd.mid)
    assert "cannot be spent in time" in found.why
    assert found.both.wall_s.mid <= 86_400 * 1.001
