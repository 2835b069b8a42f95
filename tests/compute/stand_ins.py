"""Runs that need no training: a pinned recipe, placements that lose no time, and attempts on a fake system."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from tandem.compute import Lease, System
from tandem.compute.systems import Fake, Local, processes
from tandem.compute.systems.fake import Behaviour, Fault
from tandem.compute.systems.processes import marked, workers
from tandem.kit import clock
from tandem.kit.lines import write_whole
from tandem.spec import (
    AttemptFolder,
    Batch,
    Budget,
    Checkpoints,
    Data,
    Job,
    Limits,
    Model,
    Objective,
    Optimizer,
    Placement,
    Recipe,
    RunFolder,
    Shape,
    Tokenizer,
)

PATIENCE_S = 60.0  # far above what anything here takes on a busy machine; who reaches it hangs
STEPS = 6
MANY = 100
"""Steps of a run that a test has to reach before its end, however late it comes: `hurry` lets it end."""
DIGEST = f"sha256:{'a' * 64}"


def pinned(name: str = "tiny", *, steps: int = STEPS, seed: int = 0, parent: str = "") -> Recipe:
    """A recipe of which everything is known by its digest."""
    shape = None if parent else Shape(width=64, layers=2, heads=1, kv_heads=1, ffn=64)
    return Recipe(
        name=name,
        model=Model(shape=shape, parent=parent, parent_sha256=DIGEST if parent else ""),
        data=(Data(format="text", source="stdlib:", license="PSF-2.0", sha256=DIGEST),),
        objective=Objective(name="lm"),
        optimizer=Optimizer(lr=1e-3),
        batch=Batch(samples=8, context=16),
        budget=Budget(steps=steps),
        tokenizer=Tokenizer(sha256=DIGEST),
        seed=seed,
    )


def placed(*, workers: int = 1, micro_samples: int = 0, every_steps: int = 2, **limits: float) -> Placement:
    """A placement on the fake system."""
    return Placement(
        system="fake",
        workers=workers,
        micro_samples=micro_samples,
        checkpoints=Checkpoints(every_steps=every_steps),
        limits=msgspec.convert(limits, Limits),
    )


class Trial(Local):
    """The local system as it is, with our stand-in in place of the trainer: torchrun starts several of them."""

    def __init__(self, *, step_s: float = 0.0, faults: Sequence[Fault] = ()) -> None:
        super().__init__(program=(str(Path(__file__).with_name("rank.py")),))
        self._behaviour = Behaviour(step_s=step_s, faults=tuple(faults))

    async def submit(self, attempt: AttemptFolder, *, workers: int) -> None:
        write_whole(attempt.path / "behaviour.json", msgspec.json.encode(self._behaviour))
        await super().submit(attempt, workers=workers)


MakeSystem = Callable[..., System]
SYSTEMS: Sequence[MakeSystem] = (Fake, Trial)


def written(folder: Path, *, number: int = 1, recipe: Recipe | None = None, placement: Placement | None = None) -> Job:
    """The job of an attempt, in its folder, with the lease that belongs to it."""
    run = RunFolder(folder)
    job = Job(
        run_id=folder.name,
        folder=str(folder),
        home=str(folder.parent),
        attempt=number,
        recipe=recipe or pinned(),
        placement=placement or placed(),
    )
    run.attempt(number).path.mkdir(parents=True)
    write_whole(run.attempt(number).job, msgspec.json.encode(job))
    lease = Lease(run, seconds=PATIENCE_S)
    lease.take()
    while lease.attempt < number:
        lease.next_attempt()
    return job


@asynccontextmanager
async def running(system: System, job: Job) -> AsyncIterator[AttemptFolder]:
    """A submitted attempt; nothing of it is left afterwards."""
    attempt = RunFolder(Path(job.folder)).attempt(job.attempt)
    try:
        await system.submit(attempt, workers=job.placement.workers)
        yield attempt
    finally:
        await system.stop(attempt, grace_s=0)
        assert not marked(attempt)


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Ask until it is so."""
    deadline = clock.monotonic_seconds() + PATIENCE_S
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert clock.monotonic_seconds() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def commands(word: str) -> list[str]:
    """The commands with a word in them of all living processes, but for those that end while we look."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [command for command in found if word in command]


def hurry(attempt: AttemptFolder) -> None:
    """Let the workers of a running attempt take their steps as fast as they can from now on."""
    write_whole(attempt.path / "behaviour.json", msgspec.json.encode(Behaviour()))


def kill(attempt: AttemptFolder, number: signal.Signals, *, rank: int = 0) -> None:
    """Send a signal to the worker with this rank."""
    by_rank = {_rank(pid): pid for pid in workers(attempt)}
    os.kill(by_rank[rank], number)


def _rank(pid: int) -> int:
    words = dict(word.partition(b"=")[::2] for word in processes._environment(pid).split(b"\0"))
    return int(words.get(b"LOCAL_RANK", b"0"))
