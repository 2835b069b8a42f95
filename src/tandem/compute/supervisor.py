"""The supervisor of a run: one attempt after the other by the restart policy, until it is finished, paused or over."""

import asyncio
import errno
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from tandem.compute.lease import Lease
from tandem.compute.restarts import Decision, Ended, Fail, Pause, Restart, decide, spent_s, tries
from tandem.compute.systems import Condition, System
from tandem.compute.watch import Bounds, watch
from tandem.compute.watch import ended as how_it_ended
from tandem.compute.wishes import Wish, forget_wish, wish_of
from tandem.kit import clock
from tandem.kit.errors import Unavailable
from tandem.kit.lines import write_whole
from tandem.spec import AttemptFolder, Ending, Event, Happened, Job, RunFolder

T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Of the last checkpoint: room for the next one, for what it replaces, and some more.
_FREE_SHARE = 2.2
_LEAST_FREE_BYTES = 16 * 2**20


class Log(Protocol):
    """The log of the run, as its supervisor uses it."""

    def append(self, event: Event) -> None:
        """Add an event; it is on the disk when this returns."""
        ...

    def events(self) -> Iterable[Event]:
        """All events in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the supervisor looks, and how long it waits, in seconds."""

    poll_s: float = 0.25
    disk_s: float = 5.0
    stop_grace_s: float = 300.0


