"""The nouns of a rollout: how it is meant to go, where it is, and what was found at its looks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from tandem.kit.errors import InvalidRequest
from tandem.serve.rollouts.window import Numbers
from tandem.spec import Task

LOOKS = 5
"""Times that the numbers of a step are judged, spread evenly over its time and its requests."""

_MAX_STEPS = 20
_MAX_HOLD_S = 30 * 24 * 3600.0
_MAX_LEAST = 1_000_000


class Mode(StrEnum):
    """How the candidate meets requests."""

    CANARY = "canary"
    """A share of the requests is answered by it."""
    SHADOW = "shadow"
    """It gets the requests too, and its answers are compared and thrown away."""


class RolloutState(StrEnum):
    """Where a rollout is; the first two are under way, the others final."""

    RUNNING = "running"
    PAUSED = "paused"
    """Stays at its step. Regressions still end it."""
    PROMOTED = "promoted"
    """The candidate is what the deployment is bound to."""
    ROLLED_BACK = "rolled_back"
    DONE = "done"
    """A shadow that has been measured; nothing was changed."""


# NOTE: plans, progress and findings are stored for ever. Fields are only added, at the end, with a default.


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout does by itself."""

    mode: Mode = Mode.CANARY
    steps: tuple[int, ...] = (5, 25, 50, 100)
    """Percent of the requests that the candidate answers, step by step; a shadow has the one step 100."""
    hold_s: float = 60.0
    """The least time of each step, counted while the candidate is ready."""
    least: int = 50
    """The least requests that the candidate has answered in each step."""
    sticky: bool = False
    """Whether a client, which is a key, stays on its side; otherwise each request is drawn by itself."""
    alpha: float = 0.05
    """The chance that the whole rollout is rolled back although the candidate is no worse."""
    slower: float = 0.2
    """How much slower than the stable version's the candidate's median must be, to count as slower at all."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What the present step has seen."""

    looks: int = 0
    elapsed_s: float = 0.0
    stable: Numbers = Numbers()
    candidate: Numbers = Numbers()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One measure at one look: both numbers, the test, and what it says."""

    measure: str
    test: str
    stable: float
    candidate: float
    stable_requests: int
    candidate_requests: int
    p: float
    alpha: float
    """The threshold for p: the rollout's alpha divided by all tests that it can make."""
    worse: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout as it was recorded."""

    id: str
    deployment: str
    owner: str
    state: RolloutState
    stable: str  # name@number
    stable_digest: str
    version: str
    digest: str
    size: int
    facts: Mapping[str, object]
    plan: Plan
    step: int  # index into plan.steps
    progress: Progress
    findings: tuple[Finding, ...] = field(default=())
    reason: str = ""
    created_at: int  # Unix seconds
    updated_at: int
    ended_at: int | None = None
    base: str = ""  # the digest of the model that the candidate's bytes, an adapter, go with

    @property
    def is_active(self) -> bool:
        """Whether it is under way."""
        return self.ended_at is None

    @property
    def words(self) -> str:
        """Where it is, in a few words."""
        if not self.is_active:
            return self.state.value.replace("_", " ")
        paused = ", paused" if self.state is RolloutState.PAUSED else ""
        if self.plan.mode is Mode.SHADOW:
            return f"{self.version} in the shadow{paused}"
        return f"{self.plan.steps[self.step]} % {self.version}{paused}"

    @property
    def share(self) -> float:
        """The part of the requests that the candidate should answer, 0 to 1."""
        return self.plan.steps[self.step] / 100 if self.is_active and self.plan.mode is Mode.CANARY else 0.0


def check_plan(plan: Plan) -> None:
    """Refuse what is no plan.

    Raises:
        InvalidRequest: a number is out of its bounds.
    """
    steps = list(plan.steps)
    if not steps or len(steps) > _MAX_STEPS or steps != sorted(set(steps)) or not 1 <= steps[0] <= steps[-1] <= 100:
        raise InvalidRequest(
            f"The steps are {', '.join(map(str, steps)) or 'none'}.",
            remedy=f"Give 1 to {_MAX_STEPS} growing percentages from 1 to 100, such as 5,25,50,100.",
            param="steps",
        )
    bounds: tuple[tuple[str, float, float], ...] = (
        ("hold_s", 0, _MAX_HOLD_S),
        ("least", 1, _MAX_LEAST),
        ("alpha", 1e-6, 0.5),
        ("slower", 0, 100),
    )
    for name, low, high in bounds:
        value = getattr(plan, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise InvalidRequest(f"{name} is {value}.", remedy=f"Use {low:g} to {high:.12g}.", param=name)


def check_task(task: Task, *, deployment: str, version: str, wanted: Task) -> None:
    """Refuse a candidate that is for something else.

    Raises:
        InvalidRequest: its task is not the deployment's.
    """
    if task is not wanted:
        raise InvalidRequest(
            f"{version} is for {task}, and the deployment {deployment!r} for {wanted}.",
            remedy="`tandem deploy` gives it a name of its own.",
            param="model",
        )
