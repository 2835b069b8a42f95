"""The fake's worker: counts steps, writes what a worker writes, and ends as it is told; `JOB.json [RANK]`."""

import asyncio
import faulthandler
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from tandem.compute.systems.fake import PROGRAM, Behaviour, Fault
from tandem.compute.systems.heartbeats import heartbeats
from tandem.formats import write_tiny_gguf
from tandem.kit import clock
from tandem.kit.lines import append_line, write_whole
from tandem.spec import EXIT_STATUS, Ending, Event, Happened, Job, RunFolder

STEPS = 10  # of a recipe that counts them by something else
_EVERY_STEPS = 2  # between checkpoints
_NAP_S = 0.02
_PATIENCE_S = 30.0  # with a worker whose neighbour has failed, as torchrun has it; it may be saving


class _Ended(Exception):
    """The attempt is over."""

    def __init__(self, ending: Ending, exception: str = "") -> None:
        super().__init__(ending)
        self.ending = ending
        self.exception = exception


@dataclass(slots=True, kw_only=True)
class _Worker:
    job: Job
    rank: int
    step: int = 0
    stopping: bool = False
    run: RunFolder = field(init=False)

    def __post_init__(self) -> None:
        self.run = RunFolder(Path(self.job.folder))

    @property
    def behaviour(self) -> Behaviour:
        """As it is told now: who has seen enough of a slow one may let it hurry."""
        attempt = self.run.attempt(self.job.attempt)
        return msgspec.json.decode((attempt.path / "behaviour.json").read_bytes(), type=Behaviour)

    @property
    def steps(self) -> int:
        return self.job.recipe.budget.steps or STEPS

    def train(self) -> None:
        """From the newest checkpoint to the last step, or to whatever ends it before."""
        self.step = self._newest_checkpoint()
        self.beat("start")
        self.say(Happened.RUNNING, step=self.step, steps=self.steps, micro_samples=self._micro_samples())
        every = self.job.placement.checkpoints.every_steps or _EVERY_STEPS
        while self.step < self.steps:
            self.meet()
            time.sleep(self.behaviour.step_s)
            self.step += 1
            self.beat("train")
            for fault in self.behaviour.faults:
                self.suffer(fault)
            if self.stopping or self.step % every == 0 or self.step == self.steps:
                self.save()
            if self.stopping:
                raise _Ended(Ending.PAUSED)
        self.export()

    def meet(self) -> None:
        """Wait until all workers have come this far, as those that share a gradient do."""
        attempt = self.run.attempt(self.job.attempt)
        while not self.stopping:
            beats = heartbeats(attempt, self.job.placement.workers)
            if len(beats) == self.job.placement.workers and min(beat.step for beat in beats) >= self.step:
                return
            time.sleep(_NAP_S)

    def suffer(self, fault: Fault) -> None:
        """End as the fault says, if its time has come."""
        due = fault.at == self.step and fault.rank == self.rank
        due = due and (not fault.attempts or self.job.attempt in fault.attempts)
        if not due or (fault.above and self._micro_samples() <= fault.above):
            return
        match fault.ending:
            case Ending.KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
            case Ending.HUNG:
                while True:
                    time.sleep(_NAP_S)
            case Ending.CRASHED:
                raise _Ended(fault.ending, "RuntimeError")
            case _:
                raise _Ended(fault.ending)

    def save(self) -> None:
        """Write a checkpoint: a folder that gets its name when it is whole. A stale attempt may not."""
        if self.rank:
            return
        if self.run.current_attempt() > self.job.attempt:
            raise _Ended(Ending.STALE)
        part = self.run.checkpoints / f"step-{self.step:08}.tmp-{self.job.attempt}"
        part.mkdir(parents=True, exist_ok=True)
        write_whole(part / "manifest.json", msgspec.json.encode({"step": self.step, "attempt": self.job.attempt}))
        whole = self.run.checkpoints / f"step-{self.step:08}"
        if not whole.exists():
            part.rename(whole)
            self.say(Happened.CHECKPOINT, step=self.step, bytes=1000, seconds=0.0, every_s=0.0)

    def export(self) -> None:
        """Write a model that knows nothing, as large as a model can be that a test waits for."""
        self.beat("export")
        if self.rank:
            return
        path = self.run.export / "model.gguf"
        path.parent.mkdir(exist_ok=True)
        write_tiny_gguf(path, seed=self.job.recipe.seed)
        self.say(Happened.EVALUATED, step=self.step, loss=1.0, bits_per_byte=2.0)
        self.say(Happened.EXPORTED, files={path.name: {"bytes": path.stat().st_size}})

    def say(self, kind: Happened, **fields: Any) -> None:
        """Write an event, as the first worker does for all."""
        if not self.rank:
            event = Event(kind=kind, at=clock.unix_milliseconds(), attempt=self.job.attempt, fields=fields)
            append_line(self.run.events, event)
            if kind is Happened.CHECKPOINT:
                append_line(self.run.metrics, {"step": self.step, "loss": 1.0 / self.step}, durable=False)

    def beat(self, phase: str) -> None:
        """Give the sign of life."""
        word = {"phase": phase, "step": self.step, "at": clock.unix_milliseconds(), "p95_s": self.behaviour.step_s}
        path = self.run.attempt(self.job.attempt).heartbeat(self.rank)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(word))
        part.replace(path)

    def _newest_checkpoint(self) -> int:
        folders = sorted(path for path in self.run.checkpoints.glob("step-*") if ".tmp" not in path.name)
        if self.job.drop_newest_checkpoint and folders and not self.rank:
            dropped = folders.pop()
            (dropped / "manifest.json").unlink()
            dropped.rmdir()
        return int(folders[-1].name.removeprefix("step-")) if folders else 0

    def _micro_samples(self) -> int:
        share = self.job.recipe.batch.samples // self.job.placement.workers
        return self.job.placement.micro_samples or share


