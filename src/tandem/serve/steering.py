"""Steering: carries one rollout through its steps, from what both sides answer to what is recorded and decided."""

import asyncio
from collections.abc import Callable

import msgspec

from tandem.kit import clock
from tandem.kit.errors import Conflict
from tandem.serve.fleet import Fleet
from tandem.serve.rollouts.judgement import Decision, Verb, judge
from tandem.serve.rollouts.plan import Mode, Progress, Rollout, RolloutState
from tandem.serve.rollouts.store import Rollouts
from tandem.serve.rollouts.window import Window
from tandem.serve.routes import Split

# An engine that comes back by itself may have met a bad moment; one that does so three times is at fault.
_MOST_RESTARTS = 3


class Steering:
    """One rollout in the process that serves it; a restart goes on from what was recorded."""

    def __init__(self, rollouts: Rollouts, rollout: Rollout) -> None:
        self.rollout = rollout
        self._rollouts = rollouts
        self._noted = rollout.progress
        self._elapsed_s = rollout.progress.elapsed_s
        self._since_s: float | None = None
        self.stable = Window(rollout.progress.stable)
        self.candidate = Window(rollout.progress.candidate)

    def split(self, candidate: Fleet) -> Split:
        """What the routes have to know."""
        return Split(
            salt=self.rollout.id,
            upstreams=candidate.upstreams(self.candidate),
            share=self.rollout.share,
            sticky=self.rollout.plan.sticky,
            shadow=self.rollout.plan.mode is Mode.SHADOW,
        )

    async def turn(self, rollout: Rollout, candidate: Fleet) -> bool:
        """Look at the numbers and do what they say; says whether the recorded rollout is another one now."""
        self._take(rollout)
        self._count_time(candidate)
        progress = msgspec.structs.replace(
            self._noted,
            elapsed_s=round(self._elapsed_s, 3),
            stable=self.stable.numbers(),
            candidate=self.candidate.numbers(),
        )
        if trouble := _trouble(rollout, candidate):
            return await self.roll_back(trouble)
        decision = judge(rollout.plan, rollout.step, progress, paused=rollout.state is RolloutState.PAUSED)
        noted = msgspec.structs.replace(progress, looks=decision.looks)
        if _is_news(noted, self._noted):
            await asyncio.to_thread(self._rollouts.note, rollout, noted, findings=decision.findings or None)
            self._noted = noted
        return await self._act(decision)

    async def roll_back(self, reason: str, decision: Decision | None = None) -> bool:
        """End it for this reason; a person may have been faster."""
        findings = decision.findings if decision is not None else None
        return await self._recorded(self._rollouts.roll_back, self.rollout, reason, findings=findings)

    def _take(self, rollout: Rollout) -> None:
        """Begin afresh where the recorded rollout is at another step than before."""
        if rollout.step != self.rollout.step:
            self._noted = rollout.progress
            self._elapsed_s = rollout.progress.elapsed_s
            self.stable, self.candidate = Window(rollout.progress.stable), Window(rollout.progress.candidate)
        self.rollout = rollout

    def _count_time(self, candidate: Fleet) -> None:
        now_s = clock.monotonic_seconds()
        if self._since_s is not None:
            self._elapsed_s += now_s - self._since_s
        self._since_s = now_s if candidate.alive else None

    async def _act(self, decision: Decision) -> bool:
        rollout, findings = self.rollout, decision.findings or None
        match decision.verb:
            case Verb.ROLL_BACK:
                return await self.roll_back(decision.reason, decision)
            case Verb.ADVANCE:
                return await asyncio.to_thread(self._rollouts.advance, rollout, self._noted, findings=findings)
            case Verb.FINISH if rollout.plan.mode is Mode.SHADOW:
                return await self._recorded(self._rollouts.finish, rollout, _MEASURED, findings=findings)
            case Verb.FINISH:
                return await self._recorded(
                    self._rollouts.promote, rollout, _NO_WORSE, findings=findings, by_itself=True
                )
            case _:
                return False

    async def _recorded(self, write: Callable[..., object], *args: object, **more: object) -> bool:
        try:
            await asyncio.to_thread(write, *args, **more)
        except Conflict:
            pass  # a person ended or paused it a moment ago: that is what holds
        return True


_NO_WORSE = "All steps were held, and no measure of the candidate was worse."
_MEASURED = "The shadow was measured, and no measure of the candidate was worse."


def _is_news(now: Progress, noted: Progress) -> bool:
    """Whether it is worth a write: time alone is after two seconds."""
    waited_s = now.elapsed_s - noted.elapsed_s
    return waited_s >= 2 or msgspec.structs.replace(now, elapsed_s=noted.elapsed_s) != noted


def _trouble(rollout: Rollout, candidate: Fleet) -> str:
    """What ends a rollout without any statistics."""
    if candidate.has_failed:
        return f"{rollout.version} does not start: {candidate.last_error}"
    if candidate.restarts >= _MOST_RESTARTS:
        return f"The engine of {rollout.version} ended {candidate.restarts} times: {candidate.last_error}"
    return ""
