"""The search for a way to train: more never buys less, what is asked is used up, and the work stays small."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_row

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster
from tandem.plan.quote import Ask
from tandem.plan.quote.pace import Way
from tandem.plan.quote.search import Search
from tandem.plan.units import DAY_S, HOUR_S
from tests.plan.published import catalogue

LAB = catalogue().cluster("8xh100", hosts=16)
TENFOLD = replace(LAB, hosts=8_192, accelerator=replace_row(LAB.accelerator, memory_bytes=2**40))
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def best(ask: Ask, cluster: Cluster = LAB) -> Way:
    return Search(ask=ask, cluster=cluster, factor=None).best()[1]


@few
@given(st.floats(1, 1e7), st.floats(1.0005, 3))
def test_more_money_never_buys_less(budget_usd: float, factor: float) -> None:
    less, more = best(Ask(budget_usd=budget_usd)), best(Ask(budget_usd=budget_usd * factor))
    assert more.loss_nats.mid <= less.loss_nats.mid


@few
@given(st.floats(1e3, 1e6), st.floats(1.0005, 3), st.sampled_from([150_000_000, 7_000_000_000]))
def test_more_money_never_buys_less_for_a_size(budget_usd: float, factor: float, parameters: int) -> None:
    less, more = (best(Ask(budget_usd=money, parameters=parameters)) for money in (budget_usd, budget_usd * factor))
    assert more.loss_nats.mid <= less.loss_nats.mid
    assert more.model == less.model


@few
@given(st.floats(60, 90 * DAY_S), st.floats(1.0005, 3))
def test_more_time_never_buys_less(span_s: float, factor: float) -> None:
    less, more = best(Ask(devices=64, span_s=span_s)), best(Ask(devices=64, span_s=span_s * factor))
    assert more.loss_nats.mid <= less.loss_nats.mid


@few
@given(st.floats(1.95, 3.4), st.floats(0.001, 0.3))
def test_a_lower_loss_never_costs_less(target_nats: float, above_nats: float) -> None:
    """Up to a hundredth: the size is a usual shape, and the hosts are as many as cost nearly the least."""
    low = best(Ask(target_loss_nats=target_nats, most_wall_s=1e12))
    high = best(Ask(target_loss_nats=target_nats + above_nats, most_wall_s=1e12))
    assert low.flop > high.flop * 0.99
    assert low.cost_usd.mid > high.cost_usd.mid * 0.9


@pytest.mark.parametrize("budget_usd", [10.0, 1e3, 1e5])
def test_money_is_spent(budget_usd: float) -> None:
    assert best(Ask(budget_usd=budget_usd)).cost_usd.mid == pytest.approx(budget_usd, rel=1e-3)


def test_time_is_used_lost_time_included() -> None:
    way = best(Ask(devices=128, span_s=30 * DAY_S))
    assert way.wall_s.mid == pytest.approx(30 * DAY_S, rel=1e-3)
    assert way.useful_s < 30 * DAY_S
    assert way.devices == 128


@pytest.mark.parametrize("target_nats", [3.0, 2.3])
def test_a_loss_is_reached_with_about_the_least_computing(target_nats: float) -> None:
    ask = Ask(target_loss_nats=target_nats)
    way = best(ask)
    assert way.loss_nats.mid == pytest.approx(target_nats, abs=1e-6)
    assert way.flop == pytest.approx(ask.scaling.flop_for_loss(target_nats), rel=0.01)


def test_what_takes_too_long_is_refused_with_what_can_be_had() -> None:
    with pytest.raises(InvalidRequest, match="days are allowed") as refusal:
        best(Ask(target_loss_nats=1.9))
    nearest = float(refusal.value.remedy.split("ask for ")[1].split()[0])
    assert best(Ask(target_loss_nats=nearest + 0.005)).wall_s.mid <= 90 * DAY_S


def test_a_refusal_without_a_price_talks_of_no_money() -> None:
    with pytest.raises(InvalidRequest, match=r"takes [\d,.]+ days with 1 host of 8xh100; 20\.0 days are allowed"):
        best(Ask(target_loss_nats=2.1, most_wall_s=20 * DAY_S), replace(LAB, hosts=1, price=None))


@pytest.mark.parametrize("target_nats", [1.83, 20.0, 1e3, 1e30])
def test_a_loss_that_is_best_for_no_usual_size_is_refused_with_those_that_are(target_nats: float) -> None:
    with pytest.raises(InvalidRequest, match="there is no usual shape") as refusal:
        best(Ask(target_loss_nats=target_nats))
    assert refusal.value.param == "target_loss_nats"
    most, least = (float(refusal.value.remedy.split()[place]) for place in (5, 7))
    assert best(Ask(target_loss_nats=least)).model.parameters < 200_000
    assert best(Ask(target_loss_nats=most, most_wall_s=1e15), TENFOLD).model.parameters > 1.8e13


def test_more_devices_than_any_batch_are_refused_with_as_many_as_train() -> None:
    cluster = catalogue().cluster("h100-cloud")
    with pytest.raises(InvalidRequest, match="No batch that suits what 32,768 devices .* reach") as refusal:
        best(Ask(devices=32_768, span_s=1.0), cluster)
    assert refusal.value.param == "devices"
    nearest = int(refusal.value.remedy.split()[2].replace(",", ""))
    assert best(Ask(devices=nearest, span_s=1.0), cluster).devices == nearest


@pytest.mark.parametrize("most_wall_s", [1e-9, 1.0, 30.0])
def test_a_loss_that_no_number_of_hosts_reaches_in_time_is_refused_for_the_time(most_wall_s: float) -> None:
    cluster = catalogue().cluster("h100-cloud")
    with pytest.raises(InvalidRequest, match=r"A loss of 2\.5 nats takes .* are allowed") as refusal:
        best(Ask(target_loss_nats=2.5, most_wall_s=most_wall_s), cluster)
    assert refusal.value.param == "target_loss_nats"


def test_what_does_not_fit_is_refused_for_its_memory_and_not_for_its_batch() -> None:
    with pytest.raises(InvalidRequest, match="does not fit on .* devices"):
        best(Ask(budget_usd=1e3, vocab=100_000_000))


def test_hosts_beyond_the_system_are_not_hired_and_time_is_not_overrun() -> None:
    way = best(Ask(budget_usd=1e9))
    assert way.hosts <= LAB.hosts
    assert way.wall_s.mid <= 90 * DAY_S * 1.0001


def test_a_shorter_limit_takes_more_hosts() -> None:
    cluster = catalogue().cluster("8xh100", hosts=256)
    unhurried = best(Ask(budget_usd=1e5), cluster)
    hurried = best(Ask(budget_usd=1e5, most_wall_s=12 * HOUR_S), cluster)
    assert hurried.hosts > unhurried.hosts
    assert hurried.wall_s.mid <= 12 * HOUR_S * 1.001
    assert hurried.loss_nats.mid >= unhurried.loss_nats.mid


def test_the_batch_suits_the_run() -> None:
    small, large = best(Ask(budget_usd=10.0)), best(Ask(budget_usd=1e5))
    assert small.samples * small.model.context < 1e6
    assert 4e6 < large.samples * large.model.context < 2e7


def test_a_size_that_was_asked_for_is_kept() -> None:
    way = best(Ask(budget_usd=1e5, parameters=1_000_000_000))
    assert way.model.parameters == pytest.approx(1e9, rel=0.05)
    assert way.tokens / way.model.parameters > 500


def test_money_without_a_price_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"no price above 0 for 8xh100.*Add the price"):
        best(Ask(budget_usd=1e5), replace(LAB, price=None))


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no peak for fp4"):
        best(Ask(budget_usd=1e5, precision="fp4"))


def test_a_model_that_cannot_fit_is_refused_with_what_is_nearest() -> None:
    with pytest.raises(InvalidRequest, match="does not fit on 8 devices") as refusal:
        best(Ask(devices=8, span_s=DAY_S, parameters=400_000_000_000))
    assert "hosts" in refusal.value.remedy


def test_what_is_over_before_the_first_step_is_refused_with_what_is_needed() -> None:
    with pytest.raises(InvalidRequest, match=r"before a first step.*suit 69.7B weights, take .* h and \$"):
        best(Ask(budget_usd=0.5, parameters=70_000_000_000))
    with pytest.raises(InvalidRequest, match=r"before a first step.*take .* h\.$"):
        best(Ask(devices=128, span_s=1.0, parameters=7_000_000_000), replace(LAB, price=None))


@pytest.mark.parametrize("budget_usd", [1e-9, 1e-6, 1e-4])
def test_next_to_nothing_buys_nothing(budget_usd: float) -> None:
    with pytest.raises(InvalidRequest, match="before a first step"):
        best(Ask(budget_usd=budget_usd))


def test_a_hundred_thousand_devices_are_planned_with_little_work() -> None:
    cluster = catalogue().cluster("8xh100", hosts=12_500)
    search = Search(ask=Ask(devices=100_000, span_s=30 * DAY_S), cluster=cluster, factor=None)
    pace, way = search.best()
    assert way.devices == 100_000
    assert search.reckoned <= 6
    assert pace.ranking.examined < 5_000


def test_hiring_is_planned_with_little_work() -> None:
    cluster = catalogue().cluster("h100-cloud")
    search = Search(ask=Ask(budget_usd=1e6), cluster=cluster, factor=None)
    search.best()
    assert search.reckoned <= 45


def test_a_number_of_hosts_that_no_batch_divides_among_leaves_spares() -> None:
    cluster = catalogue().cluster("8xh100", hosts=1_021)
    way = best(Ask(devices=8 * 1_021, span_s=DAY_S, parameters=1_000_000_000, context=8192), cluster)
    assert way.hosts == 512
