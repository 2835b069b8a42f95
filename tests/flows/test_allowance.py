"""Allowance: what the charter says about where a run trains and what it costs is asked before it starts."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from tandem import flows
from tandem.flows import allowance
from tandem.flows.allowance import check_allowance
from tandem.flows.planning import money
from tandem.kit.config import load_settings
from tandem.kit.errors import Forbidden, NotFound
from tandem.registry import first_charter
from tandem.server import House
from tandem.spec import Limits, Placement
from tests.compute.stand_ins import pinned


@pytest.fixture
def house(home: Path, migrated_sqlite: Path) -> Iterator[House]:
    """A house without a charter."""
    (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    house = House.as_it_is(load_settings({}, home=home))
    yield house
    house.db.close()


def agree(house: House, *changes: tuple[str, str]) -> None:
    """A charter with some lines changed."""
    text = first_charter("ours", {"ours": {"ada": house.members.make("ada")}}, solo=True)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    house.charters.propose(text, [house.members.key("ada")])


def costing(usd: float, system: str = "local") -> Placement:
    return Placement(system=system, limits=Limits(usd=usd))


SPENDING = "\n[spending]\nusd_per_run = 10\nusd_per_month = 25\n"
LAST = 'regions = ["*"]\n'


def test_without_a_charter_everything_passes(house: House) -> None:
    check_allowance(house, costing(0.0, "anywhere"))


def test_without_limits_everything_passes(house: House) -> None:
    agree(house)
    check_allowance(house, costing(0.0, "anywhere"))
    check_allowance(house, costing(1e9))


def test_one_name_is_exclusivity(house: House) -> None:
    agree(house, ('train = ["*"]', 'train = ["ray-west"]'))
    check_allowance(house, costing(0.0, "ray-west"))
    for system in ("local", "ray-east"):
        with pytest.raises(Forbidden, match=f"may not be trained on {system}") as caught:
            check_allowance(house, costing(0.0, system))
        assert "ray-west" in caught.value.remedy


@pytest.mark.parametrize(("usd", "said"), [(0.0, "has no limit on its cost"), (10.01, "may cost 10.01 USD")])
def test_a_run_that_may_cost_too_much(house: House, usd: float, said: str) -> None:
    agree(house, (LAST, LAST + SPENDING))
    check_allowance(house, costing(10.0))
    with pytest.raises(Forbidden, match=said) as caught:
        check_allowance(house, costing(usd))
    assert "a run at most 10.00 USD" in caught.value.message
    assert "limits" in caught.value.remedy


def test_a_month_that_is_spent(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(house, (LAST, LAST + SPENDING))
    now = allowance.clock.now()  # and the test may run into the next month
    monkeypatch.setattr(allowance.clock, "now", lambda: now)
    costs = {house.runs.create(pinned(), costing(10.0)).run_id: cost for cost in (9.0, 8.0)}
    story = money.read_story

    class Told(msgspec.Struct):
        usd: float

    monkeypatch.setattr(money, "read_story", lambda folder: Told(story(folder).usd + costs[folder.path.name]))
    check_allowance(house, costing(8.0))
    with pytest.raises(Forbidden, match="a month 25.00 USD, of which 17.00 are spent"):
        check_allowance(house, costing(8.01))
    [first, _] = costs
    check_allowance(house, costing(10.0), run_id=first)
    later = now + timedelta(days=366)
    monkeypatch.setattr(allowance.clock, "now", lambda: later)
    check_allowance(house, costing(10.0))


@pytest.mark.anyio
async def test_training_asks(house: House) -> None:
    agree(house, ('train = ["*"]', 'train = ["ray-west"]'))
    with pytest.raises(Forbidden, match="may not be trained on local"):
        await flows.train(pinned(), Placement(), house=house)
    assert house.runs.newest() == []
    run = house.runs.create(pinned(), Placement())
    with pytest.raises(Forbidden, match="may not be trained on local"):
        await flows.resume(run.run_id, house=house)
    with pytest.raises(NotFound):
        await flows.resume("run_0", house=house)
