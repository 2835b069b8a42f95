"""The system port: where workers run, on this machine or on a cluster, outliving whoever started them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tandem.spec import AttemptFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a system offers: `devices` of a `kind`, each with `memory_bytes`, or cores that share theirs."""

    devices: int
    kind: str  # "cpu", or the name of the GPU
    memory_bytes: int
    usd_per_hour: float = 0.0  # of the whole system; 0 where it is not known
    healthy: bool = True
    detail: str = ""  # what is wrong with it


class Condition(StrEnum):
    """Whether an attempt's processes are there."""

    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"
    """Never started, or gone without a trace: the machine was switched off, or their keeper was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a system knows of an attempt. Of several workers, `exit_status`, `signal` and `rank` are those of the
    first one that failed."""

    condition: Condition
    exit_status: int | None = None
    signal: str = ""  # such as SIGKILL
    rank: int = 0


class System(Protocol):
    """The five verbs. All that they need lies in the attempt's folder, so any process may use them at any time."""

    async def describe(self) -> Capacity:
        """What there is, what it costs, and whether it can be used now."""
        ...

    async def submit(self, attempt: AttemptFolder, *, workers: int) -> None:
        """Start the workers of the attempt whose `job.json` is written; they live on when the caller dies.

        Raises:
            Unavailable: they cannot be started; nothing of them runs.
        """
        ...

    async def poll(self, attempt: AttemptFolder) -> Status:
        """How it stands; never waits."""
        ...

    async def stop(self, attempt: AttemptFolder, *, grace_s: float) -> None:
        """Ask the workers to save and leave, and kill what is left after the time; nothing of it runs afterwards.

        Without time they are killed at once. An attempt that has ended, or was never there, is no error.
        """
        ...

    async def dump(self, attempt: AttemptFolder) -> None:
        """Have each worker that can still do so write where its threads stand to its `stacks` file."""
        ...
