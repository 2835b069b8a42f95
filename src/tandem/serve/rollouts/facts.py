"""What is told of a rollout: where it is, both sides' numbers summed up, and the findings of its last look."""

from typing import TypedDict

from tandem.serve.rollouts.plan import Finding, Plan, Rollout
from tandem.serve.rollouts.statistics import median
from tandem.serve.rollouts.window import Numbers


class SideFacts(TypedDict):
    """One side in the present step; times are medians in seconds, `likeness` is a mean from 0 to 1."""

    requests: int
    failed: int
    filtered: int
    left: int
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    token_s: float
    compared: int
    equal: int
    likeness: float
    skipped: int


class RolloutFacts(TypedDict):
    """A rollout; `share` is the percentage of requests that the candidate answers now."""

    id: str
    deployment: str
    development: bool
    state: str
    stable: str
    version: str
    digest: str
    plan: Plan
    step: int
    share: int
    looks: int
    elapsed_s: float
    numbers: dict[str, SideFacts]
    findings: list[Finding]
    reason: str
    created_at: int
    updated_at: int
    ended_at: int | None


def rollout_facts(rollout: Rollout) -> RolloutFacts:
    """The facts of a rollout; `msgspec.to_builtins` makes them JSON."""
    progress = rollout.progress
    return RolloutFacts(
        id=rollout.id,
        deployment=rollout.deployment,
        development=rollout.owner != "",
        state=rollout.state.value,
        stable=rollout.stable,
        version=rollout.version,
        digest=rollout.digest,
        plan=rollout.plan,
        step=rollout.step,
        share=round(100 * rollout.share),
        looks=progress.looks,
        elapsed_s=progress.elapsed_s,
        numbers={"stable": _side(progress.stable), "candidate": _side(progress.candidate)},
        findings=list(rollout.findings),
        reason=rollout.reason,
        created_at=rollout.created_at,
        updated_at=rollout.updated_at,
        ended_at=rollout.ended_at,
    )


def _side(numbers: Numbers) -> SideFacts:
    return SideFacts(
        requests=numbers.requests,
        failed=numbers.failed,
        filtered=numbers.filtered,
        left=numbers.left,
        prompt_tokens=numbers.prompt_tokens,
        completion_tokens=numbers.completion_tokens,
        first_token_s=median(numbers.first_token_s),
        token_s=median(numbers.token_s),
        compared=numbers.compared,
        equal=numbers.equal,
        likeness=round(numbers.mean_likeness, 4),
        skipped=numbers.skipped,
    )
