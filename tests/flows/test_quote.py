"""Quote: a plan for this machine agrees with the forecast of its own recipe; others come from the catalogue."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tandem.flows import Quoted, funding_of, ground_of, predicted, quoted
from tandem.flows.plan import leave_outcome
from tandem.flows.planning import FundingAsk, QuoteAsk, answer_quote
from tandem.kit.config import load_settings
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.plan.funding import Cost
from tandem.plan.quote import written
from tandem.server import House
from tandem.spec import parse_placement, parse_recipe
from tests.flows.planning.runs import ENVIRONMENT, write_measured

pytestmark = pytest.mark.anyio

HOUR = QuoteAsk(system="local", devices=1, span_s=3600.0)


@pytest.fixture
def house(home: Path, migrated_sqlite: Path) -> Iterator[House]:
    """A house without runs and without a charter."""
    (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    house = House.as_it_is(load_settings({}, home=home))
    yield house
    house.db.close()


async def measured() -> Mapping[str, Any]:
    return ENVIRONMENT


async def never() -> Mapping[str, Any]:
    raise AssertionError("nothing is to be measured")


async def here(house: House, ask: QuoteAsk = HOUR) -> Quoted:
    return await quoted(ask, house=house, probe=measured)


async def forecast_s(found: Quoted, house: House) -> float:
    """What the recipe that a plan leaves is said to take."""
    made = written(found.quote, found.cluster)
    recipe, placement = parse_recipe(made.recipe, where="here"), parse_placement(made.placement, where="here")
    return (await predicted(recipe, placement, house=house, probe=measured)).stages.wall_s


@pytest.mark.parametrize("span_s", [60.0, 600.0, 3600.0, 86_400.0, 10 * 86_400.0])
async def test_the_plan_and_the_forecast_of_its_recipe_agree(house: House, span_s: float) -> None:
    found = await here(house, msgspec.structs.replace(HOUR, span_s=span_s))
    assert found.quote.wall_s.mid == pytest.approx(span_s, rel=0.01)
    assert await forecast_s(found, house) == pytest.approx(found.quote.useful_s, rel=0.04)
    assert (found.quote.system, found.quote.devices, found.quote.hosts) == ("local", 1, 1)


@pytest.mark.parametrize("span_s", [10.0, 60.0, 3600.0])
async def test_its_speed_is_that_of_a_step_and_not_of_beginning_and_end(house: House, span_s: float) -> None:
    found = (await here(house, msgspec.structs.replace(HOUR, span_s=span_s))).quote
    recipe = parse_recipe(written(found, (await here(house)).cluster).recipe, where="here")
    said = await predicted(recipe, parse_placement({}, where="here"), house=house, probe=measured)
    step = found.layout.step
    assert step.total_s == pytest.approx(said.step_s, rel=1e-3)
    assert step.tokens_per_s == pytest.approx(found.samples * found.model.context / step.total_s)
    assert step.mfu_share == pytest.approx(said.mfu_share, rel=0.02)


async def test_a_run_too_short_for_its_own_beginning_is_told_how_long_that_takes(house: House) -> None:
    with pytest.raises(InvalidRequest, match=r"the smallest run takes [4-9]\.\d s from start to end") as refusal:
        await here(house, msgspec.structs.replace(HOUR, span_s=1.0))
    assert "1x10min" in refusal.value.remedy


async def test_a_loss_is_planned_for_this_machine_too(house: House) -> None:
    found = await here(house, QuoteAsk(system="local", target_loss_nats=6.0))
    assert found.quote.loss_nats.mid == pytest.approx(6.0, rel=0.01)
    assert await forecast_s(found, house) == pytest.approx(found.quote.useful_s, rel=0.04)


async def test_the_derivation_tells_of_the_forecast_and_the_device(house: House) -> None:
    found = (await here(house)).quote
    assert any("measured bf16 GEMM, 2 threads" in row for row in found.derivation.rows)
    alone = await predicted(
        parse_recipe(written(found, (await here(house)).cluster).recipe, where="here"),
        parse_placement({}, where="here"),
        house=house,
        probe=measured,
    )
    formulas = {step.formula for step in found.derivation.steps}
    assert {step.formula for step in alone.derivation.steps} <= formulas


async def test_own_runs_are_the_measure_once_there_are_some(house: House) -> None:
    fresh = await here(house)
    for number in range(3):
        run_id = f"run_{number:04}"
        write_measured(house.settings.home, run_id, train_s=12.0)  # a hundred times what is foretold
        house.runs.reindex()
        leave_outcome(run_id, house=house)
    known = await quoted(HOUR, house=house, probe=never)
    assert known.quote.flop < 0.7 * fresh.quote.flop, "runs were slower than was foretold"
    assert known.factor is not None
    assert known.factor.runs == ("run_0000", "run_0001", "run_0002")


async def test_money_needs_a_price_and_settings_give_it(house: House) -> None:
    ask = QuoteAsk(system="local", budget_usd=2.0)
    with pytest.raises(InvalidRequest, match="no price above 0 for local"):
        await here(house, ask)
    settings = load_settings({}, home=house.settings.home, local_usd_per_hour=0.5)
    priced = House.as_it_is(settings)
    try:
        found = await here(priced, ask)
    finally:
        priced.db.close()
    assert found.quote.cost_usd.mid == pytest.approx(2.0, rel=0.02)
    assert found.quote.wall_s.mid == pytest.approx(4 * 3600, rel=0.02)
    assert "0.5 USD/h owned (local_usd_per_hour" in " ".join(found.quote.derivation.rows)


@pytest.mark.parametrize(
    ("said", "problem", "param"),
    [
        ({"devices": 2}, "one device of one host, not 2 devices.*--devices 1x2h", "devices"),
        ({"hosts": 3}, "one device of one host, not 3 hosts", "hosts"),
        ({"price": "8xh100-spot"}, "no price '8xh100-spot'.*local_usd_per_hour", "price"),
    ],
)
async def test_this_machine_is_one_device_and_is_not_measured_for_more(
    house: House, said: dict[str, Any], problem: str, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem) as caught:
        await quoted(msgspec.structs.replace(HOUR, **said), house=house, probe=never)
    assert caught.value.param == param


async def test_what_trains_nothing_is_refused(house: House) -> None:
    with pytest.raises(InvalidRequest, match="over before a first step"):
        await here(house, msgspec.structs.replace(HOUR, span_s=0.001))
    with pytest.raises(InvalidRequest, match="no peak for fp8"):
        await here(house, msgspec.structs.replace(HOUR, precision="fp8"))


async def test_systems_of_the_catalogue_are_not_measured(house: House) -> None:
    ask = QuoteAsk(system="h100-cloud", hosts=2, devices=16, span_s=3600.0)
    found = await quoted(ask, house=house, probe=never)
    assert found.quote == answer_quote(ask, ground_of(house))
    assert (found.cluster.name, found.cluster.hosts, found.factor) == ("h100-cloud", 2, None)
    with pytest.raises(NotFound, match="'moon'"):
        await quoted(QuoteAsk(system="moon", devices=8, span_s=1.0), house=house, probe=never)


async def test_a_row_of_ones_own_for_this_machine_goes_before_measuring_it(house: House) -> None:
    (house.settings.home / "catalogue.toml").write_text(
        '[systems.local]\nhost = "8xh100"\nhosts = 2\nfailures_per_1000_node_days = 9\n'
    )
    found = await quoted(QuoteAsk(system="local", devices=16, span_s=3600.0), house=house, probe=never)
    assert (found.quote.devices, found.cluster.host.name) == (16, "8xh100")
    assert found.cluster.failures_per_1000_node_days == 9
    assert found.factor is None


async def test_the_money_is_looked_at_from_this_month(house: House) -> None:
    write_measured(house.settings.home, "run_0001")
    house.runs.reindex()
    now = funding_of(FundingAsk(), house=house)
    assert now.spent_micro_usd == pytest.approx(21_000, abs=1), "21 s at 3.60 USD an hour"
    assert len(now.month) == 7
    before = funding_of(FundingAsk(month="2020-01"), house=house)
    assert (before.month, before.spent_micro_usd) == ("2020-01", 0), "the run began later"
    rent = Cost(stage="rent", month="2020-01", amount_usd=5.0)
    assert funding_of(FundingAsk(month="2020-01", spent=(rent,)), house=house).spent_micro_usd == 5_000_000
