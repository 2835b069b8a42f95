"""One attempt of a run in a process of its own: from a job file to an exit status that says how it ended."""

import faulthandler
import json
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec
import torch

from tandem.kit.errors import StorageFull, TandemError
from tandem.kit.lines import write_whole
from tandem.spec import EXIT_STATUS, AttemptFolder, Ending, Job, RunFolder, lacks_memory
from tandem.train.attempt import Attempt
from tandem.train.checkpoint import Stale
from tandem.train.parallel import joined

# What allocators say that have no exception of their own.


class StopRequest:
    """Whether somebody asked this process to save and stop: SIGTERM, SIGINT, or Slurm's SIGUSR1."""

    def __init__(self) -> None:
        self.made = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.made = True


def run(job_path: Path) -> int:
    """Do the attempt that the job describes; returns the exit status, `spec.EXIT_STATUS` of its ending."""
    stop = StopRequest()
    job = msgspec.json.decode(job_path.read_bytes(), type=Job)
    place = RunFolder(Path(job.folder)).attempt(job.attempt)
    ending = _until_the_end(job, place, lambda: stop.made)
    return EXIT_STATUS[ending]


def _until_the_end(job: Job, place: AttemptFolder, asked_to_stop: Callable[[], bool]) -> Ending:
    """The attempt, with whatever ends it written to the outcome."""
    attempt: Attempt | None = None
    try:
        with joined(job.placement) as ranks:
            with place.stacks(ranks.rank).open("w") as stacks:
                faulthandler.register(signal.SIGUSR2, file=stacks)
                attempt = Attempt(job, ranks, asked_to_stop)
                try:
                    ending = attempt.run()
                finally:
                    faulthandler.unregister(signal.SIGUSR2)
            if ranks.first:
                _say(place, ending, step=attempt.step)
            return ending
    except Exception as error:
        ending = classify(error)
        step = attempt.step if attempt is not None else 0
        traceback.print_exc()  # to the attempt's log
        _say(place, ending, step=step, error=error)
        return ending


def classify(error: BaseException) -> Ending:
    """How an attempt ends that this exception ended."""
    match error:
        case Stale():
            return Ending.STALE
        case StorageFull():
            return Ending.DISK_FULL
        case FloatingPointError():
            return Ending.DIVERGED
        case MemoryError() | torch.OutOfMemoryError():
            return Ending.OUT_OF_MEMORY
        case RuntimeError() if lacks_memory(str(error)):
            return Ending.OUT_OF_MEMORY
        case TandemError():
            return Ending.UNUSABLE
        case _:
            return Ending.CRASHED


def _say(place: AttemptFolder, ending: Ending, *, step: int, error: BaseException | None = None) -> None:
    """Write the outcome; the word of the first worker that has one counts."""
    detail = str(error) if error is not None else ""
    name = type(error).__name__ if error is not None else ""
    if place.outcome.exists():
        return
    outcome = {"ending": ending.value, "step": step, "detail": detail[:2000], "exception": name}
    try:
        write_whole(place.outcome, json.dumps(outcome).encode())
    except OSError:
        pass  # a full disk: the exit status says the same