def main() -> int:
    """Be a worker, or start several and wait for them, as torchrun does."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    if len(sys.argv) == 2 and job.placement.workers > 1:
        return asyncio.run(_several(job))
    attempt = RunFolder(Path(job.folder)).attempt(job.attempt)
    worker = _Worker(job=job, rank=int(sys.argv[2]) if len(sys.argv) > 2 else 0)

    def stop(_number: int, _frame: FrameType | None) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, stop)
    with attempt.stacks(worker.rank).open("w") as stacks:
        faulthandler.register(signal.SIGUSR2, file=stacks)
        try:
            worker.train()
            ended = _Ended(Ending.FINISHED)
        except _Ended as error:
            ended = error
        faulthandler.unregister(signal.SIGUSR2)
    if ended.ending in EXIT_STATUS and not (worker.rank and ended.ending is Ending.FINISHED):
        outcome = {"ending": ended.ending, "step": worker.step, "detail": "as told", "exception": ended.exception}
        write_whole(attempt.outcome, msgspec.json.encode(outcome))
    return EXIT_STATUS[ended.ending]


async def _several(job: Job) -> int:
    """Start a process for each rank; when one fails the others are ended, and it is reported as torchrun does."""
    ranks = [await _started(rank) for rank in range(job.placement.workers)]
    waiting = {asyncio.create_task(rank.wait()) for rank in ranks}
    while waiting and not any(rank.returncode for rank in ranks):
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    first = next((rank for rank in ranks if rank.returncode), None)
    if first is None:
        return 0
    at = clock.now().strftime("%Y-%m-%d_%H:%M:%S")
    await asyncio.gather(*(_end(rank) for rank in ranks))
    number = ranks.index(first)
    sys.stderr.write(
        f"  time      : {at}\n  host      : here\n  rank      : {number} (local_rank: {number})\n"
        f"  exitcode  : {first.returncode} (pid: {first.pid})\n"
    )
    return 1


async def _started(rank: int) -> asyncio.subprocess.Process:
    command = ["/usr/bin/env", f"LOCAL_RANK={rank}", sys.executable, *PROGRAM, sys.argv[1], str(rank)]
    return await asyncio.create_subprocess_exec(*command, start_new_session=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _PATIENCE_S)
    except TimeoutError:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    sys.exit(main())
