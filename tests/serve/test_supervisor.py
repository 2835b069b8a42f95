"""Supervision: pauses between starts, health before traffic, and whatever an engine can do wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import EngineFailed, IntegrityError, TandemError
from tandem.serve import supervisor
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.port import Engine, Health, Launch
from tandem.serve.state import State
from tandem.serve.supervisor import Replica, pause_s
from tests.serve.launches import DEADLINE_S, tiny_launch, until

pytestmark = pytest.mark.anyio


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_pause_is_bounded(failures: int, jitter: float) -> None:
    assert 0.5 <= pause_s(failures, jitter) <= 30


@given(st.integers(1, 100), st.floats(0, 1))
def test_pause_grows(failures: int, jitter: float) -> None:
    assert pause_s(failures + 1, jitter) >= pause_s(failures, jitter)


def test_pause_doubles() -> None:
    assert [pause_s(failures, 0.5) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(st.integers(2, 5))
def test_pause_is_spread(failures: int) -> None:
    assert pause_s(failures, 1) == 3 * pause_s(failures, 0)


class Workshop:
    """Makes fake engines, and remembers them and the states that their replica went through."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.engines: list[FakeEngine] = []
        self.states: list[State] = []
        self.causes: list[str] = []  # the last error in each of them
        self.errors: list[Exception] = []  # raised by the next starts
        self.prepare: Callable[[FakeEngine], None] = lambda engine: None
        self.replica = Replica("tiny.1.0", make=self.make, changed=self.note, start_timeout_s=DEADLINE_S)

    async def make(self) -> Engine:
        if self.errors:
            raise self.errors.pop(0)
        engine = FakeEngine(self.launch)
        self.prepare(engine)
        self.engines.append(engine)
        return engine

    def note(self) -> None:
        self.states.append(self.replica.state)
        self.causes.append(self.replica.last_error)

    @property
    def ready(self) -> bool:
        return self.replica.state is State.READY


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same behaviour in a hundredth of the time."""
    monkeypatch.setattr(supervisor, "_POLL_READY_S", 0.01)
    monkeypatch.setattr(supervisor, "_POLL_STARTING_S", 0.005)
    monkeypatch.setattr(supervisor, "pause_s", lambda failures, jitter: 0.001 * failures)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
async def workshop(fast: None, tmp_path: Path) -> AsyncIterator[Workshop]:
    """A workshop whose replica is stopped at the end."""
    workshop = Workshop(tiny_launch(tmp_path))
    yield workshop
    await workshop.replica.stop()


async def test_becomes_ready_and_stops(workshop: Workshop) -> None:
    replica = workshop.replica
    assert replica.state is State.STARTING
    assert replica.upstream is None
    replica.start()
    await until(lambda: workshop.ready)
    assert replica.upstream is not None
    assert replica.upstream.url == workshop.engines[0].address.url
    assert replica.capabilities == workshop.engines[0].capabilities
    await replica.stop()
    assert replica.state is State.STOPPED
    assert replica.upstream is None
    assert await workshop.engines[0].health() is Health.FAILING


async def test_a_move_sends_requests_elsewhere_and_waits_for_the_old_ones(workshop: Workshop) -> None:
    replica = workshop.replica
    assert replica.move() is None, "it answers nowhere yet"
    replica.start()
    await until(lambda: workshop.ready)
    before, told = replica.upstream, len(workshop.states)
    assert before is not None
    before.acquire()
    assert replica.move() is before
    after = replica.upstream
    assert after is not None
    assert after is not before
    assert len(workshop.states) == told + 1, "the routes hear of it"
    draining = asyncio.create_task(replica.drain(timeout_s=30))
    await asyncio.sleep(0.02)
    assert not draining.done()
    before.release()
    await draining
    before.acquire()
    replica.move()
    await replica.stop()
    assert before.is_cut, "what it still says there is broken off, too"


async def test_no_traffic_before_health(workshop: Workshop) -> None:
    def ill(engine: FakeEngine) -> None:
        engine.healthy = False

    workshop.prepare = ill
    workshop.replica.start()
    await until(lambda: bool(workshop.engines))
    for _ in range(20):
        await asyncio.sleep(0.001)
        assert workshop.replica.upstream is None
    workshop.engines[0].healthy = True
    await until(lambda: workshop.ready)


async def test_engine_that_never_gets_healthy_is_started_anew(workshop: Workshop) -> None:
    def ill(engine: FakeEngine) -> None:
        engine.healthy = bool(workshop.engines)  # only the first one is ill
        # The second one has all the time that a busy machine needs for one look at it.
        workshop.replica._start_timeout_s = DEADLINE_S if engine.healthy else 0.05

    workshop.prepare = ill
    workshop.replica.start()
    await until(lambda: workshop.ready)
    assert len(workshop.engines) == 2
    assert State.RESTARTING in workshop.states


async def test_crash_takes_it_out_of_service_and_brings_it_back(workshop: Workshop) -> None:
    replica = workshop.replica
    replica.start()
    await until(lambda: workshop.ready)
    first = replica.upstream
    await workshop.engines[0].crash()
    await until(lambda: len(workshop.engines) == 2 and workshop.ready)
    assert workshop.states == [State.READY, State.RESTARTING, State.READY]
    assert replica.upstream is not first
    assert replica.restarts == 1
    assert replica.last_error == ""


async def test_crash_is_seen_at_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    # With an hour between health checks only the engine's own word can tell.
    monkeypatch.setattr(supervisor, "_POLL_READY_S", 3600)
    workshop.replica.start()
    await until(lambda: workshop.ready)
    await workshop.engines[0].crash()
    await until(lambda: State.RESTARTING in workshop.states)


async def test_three_missed_checks_end_it(workshop: Workshop) -> None:
    workshop.replica.start()
    await until(lambda: workshop.ready)
    workshop.engines[0].healthy = False
    await until(lambda: State.RESTARTING in workshop.states)
    await until(lambda: workshop.ready)
    assert len(workshop.engines) == 2
    assert await workshop.engines[0].health() is Health.FAILING


async def test_a_single_missed_check_is_forgiven(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Health.FAILING, Health.FAILING, Health.READY] * 3)
    asked = []

    async def health() -> Health:
        asked.append(next(answers, Health.READY))
        return asked[-1]

    workshop.replica.start()
    await until(lambda: workshop.ready)
    monkeypatch.setattr(workshop.engines[0], "health", health)
    await until(lambda: len(asked) > 9)
    assert workshop.states == [State.READY]


async def test_repeated_failures_are_told_and_retried(workshop: Workshop) -> None:
    workshop.errors = [EngineFailed(f"burnt {attempt}") for attempt in range(6)]
    workshop.replica.start()
    await until(lambda: workshop.ready)
    assert workshop.states == [State.RESTARTING] * 4 + [State.FAILED] * 2 + [State.READY]
    assert ["burnt" in cause for cause in workshop.causes] == [True] * 6 + [False]
    assert workshop.replica.restarts == 6


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (IntegrityError("broken", remedy="Pull it again."), State.FAILED),
        (OSError(28, "No space left on device"), State.RESTARTING),
        (TandemError("odd"), State.RESTARTING),
        (RuntimeError("a fault of ours"), State.RESTARTING),
    ],
)
async def test_no_error_ends_supervision(workshop: Workshop, error: Exception, state: State) -> None:
    workshop.errors = [error]
    workshop.replica.start()
    await until(lambda: workshop.ready)
    assert workshop.states[0] is state


async def test_failures_are_forgotten_after_a_healthy_life(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_HEALTHY_AFTER_S", 0)
    workshop.replica.start()
    for lives in range(1, 8):
        await until(lambda lives=lives: len(workshop.engines) == lives and workshop.ready)
        await workshop.engines[-1].crash()
    assert State.FAILED not in workshop.states


async def test_stop_while_it_waits_to_start_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "pause_s", lambda failures, jitter: 3600)
    workshop.errors = [EngineFailed("burnt")]
    workshop.replica.start()
    await until(lambda: workshop.states == [State.RESTARTING])
    await workshop.replica.stop()
    assert workshop.replica.state is State.STOPPED
    assert not workshop.engines


async def test_drain_waits_for_running_requests(workshop: Workshop) -> None:
    workshop.replica.start()
    await until(lambda: workshop.ready)
    upstream = workshop.replica.upstream
    assert upstream is not None
    upstream.acquire()
    drained = asyncio.create_task(workshop.replica.drain(timeout_s=60))
    await asyncio.sleep(0.02)
    assert not drained.done()
    upstream.release()
    await asyncio.wait_for(drained, 10)


async def test_drain_gives_up_in_time(workshop: Workshop) -> None:
    workshop.replica.start()
    await until(lambda: workshop.ready)
    assert workshop.replica.upstream is not None
    workshop.replica.upstream.acquire()
    await asyncio.wait_for(workshop.replica.drain(timeout_s=0.01), 10)
