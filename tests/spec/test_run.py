"""Runs: the state is what the log says, and what a fenced-off attempt still writes is not believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.spec import EXIT_STATUS, Ending, Event, Happened, Run, RunState, fold


def event(kind: Happened, *, attempt: int = 1, at: int = 7, **fields: object) -> Event:
    return Event(kind=kind, at=at, attempt=attempt, fields=fields)


CREATED = event(Happened.CREATED, attempt=0, at=5, run_id="run_1", recipe_id="sha256:1", name="coder", steps=9)
STARTED = event(Happened.ATTEMPT_STARTED, micro_samples=1)
RUNNING = event(Happened.RUNNING, step=0, steps=10)
EVERY_KIND = {
    Happened.RUNNING: {"step": 1},
    Happened.CHECKPOINT: {"step": 2},
    Happened.REGISTERED: {"version": "coder@1"},
    Happened.CREATED: {"run_id": "run_1", "recipe_id": "sha256:1", "name": "coder"},
}


def test_a_whole_life() -> None:
    run = fold(
        [
            CREATED,
            STARTED,
            RUNNING,
            event(Happened.CHECKPOINT, step=4),
            event(Happened.ATTEMPT_ENDED, ending="killed"),
            event(Happened.RECOVERING, reason="killed"),
            event(Happened.ATTEMPT_STARTED, attempt=2),
            event(Happened.RUNNING, attempt=2, step=4, steps=10),
            event(Happened.EVALUATED, attempt=2, step=10, loss=1.5),
            event(Happened.CHECKPOINT, attempt=2, step=10),
            event(Happened.EXPORTED, attempt=2, files={}),
            event(Happened.REGISTERED, attempt=2, version="coder@1"),
            event(Happened.SUCCEEDED, attempt=2, at=99),
        ]
    )
    assert run == Run(
        run_id="run_1",
        recipe_id="sha256:1",
        name="coder",
        state=RunState.SUCCEEDED,
        attempt=2,
        step=10,
        steps=10,
        restarts=1,
        version="coder@1",
        created_at=5,
        updated_at=99,
        evaluation={"step": 10, "loss": 1.5},
        exports={"files": {}},
    )


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (Happened.ATTEMPT_STARTED, RunState.STARTING),
        (Happened.RUNNING, RunState.RUNNING),
        (Happened.RECOVERING, RunState.RECOVERING),
        (Happened.PAUSED, RunState.PAUSED),
        (Happened.FAILED, RunState.FAILED),
        (Happened.SUCCEEDED, RunState.SUCCEEDED),
        (Happened.CANCELLED, RunState.CANCELLED),
    ],
)
def test_the_last_word_is_the_state(kind: Happened, state: RunState) -> None:
    run = fold([CREATED, event(kind, reason="why", step=3)])
    assert (run.state, run.reason) == (state, "why")
    assert run.state.over == (state in {RunState.FAILED, RunState.SUCCEEDED, RunState.CANCELLED})


def test_nothing_has_happened_yet() -> None:
    assert fold([]) == Run()
    assert fold([CREATED]).state is RunState.PLANNED
    assert fold([CREATED]).steps == 9


def test_a_reason_stays_until_the_state_changes() -> None:
    paused = [CREATED, STARTED, event(Happened.PAUSED, reason="disk"), event(Happened.CHECKPOINT, step=3)]
    assert fold(paused).reason == "disk"
    assert fold([*paused, event(Happened.ATTEMPT_STARTED, attempt=2)]).reason == ""


@given(st.lists(st.sampled_from(list(Happened)), max_size=8))
def test_a_stale_attempt_changes_nothing(kinds: list[Happened]) -> None:
    log = [CREATED, event(Happened.ATTEMPT_STARTED, attempt=3), event(Happened.RUNNING, attempt=3, step=5)]
    stale = [event(kind, attempt=2, at=1000, **EVERY_KIND.get(kind, {})) for kind in kinds]
    assert fold([*log, *stale]) == fold(log)
    assert fold([*log[:2], *stale, *log[2:]]) == fold(log)


@given(st.lists(st.sampled_from(list(Happened)), max_size=12))
def test_any_log_can_be_folded(kinds: list[Happened]) -> None:
    log = [event(kind, **EVERY_KIND.get(kind, {})) for kind in kinds]
    run = fold(log)
    assert run.restarts == kinds.count(Happened.RECOVERING)
    assert run.updated_at == (7 if kinds else 0)


def test_each_ending_has_a_status_of_its_own() -> None:
    assert len(set(EXIT_STATUS.values())) == len(EXIT_STATUS)
    assert set(Ending) - set(EXIT_STATUS) == {Ending.KILLED, Ending.HUNG}, "these only others can tell"
    assert EXIT_STATUS[Ending.FINISHED] == 0
