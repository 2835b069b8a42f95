"""Runs: one execution of a recipe on a placement; the state is the fold of an append-only log of events."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec

from tandem.spec.placement import Placement
from tandem.spec.recipe import Recipe


class RunState(StrEnum):
    """Where a run stands."""

    PLANNED = "planned"
    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return self in {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


class Happened(StrEnum):
    """The kinds of events, and who writes them: the supervisor (S), or the first worker of an attempt (W)."""

    CREATED = "created"  # S: run_id, recipe_id, name, steps, planned
    ATTEMPT_STARTED = "attempt_started"  # S: micro_samples, workers, drop_newest_checkpoint
    RUNNING = "running"  # W: step it begins at, environment, precision, planned
    CHECKPOINT = "checkpoint"  # W: step, bytes, seconds, every_s
    CHECKPOINT_REJECTED = "checkpoint_rejected"  # W: step, reason
    CHECKPOINT_FAILED = "checkpoint_failed"  # W: step, reason
    EVALUATED = "evaluated"  # W: step, loss, bits_per_byte, and what else was measured
    STEP_SKIPPED = "step_skipped"  # W: step, reason
    EXPORTED = "exported"  # W: files by name with sha256 and bytes
    ATTEMPT_ENDED = "attempt_ended"  # S: ending, step, detail, signal
    RECOVERING = "recovering"  # S: reason
    PAUSED = "paused"  # S: reason
    FAILED = "failed"  # S: reason
    SUCCEEDED = "succeeded"  # S
    CANCELLED = "cancelled"  # S
    REGISTERED = "registered"  # S: version


class Ending(StrEnum):
    """How an attempt ended. The worker says it by exit status and `outcome.json`; HUNG and KILLED only others can."""

    FINISHED = "finished"  # 0: all steps, the evaluation, the export and the report are done
    PAUSED = "paused"  # 10: asked to stop; the state is saved
    DISK_FULL = "disk_full"  # 11: three checkpoints in a row found no space; the last good one is intact
    STALE = "stale"  # 12: a newer attempt has taken the run
    DIVERGED = "diverged"  # 13: three steps in a row were not finite
    OUT_OF_MEMORY = "out_of_memory"  # 14: the micro-batch does not fit
    UNUSABLE = "unusable"  # 15: data, checkpoints or the recipe cannot be used; trying again cannot help
    CRASHED = "crashed"  # any other status: an exception
    KILLED = "killed"  # a signal
    HUNG = "hung"  # no step for too long


EXIT_STATUS: Mapping[Ending, int] = {
    Ending.FINISHED: 0,
    Ending.PAUSED: 10,
    Ending.DISK_FULL: 11,
    Ending.STALE: 12,
    Ending.DIVERGED: 13,
    Ending.OUT_OF_MEMORY: 14,
    Ending.UNUSABLE: 15,
    Ending.CRASHED: 1,
}
"""What a worker exits with, so that whoever started it knows the ending without a file."""

# PyTorch, C++, the kernel, and Rust, in which tokenizers are written.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "cannot allocate memory",
    "memory allocation of",
)


def lacks_memory(words: str) -> bool:
    """Whether an allocator says in them that it found no memory."""
    return any(one in words.lower() for one in _NO_MEMORY)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker is told, in `job.json` of its attempt's folder. Paths are absolute.

    `folder` is the run's, `attempt` the fencing number, `placement` with what the supervisor changed for this attempt.
    """

    run_id: str
    folder: str
    home: str
    attempt: int
    recipe: Recipe
    placement: Placement
    usd_per_hour: float = 0.0
    drop_newest_checkpoint: bool = False
    planned: dict[str, float] = {}
    """tokens_per_s and wall_s of the whole run, as the planner says before it begins; empty where it cannot."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a run's log. `at` is in Unix milliseconds, `attempt` the fencing number of who wrote it."""

    kind: Happened
    at: int
    attempt: int = 0
    fields: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its log tells it."""

    run_id: str = ""
    recipe_id: str = ""
    name: str = ""
    state: RunState = RunState.PLANNED
    reason: str = ""
    attempt: int = 0
    step: int = 0
    """Of the last checkpoint."""
    steps: int = 0
    restarts: int = 0
    version: str = ""
    created_at: int = 0  # Unix milliseconds
    updated_at: int = 0
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    exports: Mapping[str, Any] = field(default_factory=dict)


_STATES = {
    Happened.ATTEMPT_STARTED: RunState.STARTING,
    Happened.RUNNING: RunState.RUNNING,
    Happened.RECOVERING: RunState.RECOVERING,
    Happened.PAUSED: RunState.PAUSED,
    Happened.FAILED: RunState.FAILED,
    Happened.SUCCEEDED: RunState.SUCCEEDED,
    Happened.CANCELLED: RunState.CANCELLED,
}


def fold(events: Iterable[Event]) -> Run:
    """The run that the events tell of. What a fenced-off attempt still wrote is not believed."""
    run = Run()
    for event in events:
        if event.attempt >= run.attempt:
            run = _after(run, event)
    return run


def _after(run: Run, event: Event) -> Run:
    told = event.fields
    run = replace(
        run,
        attempt=event.attempt,
        updated_at=event.at,
        state=_STATES.get(event.kind, run.state),
        reason=str(told.get("reason", "")) if event.kind in _STATES else run.reason,
    )
    match event.kind:
        case Happened.CREATED:
            named = {key: told[key] for key in ("run_id", "recipe_id", "name")}
            return replace(run, **named, steps=told.get("steps", 0), created_at=event.at)
        case Happened.RUNNING:
            return replace(run, step=told["step"], steps=told.get("steps", run.steps))
        case Happened.CHECKPOINT:
            return replace(run, step=told["step"])
        case Happened.RECOVERING:
            return replace(run, restarts=run.restarts + 1)
        case Happened.EVALUATED:
            return replace(run, evaluation=told)
        case Happened.EXPORTED:
            return replace(run, exports=told)
        case Happened.REGISTERED:
            return replace(run, version=told["version"])
        case _:
            return run
