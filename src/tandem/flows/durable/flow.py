"""The nouns of flows: what is asked of one, where it is, what its steps did, and why it waits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from tandem.kit.ids import sha256_hex
from tandem.serve import DeployOptions, Plan
from tandem.spec import Placement, Recipe

# NOTE: orders are stored until their flows end. Fields are only added, at the end, with a default.

_TIME_DIGITS = 12  # of an id, behind its prefix


class FlowState(StrEnum):
    """Where a flow is; the last three are final, until somebody retries it."""

    QUEUED = "queued"
    """Nobody executes it now."""
    RUNNING = "running"
    WAITING = "waiting"
    """It does nothing until a person, or something else, has done something."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing follows by itself."""
        return self in {FlowState.SUCCEEDED, FlowState.FAILED, FlowState.CANCELLED}


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked of a flow; each story takes some of it."""

    recipe: Recipe | None = None
    """What to train."""
    placement: Placement = Placement()
    """Where to train it."""
    again: bool = False
    """Train even what was trained before."""
    model: str = ""
    """The version that it is about, such as `coder@3`, where none is trained."""
    suites: tuple[str, ...] = ()
    """What to measure; empty: what the charter asks for."""
    member: str = ""
    """Who signs the evidence; empty: whoever's key is here."""
    name: str = ""
    """The deployment."""
    engine: str = "llamacpp"
    """What runs it."""
    options: DeployOptions = DeployOptions()
    """How it runs."""
    plan: Plan | None = None
    """How the version comes in beside the one that serves; where there is none, it takes over at once."""


class StepState(StrEnum):
    """Where a step of a flow is."""

    DONE = "done"
    FAILED = "failed"
    CURRENT = "current"
    AHEAD = "ahead"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStep:
    """A step of a flow. Times are Unix milliseconds."""

    name: str
    state: StepState
    number: int = 0  # in the record of the executor, from 1; 0 where it is not in it
    began_at: int | None = None
    ended_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A flow as it was recorded. Times are Unix milliseconds."""

    id: str
    story: str
    state: FlowState
    step: str
    """The current step, or the last one."""
    why: str
    """Why it waits, what it does, or why it failed."""
    order: Mapping[str, Any]
    by: str
    """Who asked for it."""
    tries: int
    """1, and one more for each retry."""
    created_at: int
    retried_at: int | None = None
    updated_at: int
    ended_at: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What its steps have made: run, version, evidence, release, rollout."""
    steps: tuple[FlowStep, ...] = ()

    @property
    def since(self) -> int:
        """When it was asked for, or retried."""
        return self.retried_at or self.created_at


def made_at(own: str) -> int:
    """When something was made, in Unix milliseconds: its id says so."""
    return int(own.partition("_")[2][:_TIME_DIGITS], 16)


def run_id(flow: str, attempt: int) -> str:
    """The id of the run that a flow makes in its `attempt`th try: the same after a kill, and later in a later try."""
    return f"run_{flow.partition('_')[2][:_TIME_DIGITS]}{attempt:04x}{sha256_hex(f'{flow}/{attempt}')[:16]}"
