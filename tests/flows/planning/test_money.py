from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tandem.flows.planning import catalogue_of, claims_of, rules_of, spent, spent_in, used
from tandem.kit.config import load_settings
from tandem.kit.errors import InvalidRequest
from tandem.plan.funding import Cost, Used
from tandem.registry import first_charter
from tandem.server import House
from tests.accounts.test_usage import add
from tests.flows.planning.runs import write_measured

BEGAN = datetime(2023, 11, 14, tzinfo=UTC)  # when runs that are written by hand began


@pytest.fixture
def house(home: Path, migrated_sqlite: Path) -> Iterator[House]:
    """A house without a charter."""
    (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    house = House.as_it_is(load_settings({}, home=home))
    yield house
    house.db.close()


def agree(house: House, *more: str) -> None:
    """A charter with more tables at its end."""
    text = first_charter("ours", {"ours": {"ada": house.members.make("ada")}}, solo=True)
    house.charters.propose("\n".join([text, *more]), [house.members.key("ada")])


def test_training_costs_what_its_time_costs_by_month(house: House) -> None:
    home = house.settings.home
    assert spent(house.runs) == ()
    for number in (1, 2):
        write_measured(home, f"run_{number:04}")  # 21 s at 3.6 USD an hour
    house.runs.reindex()
    (cost,) = spent(house.runs)
    assert cost == Cost(stage="train", month="2023-11", amount_usd=pytest.approx(2 * 0.021))
    assert spent_in(house.runs, BEGAN) == pytest.approx(0.042)
    assert spent_in(house.runs, datetime(2024, 11, 1, tzinfo=UTC)) == 0


def test_usage_is_summed_by_month_and_deployment(house: House) -> None:
    add(house.db, "req_1", at=datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    add(house.db, "req_2", at=datetime(2027, 1, 1, tzinfo=UTC), tokens=2)
    add(house.db, "req_3", at=datetime(2027, 1, 31, tzinfo=UTC), tokens=3)
    add(house.db, "req_4", at=datetime(2027, 1, 31, tzinfo=UTC), deployment="coder")
    assert used(house.db) == (
        Used(month="2026-12", deployment="starter", prompt_tokens=10, completion_tokens=100, cached_tokens=1),
        Used(month="2027-01", deployment="coder", prompt_tokens=10, completion_tokens=100, cached_tokens=1),
        Used(month="2027-01", deployment="starter", prompt_tokens=50, completion_tokens=500, cached_tokens=5),
    )


def test_without_a_charter_nothing_is_forbidden_and_nothing_returned(house: House) -> None:
    assert rules_of(house.charters, house.runs).train == ("*",)
    assert rules_of(house.charters, house.runs).run_usd is None
    assert claims_of(house.charters) == ()


def test_the_charter_bounds_a_run_by_itself_and_by_what_is_left_of_the_month(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree(house, "[spending]", "usd_per_run = 10", "usd_per_month = 25")
    assert rules_of(house.charters, house.runs).run_usd == 10
    monkeypatch.setattr("tandem.kit.clock.now", lambda: BEGAN)
    write_measured(house.settings.home, "run_0001", train_s=72_000.0)  # 20 hours at 3.6 USD
    house.runs.reindex()
    assert rules_of(house.charters, house.runs).run_usd == 0


def test_claims_are_the_charters_returns(house: House) -> None:
    agree(house, "[[returns]]", 'party = "ours"', "invested_usd = 1000.5", "cap = 3")
    (claim,) = claims_of(house.charters)
    assert (claim.party, claim.invested_micro_usd, claim.cap_micro_usd) == ("ours", 1_000_500_000, 3_001_500_000)


def test_own_rows_come_over_those_of_the_house(home: Path) -> None:
    usual = catalogue_of(home)
    assert "8xh100" in usual.hosts
    (home / "catalogue.toml").write_text(
        '[prices.ours]\nhost = "8xh100"\nusd_per_hour = 11\n[systems.west]\nhost = "8xh100"\nhosts = 4\n'
    )
    own = catalogue_of(home)
    assert own.hosts == usual.hosts
    assert own.cluster("west").usd_per_hour == 44


def test_an_own_catalogue_that_is_wrong_is_said_by_its_path(home: Path) -> None:
    path = home / "catalogue.toml"
    path.write_text('[systems.west]\nhost = "none"\nhosts = 4\n')
    with pytest.raises(InvalidRequest, match=str(path)):
        catalogue_of(home)
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        catalogue_of(home)
