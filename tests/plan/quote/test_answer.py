"""Quotes: the plan with its alternatives, how it came about, and what could not be used up."""

from dataclasses import replace

import pytest

from tandem.plan.quote import Ask, Quote, quote
from tandem.plan.scaling import LAWS
from tandem.plan.units import DAY_S, Interval
from tandem.plan.workshop import Factor
from tests.plan.published import catalogue

CLOUD = catalogue().cluster("8xh100", hosts=64)


@pytest.fixture(scope="module")
def found() -> Quote:
    return quote(Ask(budget_usd=1e4), CLOUD)


def test_a_quote_says_what_and_where(found: Quote) -> None:
    assert found.system == "8xh100"
    assert found.ask.budget_usd == 1e4
    assert found.devices == 8 * found.hosts == found.layout.layout.devices
    assert found.flop == pytest.approx(6 * found.model.parameters * found.tokens)
    assert found.loss_nats.mid == pytest.approx(LAWS["epoch"].loss_nats(found.model.parameters, found.tokens))
    assert found.steps * found.samples * found.model.context >= found.tokens


def test_the_split_is_near_the_laws_optimum(found: Quote) -> None:
    optimum = LAWS["epoch"].optimum(found.flop)
    assert found.model.parameters == pytest.approx(optimum.parameters.mid, rel=0.35)
    assert found.loss_nats.mid - optimum.loss_nats.mid < 0.003


def test_chinchillas_constants_take_a_smaller_model(found: Quote) -> None:
    other = quote(Ask(budget_usd=1e4, law="chinchilla"), CLOUD)
    assert other.model.parameters < found.model.parameters
    assert other.tokens > found.tokens


def test_alternatives_trade_time_for_money(found: Quote) -> None:
    ways = {way.name: way for way in found.alternatives}
    more, fewer = ways["twice the hosts"], ways["half the hosts"]
    assert more.tokens == fewer.tokens == found.tokens
    assert more.wall_s.mid < found.wall_s.mid < fewer.wall_s.mid
    assert fewer.cost_usd.mid <= found.cost_usd.mid <= more.cost_usd.mid
    assert "sooner" in more.why
    assert "more" in more.why
    assert "later" in fewer.why


def test_half_the_size_reaches_the_same_loss_and_pays_when_served(found: Quote) -> None:
    smaller = next(way for way in found.alternatives if way.name == "half the size")
    assert smaller.model.parameters == pytest.approx(found.model.parameters / 2, rel=0.1)
    assert smaller.loss_nats.mid == pytest.approx(found.loss_nats.mid, abs=1e-6)
    assert smaller.flop > found.flop
    served = (smaller.flop - found.flop) / (2 * (found.model.parameters - smaller.model.parameters))
    training = found.flop + 2 * found.model.parameters * served
    assert smaller.flop + 2 * smaller.model.parameters * served == pytest.approx(training), "even, both served"


def test_an_alternative_that_is_late_says_so() -> None:
    found = quote(Ask(devices=64, span_s=DAY_S), CLOUD)
    fewer = next(way for way in found.alternatives if way.name == "half the hosts")
    assert "longer than was asked for" in fewer.why
    assert all(way.name != "twice the hosts" for way in found.alternatives), "that many were not offered"


def test_a_size_that_was_asked_for_has_no_smaller_one() -> None:
    found = quote(Ask(budget_usd=1e3, parameters=1_000_000_000), CLOUD)
    assert "half the size" not in {way.name for way in found.alternatives}


def test_the_derivation_names_laws_formulas_rows_and_conventions(found: Quote) -> None:
    told = found.derivation
    sources = " ".join(step.source for step in told.steps)
    for source in ("2404.10102", "2203.15556", "2401.02954", "Daly 2006", "2205.05198"):
        assert source in sources
    assert any("24 USD/h" in row for row in told.rows)
    assert any(row.startswith("accelerator h100-80") for row in told.rows)
    assert any("C = 6 N D" in convention for convention in told.conventions)
    assert any(step.what == "cost" for step in told.steps)


def test_money_that_a_system_cannot_spend_is_said_to_be_left() -> None:
    found = quote(Ask(budget_usd=1e8), CLOUD)
    assert any(f"are left: {CLOUD.name} can spend no more" in warning for warning in found.derivation.warnings)


def test_money_that_is_spent_has_no_such_warning(found: Quote) -> None:
    assert not any("are left" in warning for warning in found.derivation.warnings)


def test_a_loss_worse_than_guessing_is_not_believed(found: Quote) -> None:
    tiny = quote(Ask(devices=8, span_s=1.0), CLOUD)
    assert any("more than guessing among" in warning for warning in tiny.derivation.warnings)
    assert not any("guessing" in warning for warning in found.derivation.warnings)


def test_devices_that_no_batch_is_dealt_to_are_said_to_be_spares() -> None:
    cluster = catalogue().cluster("8xh100", hosts=1_021)
    found = quote(Ask(devices=8 * 1_021, span_s=DAY_S, parameters=1_000_000_000, context=8192), cluster)
    assert any(f"other {8 * (1_021 - found.hosts):,} stand by" in warning for warning in found.derivation.warnings)


def test_without_a_price_there_is_no_talk_of_money() -> None:
    found = quote(Ask(devices=64, span_s=DAY_S), replace(CLOUD, price=None))
    assert found.cost_usd == Interval(0.0, 0.0, 0.0)
    assert all("$" not in way.why for way in found.alternatives)
    assert any("no price" in warning for warning in found.derivation.warnings)


def test_own_runs_on_the_system_count_and_those_of_others_do_not(found: Quote) -> None:
    slow = Factor(system="8xh100", ratio=Interval(1.4, 1.5, 1.6), runs=("r1", "r2", "r3"))
    own = quote(Ask(budget_usd=1e4), CLOUD, factors={"8xh100": slow})
    assert own.tokens * own.model.parameters < found.tokens * found.model.parameters * 0.75
    assert quote(Ask(budget_usd=1e4), CLOUD, factors={"elsewhere": slow}) == found
