"""The watch over one attempt: signs of life, hangs, limits and wishes, until it has ended; then how it ended."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from tandem.compute.restarts import Ended
from tandem.compute.systems.heartbeats import Beat, heartbeats
from tandem.compute.systems.port import Condition, Status, System
from tandem.compute.systems.processes import log_tail
from tandem.kit import clock
from tandem.spec import EXIT_STATUS, AttemptFolder, Ending, Limits, lacks_memory

TRAINING = "train"
"""The phase in which steps follow each other; in any other there are none for as long as `limits.start_s`."""

OVER_LIMITS = "budget"
"""Why a run pauses that has used up its time or its money."""

# Steps vary: one that takes this many times the 95th percentile hangs.
_SLOWEST_STEP = 10.0
_STACKS_S = 0.2  # what a worker takes to write its stacks
_HUNG_GRACE_S = 1.0  # a worker that hangs will not save
_ENDINGS = {status: ending for ending, status in EXIT_STATUS.items()}


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker that failed first, or the first worker, said at its end."""

    ending: Ending
    step: int = 0
    detail: str = ""
    exception: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """When the watch steps in. `spent_s` is what earlier attempts took of the limits of the run."""

    limits: Limits
    spent_s: float = 0.0
    usd_per_hour: float = 0.0
    stop_grace_s: float = 300.0
    poll_s: float = 0.25


class Pulse:
    """For how long the workers of an attempt have made no progress, by this process's own clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: Sequence[tuple[str, int]] | None = None
        self._since_s = 0.0

    def still_s(self, beats: Sequence[Beat], now_s: float) -> float:
        """Seconds since a worker took a step or went into another phase."""
        seen = [(beat.phase, beat.step) for beat in beats]
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return now_s - self._since_s

    def patience_s(self, beats: Sequence[Beat]) -> float:
        """How long that may last. While any worker does something else, the others wait for it."""
        if not beats or any(beat.phase != TRAINING for beat in beats):
            return self._limits.start_s
        return max(self._limits.hang_s, _SLOWEST_STEP * max(beat.p95_s for beat in beats))


async def watch(
    system: System, attempt: AttemptFolder, *, workers: int, bounds: Bounds, wish: Callable[[], str]
) -> Ended:
    """Watch an attempt that runs until it has ended, for whatever reason; nothing of it runs then.

    `wish` says why a person wants it to stop, or nothing.
    """
    began_s = clock.monotonic_seconds()
    pulse = Pulse(bounds.limits)
    while (status := await system.poll(attempt)).condition is Condition.RUNNING:
        beats = await asyncio.to_thread(heartbeats, attempt, workers)
        now_s = clock.monotonic_seconds()
        if pulse.still_s(beats, now_s) > pulse.patience_s(beats):
            return await _end_hung(system, attempt, beats)
        if reason := wish() or over_limit(bounds, now_s - began_s):
            return await _end_asked(system, attempt, reason, bounds.stop_grace_s)
        await asyncio.sleep(bounds.poll_s)
    await system.stop(attempt, grace_s=0.0)  # of several workers some may be left
    return ended(attempt, status)


def over_limit(bounds: Bounds, running_s: float) -> str:
    """`OVER_LIMITS` where the run has used up its time or its money."""
    limits, spent_s = bounds.limits, bounds.spent_s + running_s
    over_time = 0 < limits.wall_s < spent_s
    over_price = 0 < limits.usd < spent_s / 3600 * bounds.usd_per_hour
    return OVER_LIMITS if over_time or over_price else ""


async def _end_hung(system: System, attempt: AttemptFolder, beats: Sequence[Beat]) -> Ended:
    await system.dump(attempt)
    await asyncio.sleep(_STACKS_S)
    await system.stop(attempt, grace_s=_HUNG_GRACE_S)
    step = max((beat.step for beat in beats), default=0)
    phases = ", ".join(sorted({beat.phase for beat in beats})) or "start"
    return Ended(ending=Ending.HUNG, step=step, detail=f"in phase {phases}; where it stood is in {attempt.stacks(0)}")


async def _end_asked(system: System, attempt: AttemptFolder, reason: str, grace_s: float) -> Ended:
    await system.stop(attempt, grace_s=grace_s)
    how = ended(attempt, await system.poll(attempt))
    return how if how.ending is Ending.FINISHED else replace(how, asked=reason)


def ended(attempt: AttemptFolder, status: Status) -> Ended:
    """How an attempt ended: as the worker said that ended first, else as the system saw it."""
    said = _outcome(attempt)
    if said is not None and _is_credible(said.ending, status):
        return Ended(ending=said.ending, step=said.step, detail=said.detail, exception=said.exception, rank=status.rank)
    step = max((beat.step for beat in heartbeats(attempt, status.rank + 1)), default=0)
    if status.condition is not Condition.ENDED:
        return Ended(ending=Ending.KILLED, step=step, detail="the workers are gone without a trace")
    if status.signal == "SIGABRT" and lacks_memory(log_tail(attempt)):
        # Native libraries end the process where Python would raise MemoryError.
        return Ended(ending=Ending.OUT_OF_MEMORY, step=step, signal=status.signal, rank=status.rank)
    if status.signal:
        return Ended(ending=Ending.KILLED, step=step, signal=status.signal, rank=status.rank)
    return Ended(ending=_seen(status), step=step, detail=_last_line(attempt), rank=status.rank)


def _is_credible(said: Ending, status: Status) -> bool:
    """Whether that was the end. Where one worker is killed or fails, the others are asked to stop, or crash of it."""
    if status.condition is not Condition.ENDED:
        return True
    if status.signal or _seen(status) is Ending.CRASHED:
        return said is not Ending.PAUSED and not (status.signal and said is Ending.CRASHED)
    return said is _seen(status)


def _seen(status: Status) -> Ending:
    return _ENDINGS.get(status.exit_status if status.exit_status is not None else 1, Ending.CRASHED)


def _outcome(attempt: AttemptFolder) -> _Outcome | None:
    try:
        return msgspec.json.decode(attempt.outcome.read_bytes(), type=_Outcome)
    except (FileNotFoundError, msgspec.DecodeError):
        return None  # it had no time to say it, or a crash has torn it


def _last_line(attempt: AttemptFolder) -> str:
    lines = log_tail(attempt).splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:500]
