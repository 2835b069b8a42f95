"""The system port: the shipped fake and this machine keep the same word, with one worker and with several."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tandem.compute import heartbeats
from tandem.compute.systems import Condition, Fake, Status, System, processes
from tandem.compute.systems.fake import Fault
from tandem.compute.systems.processes import marked
from tandem.kit.errors import Unavailable
from tandem.kit.lines import read_lines
from tandem.spec import EXIT_STATUS, AttemptFolder, Ending, Event, Happened, Job, RunFolder
from tests.compute.stand_ins import (
    MANY,
    STEPS,
    SYSTEMS,
    MakeSystem,
    kill,
    pinned,
    placed,
    running,
    until,
    written,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=SYSTEMS)
def make(request: pytest.FixtureRequest) -> MakeSystem:
    """Each kind of system in turn."""
    return request.param


@pytest.fixture(params=[1, 2])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    """An attempt of one worker, then of two."""
    return written(tmp_path / "run_1", placement=placed(workers=request.param))


@pytest.fixture(params=[1, 2])
def long_job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    """An attempt that is not over before it is ended, of one worker, then of two."""
    return long(tmp_path, workers=request.param)


def long(tmp_path: Path, *, workers: int = 1) -> Job:
    placement = placed(workers=workers, every_steps=1000)
    return written(tmp_path / "run_1", recipe=pinned(steps=MANY), placement=placement)


async def ended(system: System, attempt: AttemptFolder) -> Status:
    """The status of an attempt that has ended."""

    async def is_over() -> bool:
        return (await system.poll(attempt)).condition is not Condition.RUNNING

    await until(is_over)
    return await system.poll(attempt)


async def steps(attempt: AttemptFolder, count: int, ranks: int) -> None:
    """Wait until so many workers have taken so many steps."""

    def all_there() -> bool:
        beats = heartbeats(attempt, ranks)
        return len(beats) == ranks and all(beat.step >= count for beat in beats)

    await until(all_there)


async def test_it_says_what_there_is(make: MakeSystem) -> None:
    capacity = await make().describe()
    assert capacity.healthy
    assert capacity.devices >= 1
    assert capacity.memory_bytes >= 2**30


async def test_an_attempt_runs_to_its_end(make: MakeSystem, job: Job) -> None:
    async with running(make(), job) as attempt:
        assert await ended(make(), attempt) == Status(condition=Condition.ENDED, exit_status=0)
    run = RunFolder(Path(job.folder))
    kinds = [event.kind for event in read_lines(run.events, Event)]
    assert kinds[0] is Happened.RUNNING
    assert kinds[-1] is Happened.EXPORTED
    assert len(list(run.checkpoints.iterdir())) == STEPS // 2


async def test_what_was_never_there_is_lost_and_stopped(make: MakeSystem, tmp_path: Path) -> None:
    attempt = RunFolder(tmp_path).attempt(1)
    system = make()
    assert (await system.poll(attempt)).condition is Condition.LOST
    await system.dump(attempt)
    await system.stop(attempt, grace_s=1)


async def test_another_object_finds_it_again(make: MakeSystem, long_job: Job) -> None:
    async with running(make(step_s=0.3), long_job) as attempt:
        assert (await make().poll(attempt)).condition is Condition.RUNNING
        await make().stop(attempt, grace_s=0)
        assert not marked(attempt)
        assert (await make().poll(attempt)).signal == "SIGKILL"


async def test_stopping_lets_it_save(make: MakeSystem, tmp_path: Path) -> None:
    job = long(tmp_path)
    system = make(step_s=0.3)
    async with running(system, job) as attempt:
        await steps(attempt, 1, 1)
        await system.stop(attempt, grace_s=20)
        assert (await system.poll(attempt)).exit_status == EXIT_STATUS[Ending.PAUSED]
        assert not marked(attempt)
    assert len(list(RunFolder(Path(job.folder)).checkpoints.iterdir())) == 1


async def test_several_are_stopped_alike(make: MakeSystem, tmp_path: Path) -> None:
    system = make(step_s=0.3)
    async with running(system, long(tmp_path, workers=2)) as attempt:
        await steps(attempt, 1, 2)
        await system.stop(attempt, grace_s=20)
        assert (await system.poll(attempt)).exit_status == EXIT_STATUS[Ending.PAUSED]


async def test_a_killed_worker_ends_all_and_is_named(make: MakeSystem, long_job: Job) -> None:
    rank = long_job.placement.workers - 1
    system = make(step_s=0.3)
    async with running(system, long_job) as attempt:
        await steps(attempt, 1, long_job.placement.workers)
        kill(attempt, signal.SIGKILL, rank=rank)
        assert await ended(system, attempt) == Status(condition=Condition.ENDED, signal="SIGKILL", rank=rank)


async def test_a_failing_worker_is_named(make: MakeSystem, job: Job) -> None:
    rank = job.placement.workers - 1
    system = make(faults=[Fault(ending=Ending.OUT_OF_MEMORY, at=2, rank=rank)], step_s=0.1)
    async with running(system, job) as attempt:
        status = await ended(system, attempt)
    assert status == Status(condition=Condition.ENDED, exit_status=EXIT_STATUS[Ending.OUT_OF_MEMORY], rank=rank)


async def test_stacks_are_written_and_the_worker_lives(make: MakeSystem, tmp_path: Path) -> None:
    system = make(faults=[Fault(ending=Ending.HUNG, at=2)])
    async with running(system, written(tmp_path / "run_1")) as attempt:
        await steps(attempt, 2, 1)

        async def shown() -> bool:
            await system.dump(attempt)  # a worker that beats for a step has not got to where it hangs yet
            return "suffer" in attempt.stacks(0).read_text()

        await until(shown)
        assert (await system.poll(attempt)).condition is Condition.RUNNING


async def test_a_stopped_process_is_killed_after_the_grace(make: MakeSystem, long_job: Job) -> None:
    system = make(step_s=0.3)
    async with running(system, long_job) as attempt:
        await steps(attempt, 1, long_job.placement.workers)
        kill(attempt, signal.SIGSTOP)
        await system.stop(attempt, grace_s=0.2)
        assert (await system.poll(attempt)).condition is Condition.ENDED
        assert not marked(attempt)


async def test_a_process_that_was_just_begun_is_ended_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was begun while the others were looked for is found by looking again."""
    monkeypatch.setattr(processes, "_PATIENCE_S", 3600.0)
    async with running(Fake(step_s=0.3), long(tmp_path)) as attempt:
        await steps(attempt, 1, 1)
        looks = iter([[msgspec.json.decode(attempt.process.read_bytes())["pid"]]])
        monkeypatch.setattr(processes, "marked", lambda attempt: next(looks, None) or marked(attempt))
        await Fake().stop(attempt, grace_s=0)
        assert not marked(attempt)


