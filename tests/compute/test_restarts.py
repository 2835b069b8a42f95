"""The restart policy: progress refills the allowance, what repeats itself fails, and no loop is endless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.compute.restarts import LONGEST_PAUSE_S, Decision, Ended, Fail, Pause, Restart, Try, decide, spent_s, tries
from tandem.spec import Ending, Event, Happened, Limits

LIMITS = Limits(restarts=3)
UNFINISHED = [ending for ending in Ending if ending is not Ending.FINISHED]


def tried(ending: Ending, step: int = 5, *, checkpoints: int = 0, micro: int = 8, exception: str = "E") -> Try:
    ended = Ended(ending=ending, step=step, exception=exception, detail="why")
    return Try(ended=ended, checkpoints=checkpoints, micro_samples=micro)


def killed(count: int, *, checkpoints: int = 0) -> list[Try]:
    return [tried(Ending.KILLED, checkpoints=checkpoints) for _ in range(count)]


TRIES = st.lists(
    st.builds(
        tried,
        st.sampled_from(UNFINISHED),
        st.integers(0, 3),
        checkpoints=st.integers(0, 2),
        micro=st.integers(1, 64),
        exception=st.sampled_from("AB"),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("ending", [Ending.KILLED, Ending.HUNG, Ending.CRASHED, Ending.STALE])
def test_the_first_accident_is_forgiven_at_once(ending: Ending) -> None:
    decision = decide([tried(ending)], LIMITS)
    assert isinstance(decision, Restart)
    assert decision.reason
    assert (decision.micro_samples, decision.drop_newest_checkpoint, decision.pause_s) == (0, False, 0.0)


def test_the_allowance_ends_without_progress() -> None:
    assert isinstance(decide(killed(3), LIMITS), Restart)
    assert isinstance(decide(killed(4), LIMITS), Fail)


def test_a_checkpoint_refills_it() -> None:
    assert isinstance(decide(killed(30, checkpoints=1), LIMITS), Restart)
    assert isinstance(decide([*killed(9, checkpoints=1), *killed(2)], LIMITS), Restart)
    assert isinstance(decide([*killed(9, checkpoints=1), *killed(3)], LIMITS), Fail)


def test_no_allowance_is_no_restart() -> None:
    assert isinstance(decide(killed(1, checkpoints=1), Limits(restarts=0)), Fail)


@pytest.mark.parametrize("between", [[], [tried(Ending.KILLED, 2, checkpoints=1)]])
def test_the_same_exception_at_the_same_step_is_deterministic(between: list[Try]) -> None:
    decision = decide([tried(Ending.CRASHED), *between, tried(Ending.CRASHED)], LIMITS)
    assert decision == Fail(reason="E: why at step 5, twice: trying again would end there again.")


@pytest.mark.parametrize("other", [tried(Ending.CRASHED, 6), tried(Ending.CRASHED, exception="F"), tried(Ending.HUNG)])
def test_another_step_or_exception_is_not(other: Try) -> None:
    assert isinstance(decide([tried(Ending.CRASHED), other], LIMITS), Restart)


def test_memory_is_halved_down_to_one_sample() -> None:
    seen, history = [], [tried(Ending.OUT_OF_MEMORY, micro=13)]
    while isinstance(decision := decide(history, LIMITS), Restart):
        seen.append(decision.micro_samples)
        history.append(tried(Ending.OUT_OF_MEMORY, micro=decision.micro_samples))
    assert seen == [6, 3, 1]
    assert isinstance(decision, Fail)
    assert "batch.context" in decision.reason


def test_memory_takes_nothing_from_the_allowance() -> None:
    history = [*(tried(Ending.OUT_OF_MEMORY) for _ in range(9)), *killed(3)]
    assert isinstance(decide(history, LIMITS), Restart)


def test_divergence_goes_back_once() -> None:
    first = decide([tried(Ending.DIVERGED)], LIMITS)
    assert isinstance(first, Restart)
    assert first.drop_newest_checkpoint
    assert isinstance(decide([tried(Ending.DIVERGED), *killed(1), tried(Ending.DIVERGED, 9)], LIMITS), Fail)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (tried(Ending.DISK_FULL), Pause(reason="disk")),
        (tried(Ending.PAUSED), Pause(reason="preempted")),
        (tried(Ending.UNUSABLE), Fail(reason="why")),
        (Try(ended=Ended(ending=Ending.PAUSED, asked="budget")), Pause(reason="budget")),
        (Try(ended=Ended(ending=Ending.KILLED, asked="user")), Pause(reason="user")),
    ],
)
def test_what_no_restart_helps(last: Try, expected: Decision) -> None:
    assert decide([last], LIMITS) == expected


@given(TRIES)
def test_a_decision_says_why_and_keeps_its_bounds(history: list[Try]) -> None:
    decision = decide(history, LIMITS)
    assert decision.reason
    if isinstance(decision, Restart):
        assert 0 <= decision.pause_s <= LONGEST_PAUSE_S
        assert decision.micro_samples < history[-1].micro_samples or not decision.micro_samples
        assert decision.drop_newest_checkpoint == (history[-1].ended.ending is Ending.DIVERGED)


@given(st.lists(st.sampled_from(UNFINISHED), min_size=40, max_size=40), st.integers(1, 64))
def test_without_progress_there_is_an_end(endings: list[Ending], micro: int) -> None:
    history: list[Try] = []
    for ending in endings:
        history.append(tried(ending, len(history), micro=micro))
        decision = decide(history, LIMITS)
        if not isinstance(decision, Restart):
            return
        micro = decision.micro_samples or micro
    raise AssertionError("forty attempts without a checkpoint, and still another one")


def event(kind: Happened, attempt: int = 1, at: int = 0, **fields: object) -> Event:
    return Event(kind=kind, at=at, attempt=attempt, fields=fields)


def test_tries_are_read_from_the_log() -> None:
    started = event(Happened.ATTEMPT_STARTED, micro_samples=0, share=8, workers=1, drop_newest_checkpoint=False)
    end = event(Happened.ATTEMPT_ENDED, ending="killed", step=4, signal="SIGKILL", rank=1)
    log = [
        event(Happened.CREATED, 0),
        started,
        event(Happened.RUNNING, step=0, micro_samples=4),
        event(Happened.CHECKPOINT, step=2),
        end,
        event(Happened.RECOVERING, reason="x"),
        event(Happened.ATTEMPT_STARTED, 2, micro_samples=2, share=8),
        event(Happened.CHECKPOINT, 1, step=4),  # of the first attempt, which is fenced off by now
        event(Happened.ATTEMPT_ENDED, 2, ending="hung", step=4),
    ]
    first, second = tries(log)
    assert first == Try(
        ended=Ended(ending=Ending.KILLED, step=4, signal="SIGKILL", rank=1), checkpoints=1, micro_samples=4
    )
    assert second == Try(ended=Ended(ending=Ending.HUNG, step=4), checkpoints=0, micro_samples=2)
    assert tries([*log, event(Happened.PAUSED, 2, reason="user")]) == []


def test_time_is_that_of_attempts() -> None:
    log = [
        event(Happened.CREATED, 0, at=0),
        event(Happened.ATTEMPT_STARTED, at=1000),
        event(Happened.ATTEMPT_ENDED, at=3000),
        event(Happened.PAUSED, at=3000),
        event(Happened.ATTEMPT_STARTED, 2, at=60_000),
    ]
    assert spent_s(log, now=61_500) == 3.5
    assert spent_s(log[:4], now=61_500) == 2.0
