"""The judgement on a rollout: from its plan and numbers to wait, go on, finish or roll back; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tandem.serve.rollouts.plan import LOOKS, Finding, Mode, Plan, Progress
from tandem.serve.rollouts.statistics import fisher_greater, mann_whitney_greater, median
from tandem.serve.rollouts.window import Numbers

FISHER = "Fisher's exact test, one-sided"
MANN_WHITNEY = "Mann-Whitney U test, one-sided"

_MEASURES = 5
_MOST_TIMED = 50  # percent


class Verb(StrEnum):
    """What to do now."""

    WAIT = "wait"
    LOOK = "look"
    """The numbers were judged and are fine so far."""
    ADVANCE = "advance"
    FINISH = "finish"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, what was found at the look that led to it, and how many looks this step has had then."""

    verb: Verb
    looks: int
    findings: tuple[Finding, ...] = ()
    reason: str = ""


def judge(plan: Plan, step: int, progress: Progress, *, paused: bool) -> Decision:
    """What the plan says to do, as often as asked; the numbers are judged at `LOOKS` moments of a step at most.

    Look k of n is due when k/n of the step's time has passed and of its requests have come, so the number of tests is
    known before the first one, and alpha is divided by it (Bonferroni): looking early costs no honesty.
    """
    looks = _looks_due(plan, progress)
    findings: tuple[Finding, ...] = ()
    if looks > progress.looks:
        findings = tuple(compare(plan, step, progress.stable, progress.candidate))
        if worse := [finding for finding in findings if finding.worse]:
            return Decision(verb=Verb.ROLL_BACK, looks=looks, findings=findings, reason=_said(worse, plan))
    if looks < LOOKS or paused:
        return Decision(verb=Verb.LOOK if findings else Verb.WAIT, looks=looks, findings=findings)
    last = step == len(plan.steps) - 1
    return Decision(verb=Verb.FINISH if last else Verb.ADVANCE, looks=looks, findings=findings)


def compare(plan: Plan, step: int, stable: Numbers, candidate: Numbers) -> Iterator[Finding]:
    """The measures of both sides in a step, each with its test.

    Times are compared while the candidate answers at most half of the requests: with more than the stable version's
    share an engine that is just as good is slower.
    """
    alpha = plan.alpha / most_tests(plan)
    for measure, name in (("error rate", "failed"), ("filter rate", "filtered"), ("abandonment", "left")):
        yield _rates(measure, _events(candidate, name), _events(stable, name), alpha=alpha)
    if plan.mode is Mode.CANARY and plan.steps[step] > _MOST_TIMED:
        return
    for measure, name in (("time to first token", "first_token_s"), ("time per token", "token_s")):
        yield _times(measure, getattr(candidate, name), getattr(stable, name), alpha=alpha, slower=plan.slower)


def most_tests(plan: Plan) -> int:
    """How many tests a rollout can make at most."""
    return len(plan.steps) * LOOKS * _MEASURES


def percent(share: float) -> str:
    """A rate for people."""
    return f"{100 * share:.3g} %"


def _looks_due(plan: Plan, progress: Progress) -> int:
    """How many looks of this step are due by now, or were held already."""
    came = progress.candidate.requests + progress.candidate.left
    by_time = int(LOOKS * progress.elapsed_s / plan.hold_s) if plan.hold_s > 0 else LOOKS
    return max(progress.looks, min(LOOKS, by_time, LOOKS * came // plan.least))


def _events(numbers: Numbers, name: str) -> tuple[int, int]:
    if name == "left":
        return numbers.left, numbers.requests + numbers.left
    return getattr(numbers, name), numbers.requests


def _rates(measure: str, candidate: tuple[int, int], stable: tuple[int, int], *, alpha: float) -> Finding:
    p = fisher_greater(candidate, stable)
    return Finding(
        measure=measure,
        test=FISHER,
        stable=stable[0] / stable[1] if stable[1] else 0.0,
        candidate=candidate[0] / candidate[1] if candidate[1] else 0.0,
        stable_requests=stable[1],
        candidate_requests=candidate[1],
        p=p,
        alpha=alpha,
        worse=p < alpha,
    )


def _times(
    measure: str, candidate: tuple[float, ...], stable: tuple[float, ...], *, alpha: float, slower: float
) -> Finding:
    p = mann_whitney_greater(candidate, stable)
    usual, now = median(stable), median(candidate)
    return Finding(
        measure=measure,
        test=MANN_WHITNEY,
        stable=usual,
        candidate=now,
        stable_requests=len(stable),
        candidate_requests=len(candidate),
        p=p,
        alpha=alpha,
        worse=p < alpha and now > usual * (1 + slower),
    )


def _said(worse: list[Finding], plan: Plan) -> str:
    parts = []
    for one in worse:
        shown = percent if one.test == FISHER else _seconds
        parts.append(
            f"the {one.measure} is {shown(one.candidate)} on {one.candidate_requests} requests, the stable version's "
            f"{shown(one.stable)} on {one.stable_requests} ({one.test}, p = {one.p:.2g} under {one.alpha:.2g}, "
            f"which is {plan.alpha:g} over {most_tests(plan)} tests)"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms (median)"
