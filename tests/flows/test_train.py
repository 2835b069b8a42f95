"""Train: a recipe becomes a version, whatever happens to workers and supervisors meanwhile."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tandem.compute import Pace, heartbeats
from tandem.compute.systems import Fake
from tandem.compute.systems.fake import Fault
from tandem.compute.systems.processes import marked
from tandem.flows import Listener, resume, stop, train
from tandem.kit import clock
from tandem.kit.config import load_settings
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.server import House
from tandem.spec import AttemptFolder, Ending, Event, Happened, Placement, Recipe, Run, RunState, recipe_id
from tests.compute.stand_ins import DIGEST, MANY, STEPS, hurry, kill, pinned, placed, until

pytestmark = [pytest.mark.anyio, pytest.mark.fault]

HANG_S = 5.0  # a busy machine takes less for a step, and what goes on afterwards must not be found to hang
PACE = Pace(poll_s=0.02, disk_s=0.02, stop_grace_s=20.0)


@pytest.fixture
def house(home: Path, migrated_sqlite: Path) -> Iterator[House]:
    """A house with a migrated database, whose leases end soon."""
    (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    house = House.as_it_is(load_settings({}, home=home, stop_grace_s=20.0))
    yield house
    house.db.close()


def made(house: House, *, placement: Placement | None = None, steps: int = STEPS) -> Run:
    """A run that nobody supervises yet."""
    recipe = pinned(steps=steps)
    run = house.runs.create(recipe, placement or placed())
    house.datasets.record(run.run_id, recipe)
    return run


async def supervised(house: House, system: Fake, *, placement: Placement | None = None, steps: int = STEPS) -> Run:
    """A run from its beginning to where its supervisor leaves it; no process of it is left."""
    run = made(house, placement=placement, steps=steps)
    run = await resume(run.run_id, house=house, system=system, pace=PACE)
    assert not left(house, run)
    return run


def left(house: House, run: Run) -> list[int]:
    attempts = (house.runs.folder(run.run_id).path / "attempts").iterdir()
    return [pid for path in attempts for pid in marked(AttemptFolder(path))]


def told(house: House, run: Run, kind: Happened) -> list[Event]:
    return [event for event in house.runs.events(run.run_id) if event.kind is kind]


def endings(house: House, run: Run) -> list[str]:
    return [event.fields["ending"] for event in told(house, run, Happened.ATTEMPT_ENDED)]


async def stepped(house: House, run: Run, *, attempt: int = 1, steps: int = 1) -> AttemptFolder:
    """Wait until an attempt has taken so many steps."""
    folder = house.runs.folder(run.run_id).attempt(attempt)
    await until(lambda: any(beat.step >= steps for beat in heartbeats(folder, 1)))
    return folder


async def test_a_recipe_becomes_a_version(house: House) -> None:
    asked: list[tuple[Any, ...]] = []
    steps: list[tuple[str, int, int | None]] = []
    began: list[Run] = []

    async def prepare(recipe: Recipe, *, home: Path, parent: object, progress: Any) -> Recipe:
        asked.append((recipe.name, home, parent))
        progress("reading", 1, 2)
        return pinned(recipe.name)

    listener = Listener(progress=lambda *step: steps.append(step), began=began.append)
    loose = msgspec.structs.replace(pinned(), tokenizer=msgspec.structs.replace(pinned().tokenizer, sha256=""))
    run = await train(loose, placed(), house=house, listener=listener, system=Fake(), prepare=prepare)
    assert (run.state, run.step, run.version) == (RunState.SUCCEEDED, STEPS, "tiny@1")
    assert asked == [("tiny", house.settings.home, None)]
    assert steps == [("reading", 1, 2)]
    assert [one.run_id for one in began] == [run.run_id]
    version = house.registry.resolve("tiny@1")
    assert version.origin == f"run:{run.run_id}"
    assert version.facts["run"] == run.run_id
    assert version.facts["recipe"] == run.recipe_id == recipe_id(pinned())
    assert version.facts["datasets"] == [DIGEST]
    assert version.facts["data_licenses"] == ["PSF-2.0"]
    assert version.facts["architecture"] == "llama"
    exported = house.runs.folder(run.run_id).export / "model.gguf"
    assert house.registry.path(version).read_bytes() == exported.read_bytes()
    assert house.datasets.runs_of(DIGEST) == [run.run_id]


async def test_what_was_trained_is_not_trained_again(house: House) -> None:
    async def prepare(recipe: Recipe, **_: object) -> Recipe:
        return recipe

    first = await train(pinned(), placed(), house=house, system=Fake(), prepare=prepare)
    renamed = pinned("renamed")
    assert await train(renamed, placed(), house=house, system=Fake(), prepare=prepare) == first
    again = await train(renamed, placed(), house=house, system=Fake(), prepare=prepare, again=True)
    assert (again.state, again.version) == (RunState.SUCCEEDED, "renamed@1")
    assert len(house.runs.newest()) == 2


async def test_a_parent_that_is_not_there_is_said_at_once(house: House) -> None:
    recipe = pinned(parent="starter")
    loose = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, parent_sha256=""))
    with pytest.raises(NotFound, match="starter"):
        await train(loose, placed(), house=house)
    assert house.runs.newest() == []


async def test_data_that_cannot_be_prepared_makes_no_run(house: House) -> None:
    async def prepare(recipe: Recipe, **_: object) -> Recipe:
        raise InvalidRequest("No data.")

    with pytest.raises(InvalidRequest, match="No data"):
        await train(pinned(), placed(), house=house, prepare=prepare)
    assert house.runs.newest() == []


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending.KILLED, "worker 0 was killed by SIGKILL"),
        (Ending.CRASHED, "RuntimeError: as told at step 3"),
        (Ending.HUNG, "no step for too long after step 3"),
        (Ending.DIVERGED, "diverged at step 3: back one checkpoint"),
    ],
)
async def test_an_accident_is_recovered_from(house: House, ending: Ending, reason: str) -> None:
    system = Fake(faults=[Fault(ending=ending, at=3, attempts=(1,))])
    run = await supervised(house, system, placement=placed(hang_s=HANG_S))
    assert (run.state, run.attempt, run.restarts) == (RunState.SUCCEEDED, 2, 1)
    assert [event.fields["reason"] for event in told(house, run, Happened.RECOVERING)] == [reason]
    assert endings(house, run) == [ending, Ending.FINISHED]
    begins = [event.fields["step"] for event in told(house, run, Happened.RUNNING)]
    assert begins == [0, 0 if ending is Ending.DIVERGED else 2]


async def test_one_of_two_is_killed_and_both_start_again(house: House) -> None:
    fault = Fault(ending=Ending.KILLED, at=3, attempts=(1,), rank=1)
    run = await supervised(house, Fake(faults=[fault], step_s=0.05), placement=placed(workers=2))
    assert (run.state, run.restarts) == (RunState.SUCCEEDED, 1)
    end = told(house, run, Happened.ATTEMPT_ENDED)[0].fields
    assert (end["signal"], end["rank"]) == ("SIGKILL", 1)


async def test_the_same_crash_twice_is_the_end(house: House) -> None:
    run = await supervised(house, Fake(faults=[Fault(ending=Ending.CRASHED, at=3)]))
    assert (run.state, run.attempt) == (RunState.FAILED, 2)
    assert run.reason.startswith("RuntimeError: as told at step 3, twice")
    with pytest.raises(Conflict, match="over: failed .RuntimeError"):
        await resume(run.run_id, house=house)


async def test_memory_that_does_not_suffice_halves_the_micro_batch(house: House) -> None:
    fault = Fault(ending=Ending.OUT_OF_MEMORY, at=1, above=2)
    run = await supervised(house, Fake(faults=[fault]))
    assert run.state is RunState.SUCCEEDED
    sizes = [event.fields["micro_samples"] for event in told(house, run, Happened.ATTEMPT_STARTED)]
    assert sizes == [0, 4, 2]


@pytest.mark.parametrize(
    ("ending", "state", "reason"),
    [(Ending.UNUSABLE, RunState.FAILED, "as told"), (Ending.PAUSED, RunState.PAUSED, "preempted")],
)
async def test_what_no_restart_helps(house: House, ending: Ending, state: RunState, reason: str) -> None:
    run = await supervised(house, Fake(faults=[Fault(ending=ending, at=3)]))
    assert (run.state, run.reason, run.attempt) == (state, reason, 1)


async def test_a_full_disk_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([0, 0, 2**40])
    monkeypatch.setattr(
        "tandem.compute.supervisor.shutil.disk_usage", lambda _: type("Usage", (), {"free": next(free)})
    )
    run = await supervised(house, Fake(faults=[Fault(ending=Ending.DISK_FULL, at=3, attempts=(1,))]))
    assert run.state is RunState.SUCCEEDED
    assert [event.fields["reason"] for event in told(house, run, Happened.PAUSED)] == ["disk"]
    assert next(free, None) is None


async def test_who_waits_for_the_disk_can_be_stopped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.compute.supervisor.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    run = made(house)
    going = asyncio.create_task(
        resume(run.run_id, house=house, system=Fake(faults=[Fault(ending=Ending.DISK_FULL, at=3)]), pace=PACE)
    )
    await until(lambda: house.runs.read(run.run_id).reason == "disk")
    run = await stop(run.run_id, house=house, cancel=True, pace=PACE)
    assert run.state is RunState.CANCELLED
    assert await going == run


async def test_the_budget_pauses_it_and_more_lets_it_go_on(house: House) -> None:
    run = await supervised(house, Fake(step_s=0.3), placement=placed(wall_s=0.2), steps=MANY)
    assert (run.state, run.reason) == (RunState.PAUSED, "budget")
    run = await resume(run.run_id, house=house, system=Fake(), placement=placed(), pace=PACE)
    assert (run.state, run.step, run.restarts) == (RunState.SUCCEEDED, MANY, 0)


@pytest.mark.parametrize("cancel", [False, True])
async def test_another_process_stops_it(house: House, cancel: bool) -> None:
    run = made(house, placement=placed(every_steps=1000), steps=MANY)
    going = asyncio.create_task(resume(run.run_id, house=house, system=Fake(step_s=0.3), pace=PACE))
    await stepped(house, run)
    run = await stop(run.run_id, house=house, cancel=cancel, pace=PACE)
    assert run.state is (RunState.CANCELLED if cancel else RunState.PAUSED)
    assert run.reason == ("cancel" if cancel else "user")
    assert run.step >= 1, "it was saved before it was stopped"
    assert await going == run
    assert not left(house, run)
    if cancel:
        with pytest.raises(Conflict, match="over: cancelled"):
            await stop(run.run_id, house=house)
    else:
        run = await resume(run.run_id, house=house, system=Fake(), pace=PACE)
        assert (run.state, run.step) == (RunState.SUCCEEDED, MANY)


async def test_a_run_that_nobody_supervises_is_stopped_too(house: House) -> None:
    run = made(house)
    assert (await stop(run.run_id, house=house)).state is RunState.PAUSED
    assert (await stop(run.run_id, house=house)).state is RunState.PAUSED
    assert len(told(house, run, Happened.PAUSED)) == 1
    assert (await stop(run.run_id, house=house, cancel=True)).state is RunState.CANCELLED
    with pytest.raises(NotFound):
        await stop("run_1", house=house)


@contextmanager
def supervisor(house: House, run: Run, *, step_s: float, lease_s: float = 30.0) -> Iterator["subprocess.Popen[str]"]:
    """A supervisor in a process of its own."""
    program = Path(__file__).with_name("supervisor.py")
    command = [sys.executable, str(program), str(house.settings.home), run.run_id, str(step_s), str(lease_s)]
    repository = program.parent.parent.parent
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_new_supervisor_adopts_what_a_killed_one_left(house: House) -> None:
    run = made(house, steps=MANY)
    with supervisor(house, run, step_s=0.5) as first:
        attempt = await stepped(house, run)
        with pytest.raises(Conflict, match=f"supervised by process {first.pid}"):
            await resume(run.run_id, house=house)
        worker = marked(attempt)
        first.kill()
        first.wait()
    assert marked(attempt) == worker, "it goes on without a supervisor"
    hurry(attempt)
    run = await resume(run.run_id, house=house, system=Fake(), pace=PACE)
    assert (run.state, run.attempt, run.restarts, run.step) == (RunState.SUCCEEDED, 1, 0, MANY)
    assert endings(house, run) == [Ending.FINISHED]


async def test_a_new_supervisor_goes_on_where_both_were_killed(house: House) -> None:
    run = made(house, steps=MANY)
    with supervisor(house, run, step_s=0.3) as first:
        attempt = await stepped(house, run, steps=3)
        first.kill()
        first.wait()
    kill(attempt, signal.SIGKILL)
    run = await resume(run.run_id, house=house, system=Fake(), pace=PACE)
    assert (run.state, run.attempt, run.restarts) == (RunState.SUCCEEDED, 2, 1)
    assert endings(house, run) == [Ending.KILLED, Ending.FINISHED]
    assert told(house, run, Happened.RUNNING)[1].fields["step"] >= 2


async def test_of_two_supervisors_the_one_that_slept_lets_go(house: House) -> None:
    run = made(house, steps=MANY)
    with supervisor(house, run, step_s=0.6, lease_s=0.5) as first:
        attempt = await stepped(house, run)
        with (house.runs.folder(run.run_id).path / "lease.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # so that it is not stopped in the middle of a renewal
            first.send_signal(signal.SIGSTOP)
            await until(lambda: "State:\tT" in Path(f"/proc/{first.pid}/status").read_text())
        word = msgspec.json.decode(house.runs.folder(run.run_id).lease.read_bytes())
        await until(lambda: clock.unix_milliseconds() > word["expires_at"])
        second = asyncio.create_task(resume(run.run_id, house=house, system=Fake(), pace=PACE))
        await until(lambda: house.runs.folder(run.run_id).lease.read_bytes() != msgspec.json.encode(word))
        first.send_signal(signal.SIGCONT)
        _, complaint = await asyncio.to_thread(first.communicate)
        assert f"taken over by process {os.getpid()}" in complaint
    hurry(attempt)
    run = await second
    assert (run.state, run.attempt, run.restarts) == (RunState.SUCCEEDED, 1, 0)
    assert endings(house, run) == [Ending.FINISHED]


async def test_a_disk_without_room_for_a_word_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter(range(3))
    append = type(house.runs).append

    def refusing(runs: Any, run_id: str, event: Event) -> None:
        if event.kind is Happened.ATTEMPT_ENDED and next(refusals, None) is not None:
            raise OSError(28, "No space left on device")
        append(runs, run_id, event)

    monkeypatch.setattr(type(house.runs), "append", refusing)
    run = await supervised(house, Fake())
    assert run.state is RunState.SUCCEEDED
    assert endings(house, run) == [Ending.FINISHED]
    assert next(refusals, None) is None


async def test_a_finished_run_is_registered_by_whoever_comes_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(house)
    with monkeypatch.context() as broken:
        broken.setattr(sys.modules["tandem.flows.train"], "register_run", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await resume(run.run_id, house=house, system=Fake(), pace=PACE)
    assert not house.runs.read(run.run_id).state.over
    run = await resume(run.run_id, house=house, system=Fake(), pace=PACE)
    assert (run.state, run.attempt, run.version) == (RunState.SUCCEEDED, 1, "tiny@1")


async def test_ctrl_c_pauses_it_saved(house: House) -> None:
    run = made(house, placement=placed(every_steps=1000), steps=MANY)
    with supervisor(house, run, step_s=0.3) as process:
        await stepped(house, run)
        process.send_signal(signal.SIGINT)
        said, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
    run = house.runs.read(run.run_id)
    assert said == "paused user\n"
    assert (run.state, run.reason) == (RunState.PAUSED, "user")
    assert run.step >= 1
    assert not left(house, run)


async def test_a_stopped_worker_is_found_to_hang(house: House) -> None:
    run = made(house, placement=placed(hang_s=HANG_S), steps=MANY)
    going = asyncio.create_task(resume(run.run_id, house=house, system=Fake(step_s=0.3), pace=PACE))
    kill(await stepped(house, run), signal.SIGSTOP)
    hurry(await stepped(house, run, attempt=2))
    run = await going
    assert (run.state, run.restarts) == (RunState.SUCCEEDED, 1)
    assert endings(house, run) == [Ending.HUNG, Ending.FINISHED]
    assert not left(house, run)


async def test_a_stale_attempt_writes_no_checkpoint(house: House) -> None:
    run = made(house, placement=placed(every_steps=1000), steps=MANY)
    folder = house.runs.folder(run.run_id)
    with supervisor(house, run, step_s=0.3) as first:
        attempt = await stepped(house, run)
        first.kill()
        first.wait()
    worker = marked(attempt)
    word = msgspec.json.decode(folder.lease.read_bytes())
    folder.lease.write_bytes(msgspec.json.encode(word | {"attempt": 2}))
    hurry(attempt)
    await until(lambda: not marked(attempt))
    assert worker
    assert msgspec.json.decode(attempt.outcome.read_bytes())["ending"] == Ending.STALE
    assert not list(folder.checkpoints.glob("step-????????"))


async def test_workers_may_change_from_attempt_to_attempt(house: House) -> None:
    run = made(house, steps=MANY)
    for number, workers in enumerate((2, 1), start=1):
        placement = placed(workers=workers, every_steps=1000)
        system = Fake(step_s=0.2)
        going = asyncio.create_task(resume(run.run_id, house=house, system=system, placement=placement, pace=PACE))
        await stepped(house, run, attempt=number, steps=number)
        await stop(run.run_id, house=house, pace=PACE)
        await going
    run = await resume(run.run_id, house=house, system=Fake(), placement=placed(workers=2), pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert [event.fields["workers"] for event in told(house, run, Happened.ATTEMPT_STARTED)] == [2, 1, 2]
    begins = [event.fields["step"] for event in told(house, run, Happened.RUNNING)]
    assert begins[0] == 0 < begins[1] < begins[2]