async def test_a_killed_keeper_leaves_nothing_unnoticed(make: MakeSystem, tmp_path: Path) -> None:
    system = make(step_s=0.3)
    async with running(system, long(tmp_path)) as attempt:
        await steps(attempt, 1, 1)
        keeper = msgspec.json.decode(attempt.process.read_bytes())["pid"]
        os.kill(keeper, signal.SIGKILL)
        assert (await ended(system, attempt)).condition is Condition.LOST
        assert marked(attempt)
        await system.stop(attempt, grace_s=0)
        assert not marked(attempt)


async def test_a_pid_that_another_process_has_now_is_not_taken_for_ours(make: MakeSystem, tmp_path: Path) -> None:
    attempt = RunFolder(tmp_path).attempt(1)
    attempt.path.mkdir(parents=True)
    record = {"pid": os.getpid(), "born": 1, "program": os.getpid(), "program_born": 1}
    attempt.process.write_bytes(msgspec.json.encode(record))
    assert (await make().poll(attempt)).condition is Condition.LOST
    await make().stop(attempt, grace_s=1)


async def test_who_is_cancelled_at_a_start_leaves_what_can_be_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = RunFolder(Path(long(tmp_path).folder)).attempt(1)
    create = asyncio.create_subprocess_exec

    async def created(*words: str, **options: Any) -> asyncio.subprocess.Process:
        keeper = await create(*words, **options)
        starting.cancel()
        return keeper

    with monkeypatch.context() as early:
        early.setattr(asyncio, "create_subprocess_exec", created)
        starting = asyncio.create_task(Fake(step_s=0.3).submit(attempt, workers=1))
        with pytest.raises(asyncio.CancelledError):
            await starting
    try:
        assert (await Fake().poll(attempt)).condition is Condition.RUNNING
    finally:
        await Fake().stop(attempt, grace_s=0)


async def test_no_secret_reaches_a_worker(make: MakeSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HUB_TOKEN", "hf_hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    system = make(faults=[Fault(ending=Ending.HUNG, at=1)])
    async with running(system, written(tmp_path / "run_1")) as attempt:
        await steps(attempt, 1, 1)
        for pid in marked(attempt):
            variables = Path(f"/proc/{pid}/environ").read_text()
            assert "hunter2" not in variables
            assert "OMP_NUM_THREADS=" in variables


async def test_a_start_that_fails_is_told(make: MakeSystem, tmp_path: Path) -> None:
    job = written(tmp_path / "run_1")
    attempt = RunFolder(Path(job.folder)).attempt(1)
    attempt.log.mkdir()
    with pytest.raises(Unavailable, match="cannot be started.*directory"):
        await make().submit(attempt, workers=1)
    assert not marked(attempt)