class Supervisor:
    """Whoever holds the lease of a run. `job` is what its workers are told, but for the attempt's own."""

    def __init__(self, system: System, log: Log, lease: Lease, *, job: Job, pace: Pace) -> None:
        self._system = system
        self._log = log
        self._lease = lease
        self._job = job
        self._pace = pace
        self._run = RunFolder(Path(job.folder))
        self._interrupted = Wish.NONE

    def interrupt(self) -> None:
        """Pause the run soon: the person at this terminal wants it."""
        self._interrupted = Wish.PAUSE

    async def supervise(self) -> bool:
        """Adopt the attempt that runs, or begin one, and go on until the run is finished; False where it has not.

        Why it has not, the log says: PAUSED, FAILED or CANCELLED.
        """
        how = await self._adopted()
        change: Restart | None = None
        while True:
            if how is None:
                how = await self._attempted(change)
            if how.ending is Ending.FINISHED:
                return True
            decision = decide(tries(self._log.events()), self._job.placement.limits)
            if not await self._goes_on(decision):
                return False
            how, change = None, decision if isinstance(decision, Restart) else None

    async def end_now(self, wish: Wish) -> None:
        """Stop what runs, if anything does, and note what was wished."""
        if (begun := self._open_attempt()) is not None:
            folder = self._run.attempt(begun.attempt)
            await self._system.stop(folder, grace_s=self._pace.stop_grace_s)
            how = how_it_ended(folder, await self._system.poll(folder))
            await self._note_end(replace(how, asked=wish.value))
        await self._settle_wish(wish)

    async def say(self, kind: Happened, **fields: Any) -> None:
        """Write an event, which only the holder of the lease may."""

        def write() -> None:
            self._lease.renew()
            at = clock.unix_milliseconds()
            self._log.append(Event(kind=kind, at=at, attempt=self._lease.attempt, fields=fields))

        await self._patiently(write)

    async def _adopted(self) -> Ended | None:
        """How the attempt ended that an earlier supervisor began, watched to its end if it still runs."""
        if (begun := self._open_attempt()) is None:
            return self._ended_before()
        folder = self._run.attempt(begun.attempt)
        status = await self._system.poll(folder)
        if status.condition is Condition.RUNNING:
            how = await self._watched(folder)
        else:
            await self._system.stop(folder, grace_s=0.0)
            how = how_it_ended(folder, status)
        return await self._note_end(how)

    def _open_attempt(self) -> Event | None:
        """The start of an attempt whose end is not in the log."""
        last: Event | None = None
        for event in self._log.events():
            if event.kind is Happened.ATTEMPT_STARTED:
                last = event
            elif event.kind is Happened.ATTEMPT_ENDED:
                last = None
        return last

    def _ended_before(self) -> Ended | None:
        """The end of the last attempt, where its supervisor died before it acted on it."""
        history = tries(self._log.events())
        return history[-1].ended if history else None

    async def _attempted(self, change: Restart | None) -> Ended:
        if self._lease.attempt:
            await self._system.stop(self._run.attempt(self._lease.attempt), grace_s=0.0)
        capacity = await self._system.describe()

        def write() -> Job:
            job = self._next_job(change, capacity.usd_per_hour)
            folder = self._run.attempt(job.attempt)
            folder.path.mkdir(parents=True)
            write_whole(folder.job, msgspec.json.encode(job))
            return job

        job = await self._patiently(write)
        folder = self._run.attempt(job.attempt)
        placement = job.placement
        await self.say(
            Happened.ATTEMPT_STARTED,
            micro_samples=placement.micro_samples,
            share=max(job.recipe.batch.samples // placement.workers, 1),
            workers=placement.workers,
            drop_newest_checkpoint=job.drop_newest_checkpoint,
        )
        try:
            await self._system.submit(folder, workers=placement.workers)
        except Unavailable as error:
            return await self._note_end(Ended(ending=Ending.CRASHED, exception=type(error).__name__, detail=str(error)))
        return await self._note_end(await self._watched(folder))

    def _next_job(self, change: Restart | None, usd_per_hour: float) -> Job:
        """The job with a new fencing number and the micro-batch that the memory is known to hold."""
        micro_samples = self._job.placement.micro_samples
        for event in self._log.events():
            if event.kind is Happened.ATTEMPT_STARTED:
                micro_samples = event.fields["micro_samples"]
            elif event.kind is Happened.PAUSED:  # whoever resumed it may have changed the placement
                micro_samples = self._job.placement.micro_samples
        if change is not None and change.micro_samples:
            micro_samples = change.micro_samples
        return msgspec.structs.replace(
            self._job,
            attempt=self._lease.next_attempt(),
            usd_per_hour=usd_per_hour,
            placement=msgspec.structs.replace(self._job.placement, micro_samples=micro_samples),
            drop_newest_checkpoint=change is not None and change.drop_newest_checkpoint,
        )

    async def _watched(self, folder: AttemptFolder) -> Ended:
        capacity = await self._system.describe()
        bounds = Bounds(
            limits=self._job.placement.limits,
            spent_s=spent_s(self._log.events(), now=clock.unix_milliseconds()),
            usd_per_hour=capacity.usd_per_hour,
            stop_grace_s=self._pace.stop_grace_s,
            poll_s=self._pace.poll_s,
        )
        return await watch(
            self._system, folder, workers=self._job.placement.workers, bounds=bounds, wish=lambda: self._wish().value
        )

    async def _goes_on(self, decision: Decision) -> bool:
        """Note what was decided, and wait for what has to come first; whether another attempt follows."""
        match decision:
            case Restart():
                await self.say(Happened.RECOVERING, reason=decision.reason)
                wish = await self._wish_within(decision.pause_s)
                return not await self._settle_wish(wish)
            case Fail():
                await self.say(Happened.FAILED, reason=decision.reason)
                return False
            case Pause(reason="disk"):
                await self.say(Happened.PAUSED, reason=decision.reason)
                return not await self._settle_wish(await self._space_or_wish())
            case Pause(reason="cancel" | "user" as reason):
                await self._settle_wish(Wish(reason))
                return False
            case Pause():
                await self.say(Happened.PAUSED, reason=decision.reason)
                return False

    async def _wish_within(self, seconds: float) -> Wish:
        deadline = clock.monotonic_seconds() + seconds
        while True:
            if (wish := self._wish()) or clock.monotonic_seconds() >= deadline:
                return wish
            await asyncio.sleep(min(seconds, self._pace.poll_s))

    async def _space_or_wish(self) -> Wish:
        """Wait until a checkpoint has room; returns what was wished meanwhile, if anything."""
        sizes = [event.fields["bytes"] for event in self._log.events() if event.kind is Happened.CHECKPOINT]
        needed = max(int(_FREE_SHARE * sizes[-1]) if sizes else 0, _LEAST_FREE_BYTES)
        while shutil.disk_usage(self._run.path).free < needed:
            if wish := await self._wish_within(self._pace.disk_s):
                return wish
        return Wish.NONE

    async def _patiently(self, write: Callable[[], T]) -> T:
        """Write; where the disk has no room for even that, wait until it has."""
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
            await asyncio.sleep(self._pace.disk_s)

    def _wish(self) -> Wish:
        return self._interrupted or wish_of(self._run)

    async def _settle_wish(self, wish: Wish) -> bool:
        """Note a wish as done; whether there was one."""
        if wish is Wish.CANCEL:
            await self.say(Happened.CANCELLED, reason=wish.value)
        elif wish is Wish.PAUSE:
            await self.say(Happened.PAUSED, reason=wish.value)
        forget_wish(self._run)
        return bool(wish)

    async def _note_end(self, how: Ended) -> Ended:
        await self.say(Happened.ATTEMPT_ENDED, **{name: getattr(how, name) for name in how.__slots__})
        return how
