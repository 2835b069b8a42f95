"""The restart policy: from how attempts ended to what is done next; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tandem.spec import Ending, Event, Happened, Limits

LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended. `asked` is why its supervisor stopped it, `signal` a name such as SIGKILL."""

    ending: Ending
    step: int = 0
    detail: str = ""
    exception: str = ""
    signal: str = ""
    rank: int = 0
    asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """An attempt that ended, with the checkpoints that it made and the micro-batch that it used."""

    ended: Ended
    checkpoints: int = 0
    micro_samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Try again; `micro_samples` where the micro-batch has to change."""

    reason: str
    micro_samples: int = 0
    drop_newest_checkpoint: bool = False
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Trying again cannot help."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nothing is lost; something or somebody else has to come first."""

    reason: str


Decision = Restart | Fail | Pause


def decide(tries: Sequence[Try], limits: Limits) -> Decision:
    """What follows the last of the tries, which did not finish. Those before a pause are not among them."""
    last = tries[-1]
    ended = last.ended
    assert ended.ending is not Ending.FINISHED
    if ended.asked:
        return Pause(reason=ended.asked)
    match ended.ending:
        case Ending.PAUSED:
            return Pause(reason="preempted")
        case Ending.DISK_FULL:
            return Pause(reason="disk")
        case Ending.UNUSABLE:
            return Fail(reason=ended.detail)
        case Ending.OUT_OF_MEMORY:
            return _with_less_memory(last)
        case Ending.DIVERGED:
            return _rolled_back(tries)
        case Ending.CRASHED if _is_deterministic(tries):
            return Fail(reason=f"{_exception(ended)} at step {ended.step}, twice: trying again would end there again.")
        case _:
            return _within_allowance(tries, limits)


def _with_less_memory(last: Try) -> Decision:
    if last.micro_samples <= 1:
        return Fail(
            reason="The memory does not suffice for a single sample. Use a smaller batch.context or model, an adapter, "
            "sharding fsdp over several workers, or a machine with more memory."
        )
    half = last.micro_samples // 2
    return Restart(reason=f"out of memory: micro-batch of {half} in place of {last.micro_samples}", micro_samples=half)


def _rolled_back(tries: Sequence[Try]) -> Decision:
    times = sum(one.ended.ending is Ending.DIVERGED for one in tries)
    step = tries[-1].ended.step
    if times > 1:
        return Fail(reason=f"The loss was not finite at step {step}, again after going back one checkpoint.")
    return Restart(reason=f"diverged at step {step}: back one checkpoint", drop_newest_checkpoint=True)


def _is_deterministic(tries: Sequence[Try]) -> bool:
    last = tries[-1].ended
    same = [
        one.ended
        for one in tries
        if one.ended.ending is Ending.CRASHED and (one.ended.exception, one.ended.step) == (last.exception, last.step)
    ]
    return len(same) > 1


def _within_allowance(tries: Sequence[Try], limits: Limits) -> Decision:
    """Restart while the allowance lasts; an attempt that made a checkpoint has refilled it."""
    futile = 0
    for one in reversed(tries):
        futile += one.ended.ending not in {Ending.OUT_OF_MEMORY, Ending.DIVERGED}
        if one.checkpoints:
            break
    cause = _cause(tries[-1].ended)
    if futile > limits.restarts:
        return Fail(reason=f"{cause}; {limits.restarts} restarts brought no new checkpoint.")
    return Restart(reason=cause, pause_s=min(2.0 ** (futile - 2), LONGEST_PAUSE_S) if futile > 1 else 0.0)


def _cause(ended: Ended) -> str:
    match ended.ending:
        case Ending.KILLED:
            return f"worker {ended.rank} was killed by {ended.signal}" if ended.signal else ended.detail
        case Ending.HUNG:
            return f"no step for too long after step {ended.step}"
        case Ending.CRASHED:
            return f"{_exception(ended)} at step {ended.step}"
        case _:
            return ended.ending.replace("_", " ")


def _exception(ended: Ended) -> str:
    return f"{ended.exception or 'An error'}: {ended.detail}" if ended.detail else ended.exception or "An error"


def tries(events: Iterable[Event]) -> list[Try]:
    """The attempts that have ended since the run last paused, from its log."""
    found: list[Try] = []
    checkpoints, micro_samples, attempt = 0, 1, 0
    for event in events:
        if event.attempt < attempt:
            continue  # it was fenced off
        attempt, told = event.attempt, event.fields
        match event.kind:
            case Happened.ATTEMPT_STARTED:
                checkpoints, micro_samples = 0, told["micro_samples"] or told["share"]
            case Happened.RUNNING:
                micro_samples = told.get("micro_samples", micro_samples)
            case Happened.CHECKPOINT:
                checkpoints += 1
            case Happened.ATTEMPT_ENDED:
                ended = Ended(**{**told, "ending": Ending(told["ending"])})
                found.append(Try(ended=ended, checkpoints=checkpoints, micro_samples=micro_samples))
            case Happened.PAUSED:
                found = []
            case _:
                pass
    return found


def spent_s(events: Iterable[Event], *, now: int) -> float:
    """Seconds that attempts of the run have taken, the one that goes on until `now` (Unix milliseconds) included."""
    total, began = 0, 0
    for event in events:
        if event.kind is Happened.ATTEMPT_STARTED:
            began = event.at
        elif event.kind is Happened.ATTEMPT_ENDED and began:
            total, began = total + event.at - began, 0
    return (total + (now - began if began else 0)) / 1000
