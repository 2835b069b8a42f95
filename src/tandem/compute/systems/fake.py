"""A fake system: real processes that train nothing, write what workers write, and go wrong when told to."""

import sys
from collections.abc import Sequence

import msgspec

from tandem.compute.systems import processes
from tandem.compute.systems.local import Local, worker_environment
from tandem.compute.systems.port import Capacity
from tandem.kit.lines import write_whole
from tandem.spec import AttemptFolder, Ending

PROGRAM = ("-m", "tandem.compute.systems.fake_worker")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What happens after step `at`: the attempt ends so, or hangs. A worker that is out of memory is so only
    `above` a micro-batch."""

    ending: Ending
    at: int
    attempts: tuple[int, ...] = ()  # empty: all
    rank: int = 0
    above: int = 0


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How the fake's workers behave."""

    step_s: float = 0.0
    faults: tuple[Fault, ...] = ()


class Fake(Local):
    """This machine with a stand-in for the workers; how they behave lies beside their job."""

    def __init__(self, *, usd_per_hour: float = 0.0, step_s: float = 0.0, faults: Sequence[Fault] = ()) -> None:
        super().__init__(usd_per_hour=usd_per_hour, program=PROGRAM)
        self._behaviour = Behaviour(step_s=step_s, faults=tuple(faults))

    async def describe(self) -> Capacity:
        """Two devices that are no devices."""
        return Capacity(devices=2, kind="fake", memory_bytes=2**30, usd_per_hour=self._usd_per_hour)

    async def submit(self, attempt: AttemptFolder, *, workers: int) -> None:
        """Start the stand-in, which starts the others where there are several."""
        write_whole(attempt.path / "behaviour.json", msgspec.json.encode(self._behaviour))
        command = [sys.executable, *PROGRAM, str(attempt.job)]
        await processes.start(attempt, command, worker_environment(attempt, workers))
