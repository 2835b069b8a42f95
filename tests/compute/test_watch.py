"""The watch: hangs by the workers' own pace, limits, wishes, and what an attempt's end is called."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.compute import Beat, heartbeats
from tandem.compute.restarts import Ended
from tandem.compute.systems import Condition, Fake, Status
from tandem.compute.systems.fake import Fault
from tandem.compute.watch import Bounds, Pulse, ended, over_limit, watch
from tandem.spec import EXIT_STATUS, AttemptFolder, Ending, Limits, RunFolder
from tests.compute.stand_ins import MANY, STEPS, pinned, placed, running, written

LOST = Status(condition=Condition.LOST)
LIMITS = Limits(hang_s=60.0, start_s=600.0)


def train(step: int, p95_s: float = 0.0) -> Beat:
    return Beat(phase="train", step=step, p95_s=p95_s)


@pytest.mark.parametrize(
    ("beats", "seconds"),
    [
        ([], 600.0),
        ([Beat(phase="start")], 600.0),
        ([train(5)], 60.0),
        ([train(5, 5.9)], 60.0),
        ([train(5, 7.0)], 70.0),
        ([train(5, 7.0), train(5, 8.0)], 80.0),
        ([train(5), Beat(phase="evaluate", step=5)], 600.0),
    ],
)
def test_patience_follows_what_is_done(beats: list[Beat], seconds: float) -> None:
    assert Pulse(LIMITS).patience_s(beats) == seconds


def test_a_step_or_another_phase_is_progress() -> None:
    pulse = Pulse(LIMITS)
    assert pulse.still_s([], 100.0) == 0.0
    assert pulse.still_s([], 130.0) == 30.0
    assert pulse.still_s([Beat(phase="start")], 131.0) == 0.0
    assert pulse.still_s([train(0)], 140.0) == 0.0
    assert pulse.still_s([Beat(phase="train", at=9, p95_s=3.0)], 150.0) == 10.0
    assert pulse.still_s([train(1)], 151.0) == 0.0


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 1e3))
def test_limits_hold_over_all_attempts(
    wall_s: float, spent_s: float, running_s: float, usd: float, price: float
) -> None:
    bounds = Bounds(limits=Limits(wall_s=wall_s, usd=usd), spent_s=spent_s, usd_per_hour=price)
    total = spent_s + running_s
    expected = (wall_s and total > wall_s) or (usd and total / 3600 * price > usd)
    assert over_limit(bounds, running_s) == ("budget" if expected else "")


def attempt_with(folder: Path, *, outcome: Ending | None = None, step: int = 7, log: str = "") -> AttemptFolder:
    attempt = AttemptFolder(folder)
    attempt.heartbeat(0).write_bytes(msgspec.json.encode(train(step)))
    if outcome is not None:
        said = {"ending": outcome, "step": step + 1, "detail": "why", "exception": "E"}
        attempt.outcome.write_bytes(msgspec.json.encode(said))
    if log:
        attempt.log.write_text(log)
    return attempt


def done(exit_status: int | None = None, **fields: object) -> Status:
    return msgspec.convert({"condition": Condition.ENDED, "exit_status": exit_status, **fields}, Status)


@pytest.mark.parametrize("ending", EXIT_STATUS)
def test_the_exit_status_is_enough(tmp_path: Path, ending: Ending) -> None:
    attempt = attempt_with(tmp_path, log="first\nlast words\n\n")
    assert ended(attempt, done(EXIT_STATUS[ending])) == Ended(ending=ending, step=7, detail="last words")


@pytest.mark.parametrize("status", [2, 127, 255])
def test_any_other_status_is_a_crash(tmp_path: Path, status: int) -> None:
    assert ended(attempt_with(tmp_path), done(status)).ending is Ending.CRASHED


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        (Ending.CRASHED, done(1), Ended(ending=Ending.CRASHED, step=8, detail="why", exception="E")),
        # the others crashed because one was killed
        (Ending.CRASHED, done(signal="SIGKILL", rank=1), Ended(ending=Ending.KILLED, step=7, signal="SIGKILL", rank=1)),
        (None, done(signal="SIGSEGV"), Ended(ending=Ending.KILLED, step=7, signal="SIGSEGV")),
        # the others were asked to stop because one failed
        (Ending.PAUSED, done(signal="SIGKILL", rank=1), Ended(ending=Ending.KILLED, step=7, signal="SIGKILL", rank=1)),
        (Ending.PAUSED, done(14, rank=1), Ended(ending=Ending.OUT_OF_MEMORY, step=7, rank=1)),
        (Ending.PAUSED, done(1), Ended(ending=Ending.CRASHED, step=7)),
        # of several workers that fail the launcher may only know that they did
        (Ending.OUT_OF_MEMORY, done(1), Ended(ending=Ending.OUT_OF_MEMORY, step=8, detail="why", exception="E")),
        # it had said its word before the machine went down
        (
            Ending.PAUSED,
            Status(condition=Condition.LOST),
            Ended(ending=Ending.PAUSED, step=8, detail="why", exception="E"),
        ),
        (
            None,
            Status(condition=Condition.LOST),
            Ended(ending=Ending.KILLED, step=7, detail="the workers are gone without a trace"),
        ),
    ],
)
def test_who_is_believed(tmp_path: Path, outcome: Ending | None, status: Status, expected: Ended) -> None:
    assert ended(attempt_with(tmp_path, outcome=outcome), status) == expected


@pytest.mark.parametrize(
    ("signal", "last_words", "expected"),
    [
        ("SIGABRT", "memory allocation of 96 bytes failed\nFatal Python error: Aborted", Ending.OUT_OF_MEMORY),
        ("SIGABRT", "terminate called after throwing an instance of 'std::bad_alloc'", Ending.OUT_OF_MEMORY),
        ("SIGABRT", "free(): invalid pointer", Ending.KILLED),
        ("SIGKILL", "memory allocation of 96 bytes failed", Ending.KILLED),
    ],
)
def test_a_library_that_aborts_for_want_of_memory(
    tmp_path: Path, signal: str, last_words: str, expected: Ending
) -> None:
    how = ended(attempt_with(tmp_path, log=last_words), done(signal=signal, rank=1))
    assert how == Ended(ending=expected, step=7, signal=signal, rank=1)


def test_torn_words_are_no_words(tmp_path: Path) -> None:
    attempt = attempt_with(tmp_path, outcome=Ending.PAUSED)
    attempt.outcome.write_text('{"ending": "pau')
    attempt.heartbeat(0).write_text("")
    assert ended(attempt, done(0)) == Ended(ending=Ending.FINISHED)
    assert heartbeats(attempt, 1) == []


async def watched(
    system: Fake, folder: Path, *, wish: str = "", workers: int = 1, steps: int = STEPS, **limits: float
) -> Ended:
    job = written(folder / "run_1", recipe=pinned(steps=steps), placement=placed(workers=workers, **limits))
    bounds = Bounds(limits=job.placement.limits, usd_per_hour=3600.0, stop_grace_s=20.0, poll_s=0.02)

    def wished() -> str:
        beats = heartbeats(RunFolder(folder / "run_1").attempt(1), 1)
        return wish if any(beat.step for beat in beats) else ""

    async with running(system, job) as attempt:
        return await watch(system, attempt, workers=workers, bounds=bounds, wish=wished)


@pytest.mark.anyio
async def test_an_end_is_seen(tmp_path: Path) -> None:
    how = await watched(Fake(), tmp_path)
    assert how == Ended(ending=Ending.FINISHED, step=STEPS, detail="as told")


@pytest.mark.anyio
async def test_a_hang_leaves_its_stacks(tmp_path: Path) -> None:
    fault = Fault(ending=Ending.HUNG, at=1)  # before its first step it may take its time
    how = await watched(Fake(faults=[fault]), tmp_path, hang_s=0.3)
    assert (how.ending, how.step) == (Ending.HUNG, 1)
    assert "phase train" in how.detail
    assert "suffer" in RunFolder(tmp_path / "run_1").attempt(1).stacks(0).read_text()


@pytest.mark.anyio
async def test_a_start_that_takes_too_long_is_a_hang(tmp_path: Path) -> None:
    how = await watched(Fake(step_s=30.0), tmp_path, start_s=0.3)
    assert (how.ending, how.step) == (Ending.HUNG, 0)


@pytest.mark.anyio
@pytest.mark.parametrize(("wish", "limits"), [("user", {}), ("budget", {"wall_s": 1e-9}), ("budget", {"usd": 1e-9})])
async def test_it_is_stopped_when_asked(tmp_path: Path, wish: str, limits: dict[str, float]) -> None:
    how = await watched(Fake(step_s=0.3), tmp_path, wish="user" if wish == "user" else "", steps=MANY, **limits)
    assert how.asked == wish
    if wish == "user":
        assert how.ending is Ending.PAUSED


@pytest.mark.anyio
async def test_a_worker_that_is_killed_is_named(tmp_path: Path) -> None:
    fault = Fault(ending=Ending.KILLED, at=2, rank=1)
    how = await watched(Fake(faults=[fault], step_s=0.05), tmp_path, workers=2)
    assert (how.ending, how.signal, how.rank) == (Ending.KILLED, "SIGKILL", 1)
