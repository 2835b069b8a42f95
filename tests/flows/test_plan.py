"""Plan: what own runs teach, what a run should take, and what it took beside that."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tandem.flows import against, calibration, ground_of, predicted
from tandem.flows.plan import leave_outcome, planned
from tandem.flows.planning import device_of_probe, work_of_recipe
from tandem.kit.config import load_settings
from tandem.kit.errors import Conflict, NotFound, UnsupportedFeature
from tandem.plan.workshop import forecast
from tandem.registry import first_charter
from tandem.server import House
from tandem.spec import Placement
from tests.flows.planning.runs import ENVIRONMENT, write_measured
from tests.run_folders import recipe, write_run

pytestmark = pytest.mark.anyio


@pytest.fixture
def house(home: Path, migrated_sqlite: Path) -> Iterator[House]:
    """A house without runs and without a charter."""
    (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    house = House.as_it_is(load_settings({}, home=home))
    yield house
    house.db.close()


def ran(house: House, number: int, **changes: Any) -> str:
    """A run that has left its outcome."""
    run_id = f"run_{number:04}"
    write_measured(house.settings.home, run_id, **changes)
    house.runs.reindex()
    leave_outcome(run_id, house=house)
    return run_id


async def never() -> Mapping[str, Any]:
    raise AssertionError("the machine is known")


def test_answers_stand_on_the_catalogue_the_charter_and_own_runs(house: House) -> None:
    ground = ground_of(house)
    assert ground.allowed == tuple(ground.catalogue.systems)
    assert ground.factors == {}
    (house.settings.home / "catalogue.toml").write_text('[systems.west]\nhost = "8xh100"\nhosts = 2\n')
    text = first_charter("ours", {"ours": {"ada": house.members.make("ada")}}, solo=True)
    house.charters.propose(text.replace('train = ["*"]', 'train = ["w*"]'), [house.members.key("ada")])
    ran(house, 1)
    ground = ground_of(house)
    assert ground.allowed == ("west",)
    assert list(ground.factors) == ["local"]


def test_a_run_is_compared_with_what_the_others_say_of_it(house: House) -> None:
    odd = ran(house, 9, train_s=120.0)
    alone = against(odd, house=house)
    assert alone.factor.runs == ()
    for number in range(1, 6):
        ran(house, number)
    found = against(odd, house=house)
    assert (found.run, found.name, found.system) == (odd, "coder", "local")
    assert found.factor.runs == tuple(f"run_{number:04}" for number in range(1, 6))
    assert found.measured.train_s == pytest.approx(120.0)
    assert found.ratios["train_s"] == pytest.approx(120.0 / found.predicted.stages.train_s)
    assert found.ratios["train_s"] == pytest.approx(10.0, rel=0.3)  # the others took 12 s for the same
    assert found.ratios["wall_s"] == pytest.approx(found.measured.wall_s / found.predicted.stages.wall_s)
    assert not found.expected
    assert against("run_0001", house=house).expected
    assert calibration(house)["local"].runs == (*found.factor.runs, odd)


def test_an_outcome_that_is_missing_is_made_when_it_is_asked_for(house: House) -> None:
    write_measured(house.settings.home, "run_0001")
    house.runs.reindex()
    assert calibration(house) == {}
    assert against("coder", house=house).run == "run_0001"
    assert calibration(house)["local"].runs == ("run_0001",)


def test_a_run_without_measurements_is_refused(house: House) -> None:
    write_run(house.settings.home, "run_0001")
    house.runs.reindex()
    with pytest.raises(Conflict, match="left no measurements"):
        against("run_0001", house=house)
    with pytest.raises(NotFound):
        against("run_0002", house=house)


async def test_a_machine_that_no_run_has_measured_is_measured_once_it_is_asked_about(house: House) -> None:
    asked = []

    async def probe() -> Mapping[str, Any]:
        asked.append(True)
        return ENVIRONMENT

    fresh = await predicted(recipe(), Placement(), house=house, probe=probe)
    assert asked
    assert "4e+11" in fresh.derivation.rows[0]
    ran(house, 1, train_s=0.12)
    known = await predicted(recipe(), Placement(), house=house, probe=never)
    assert known.step_s != fresh.step_s
    assert known.derivation.steps[0].what == "calibration of local"
    fp32 = await predicted(recipe(precision="fp32"), Placement(), house=house, probe=probe)
    assert len(asked) == 2, "no run has computed in fp32"
    assert fp32.step_s > 0


async def test_runs_on_a_gpu_teach_how_fast_it_is_and_those_on_the_cpu_do_not(house: House) -> None:
    gpu = {**ENVIRONMENT, "device": "NVIDIA H200", "peak_name": "data sheet", "peak_flops": 9.9e14}

    async def probe() -> Mapping[str, Any]:
        return gpu

    ran(house, 1)
    fresh = forecast(work_of_recipe(recipe(), Placement(), file=house.registry.file), device_of_probe(gpu, half=True))
    assert any("a guess" in warning for warning in fresh.derivation.warnings)
    for number in range(2, 5):
        ran(house, number, environment=gpu)
    known = await predicted(recipe(), Placement(), house=house, probe=never)
    assert known.derivation.steps[0].what == "calibration of local, NVIDIA H200"
    assert known.derivation.rows == ("device NVIDIA H200: data sheet: 9.9e+14 FLOP/s",)
    assert not any("a guess" in warning for warning in known.derivation.warnings)
    assert known.stages.train_s > 2 * fresh.stages.train_s, "they took 12 s"
    assert planned(recipe(), Placement(), house=house)["wall_s"] == known.stages.wall_s
    ran(house, 5)
    here = await predicted(recipe(), Placement(), house=house, probe=never)
    assert here.derivation.steps[0].what == "calibration of local"


async def test_another_system_cannot_be_measured_from_here(house: House) -> None:
    with pytest.raises(UnsupportedFeature, match="ray-west"):
        await predicted(recipe(), Placement(system="ray-west"), house=house, probe=never)


async def test_a_parent_that_is_not_there_is_said(house: House) -> None:
    ran(house, 1)
    orphan = recipe(model={"parent": "nobody"})
    with pytest.raises(NotFound, match="nobody"):
        await predicted(orphan, Placement(), house=house, probe=never)
    assert planned(orphan, Placement(), house=house) == {}


def test_a_run_is_told_its_plan_once_its_machine_is_known(house: House) -> None:
    assert planned(recipe(), Placement(), house=house) == {}
    ran(house, 1)
    told = planned(recipe(), Placement(), house=house)
    assert set(told) == {"tokens_per_s", "wall_s"}
    assert told["wall_s"] > 0
    assert planned(recipe(), Placement(workers=3), house=house) == {}
