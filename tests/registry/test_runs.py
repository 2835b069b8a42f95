"""Runs: folders that appear whole, an index that the logs can make again, and the lineage of data."""

import json
from pathlib import Path

import msgspec
import pytest

from tandem.kit.db import Database
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.kit.lines import append_line
from tandem.registry import Dataset, Datasets, Runs
from tandem.spec import Event, Happened, Placement, Run, RunState, recipe_id
from tests.compute.stand_ins import DIGEST, pinned, placed
from tests.conftest import FreshUrl


@pytest.fixture
def runs(database: Database, home: Path) -> Runs:
    return Runs(database, home)


def event(kind: Happened, *, attempt: int = 1, **fields: object) -> Event:
    return Event(kind=kind, at=5, attempt=attempt, fields=fields)


def create(runs: Runs, name: str = "tiny") -> Run:
    return runs.create(pinned(name), placed())


def test_a_run_begins_planned_and_whole(runs: Runs, home: Path) -> None:
    run = create(runs)
    assert (run.state, run.name, run.recipe_id) == (RunState.PLANNED, "tiny", recipe_id(pinned()))
    assert runs.read(run.run_id) == run
    assert runs.recipe(run.run_id) == pinned()
    assert runs.placement(run.run_id) == placed()
    assert [path.name for path in (home / "runs").iterdir()] == [run.run_id]


def test_nothing_is_left_of_a_run_that_could_not_be_made(
    runs: Runs, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tandem.registry.runs.append_line", full)
    with pytest.raises(OSError, match="No space"):
        create(runs)
    assert list((home / "runs").iterdir()) == []
    assert runs.newest() == []


def test_a_run_with_an_id_of_the_callers_choosing_is_made_once(runs: Runs, home: Path) -> None:
    own = "run_" + "1" * 32
    (home / "runs" / f".{own}.part").mkdir(parents=True)  # somebody was killed while making it
    run = runs.create(pinned(), placed(), run_id=own)
    assert run.run_id == own
    runs.append(own, event(Happened.CANCELLED))
    assert runs.create(pinned("other"), placed(), run_id=own).state is RunState.CANCELLED
    assert [one.run_id for one in runs.newest()] == [own]
    assert [path.name for path in (home / "runs").iterdir()] == [own]


def test_a_recipe_that_is_not_pinned_is_no_run(runs: Runs, home: Path) -> None:
    recipe = msgspec.structs.replace(pinned(), tokenizer=msgspec.structs.replace(pinned().tokenizer, sha256=""))
    with pytest.raises(ValueError, match="pinned"):
        runs.create(recipe, Placement())
    assert not (home / "runs").exists()


def test_the_log_is_the_truth_whoever_writes_it(runs: Runs) -> None:
    run_id = create(runs).run_id
    runs.append(run_id, event(Happened.ATTEMPT_STARTED))
    append_line(runs.folder(run_id).events, event(Happened.RUNNING, step=0, steps=9))
    append_line(runs.folder(run_id).events, event(Happened.CHECKPOINT, step=4))
    assert (runs.read(run_id).state, runs.read(run_id).step, runs.read(run_id).steps) == (RunState.RUNNING, 4, 9)
    assert runs.newest() == [runs.read(run_id)]


def test_pages_show_each_run_once_the_newest_first(runs: Runs) -> None:
    made = [create(runs).run_id for _ in range(5)]
    seen: list[str] = []
    while page := runs.newest(limit=2, after=seen[-1] if seen else None):
        assert len(page) <= 2
        seen += [run.run_id for run in page]
    assert seen == sorted(made, reverse=True)


def test_a_run_is_found_by_id_by_its_beginning_and_by_name(runs: Runs) -> None:
    first, second = create(runs), create(runs, "other")
    for ref in (first.run_id, first.run_id.removeprefix("run_"), "tiny"):
        assert runs.resolve(ref) == first
    assert runs.resolve("other") == second
    newer = create(runs)
    assert runs.resolve("tiny") == max(first, newer, key=lambda run: run.run_id)
    with pytest.raises(InvalidRequest, match="3 runs begin with 'run_'"):
        runs.resolve("run_")


@pytest.mark.parametrize("ref", ["run_zzz", "%", "../..", "run_1/../x", "."])
def test_what_is_not_there_is_said(runs: Runs, ref: str) -> None:
    create(runs)
    for look in (runs.resolve, runs.read):
        with pytest.raises(NotFound, match="There is no run"):
            look(ref)


def test_the_index_is_made_again(runs: Runs, fresh_sqlite: FreshUrl, home: Path) -> None:
    run_id = create(runs).run_id
    runs.append(run_id, event(Happened.SUCCEEDED))
    with fresh_sqlite() as url:
        database = Database(url)
        again = Runs(database, home)
        assert again.newest() == []
        assert again.resolve("tiny") == runs.read(run_id)
        assert again.succeeded(recipe_id(pinned())) == runs.read(run_id)
        assert again.reindex() == 1
        assert again.newest() == runs.newest()
        database.close()


def test_what_was_trained_before_is_known(runs: Runs) -> None:
    identity = recipe_id(pinned())
    assert runs.succeeded(identity) is None
    first, second = create(runs), create(runs, "renamed")
    runs.append(first.run_id, event(Happened.FAILED, reason="x"))
    assert runs.succeeded(identity) is None
    runs.append(second.run_id, event(Happened.REGISTERED, version="renamed@1"))
    runs.append(second.run_id, event(Happened.SUCCEEDED))
    found = runs.succeeded(identity)
    assert found is not None
    assert (found.run_id, found.version) == (second.run_id, "renamed@1")
    assert runs.succeeded(recipe_id(pinned(seed=1))) is None


def test_of_steps_that_were_taken_again_the_last_counts(runs: Runs) -> None:
    run_id = create(runs).run_id
    assert runs.metrics(run_id) == []
    for step, loss in ((1, 4.0), (2, 3.0), (3, 2.0), (2, 2.5)):
        append_line(runs.folder(run_id).metrics, {"step": step, "loss": loss}, durable=False)
    assert [(line["step"], line["loss"]) for line in runs.metrics(run_id)] == [(1, 4.0), (2, 2.5), (3, 2.0)]


def test_a_run_can_be_placed_elsewhere(runs: Runs) -> None:
    run_id = create(runs).run_id
    runs.place(run_id, placed(workers=2))
    assert runs.placement(run_id).workers == 2


def test_datasets_know_their_runs_and_runs_their_datasets(database: Database, home: Path) -> None:
    folder = home / "datasets" / DIGEST.removeprefix("sha256:")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({"counts": {"records": 7}, "licenses": ["MIT", "BSD"], "version": 1})
    )
    datasets = Datasets(database, home)
    for run_id in ("run_2", "run_1", "run_2"):
        datasets.record(run_id, pinned())
    known = Dataset(digest=DIGEST, source="stdlib:", format="text", license="PSF-2.0", counts={"records": 7})
    assert datasets.of_run("run_1") == [known]
    assert datasets.runs_of(DIGEST) == ["run_1", "run_2"]
    assert datasets.of_run("run_3") == []


def test_licences_that_were_found_are_noted(database: Database, home: Path) -> None:
    folder = home / "datasets" / DIGEST.removeprefix("sha256:")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"counts": {}, "licenses": ["MIT", "BSD"]}))
    datasets = Datasets(database, home)
    recipe = pinned()
    unlicensed = msgspec.structs.replace(recipe, data=(msgspec.structs.replace(recipe.data[0], license=""),))
    datasets.record("run_1", unlicensed)
    assert datasets.of_run("run_1")[0].license == "MIT, BSD"


def test_a_dataset_of_another_machine_is_known_by_its_recipe(database: Database, home: Path) -> None:
    datasets = Datasets(database, home)
    datasets.record("run_1", pinned())
    assert datasets.of_run("run_1") == [Dataset(digest=DIGEST, source="stdlib:", format="text", license="PSF-2.0")]
