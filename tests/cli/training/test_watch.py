"""The live view: it follows another process's run from its files, in a terminal and in a pipe."""

import asyncio
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tandem.cli.training.follow import Follower, Look, tell
from tandem.cli.training.watch import facts_of, line, view, watch_run
from tandem.kit import clock
from tandem.spec import Event, Happened, RunFolder, read_story
from tests.run_folders import begin_run, measure, say, write, write_run


def console(*, terminal: bool, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=40, color_system=None)


def printed(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def drawn(look: Look, *, width: int = 100, height: int = 40) -> str:
    shown = console(terminal=False, width=width)
    shown.print(view(look, width=width, height=height, hint="q leaves."))
    return printed(shown)


def started(home: Path) -> RunFolder:
    folder = begin_run(home)
    say(folder, Happened.ATTEMPT_STARTED, at=1, attempt=1)
    say(folder, Happened.RUNNING, at=2, attempt=1, step=0, steps=20)
    return folder


def beat(folder: RunFolder, *, phase: str = "train", step: int = 3, ago_s: float = 0.0) -> None:
    at = clock.unix_milliseconds() - int(1000 * ago_s)
    write(folder.attempt(1).heartbeat(0), {"phase": phase, "step": step, "at": at, "p95_s": 1.0})


def test_a_look_adds_what_was_written_since_the_last(tmp_path: Path) -> None:
    folder = started(tmp_path)
    follower = Follower(folder)
    assert follower.look().step == 0
    measure(folder, 1, attempt=1)
    assert follower.look().last["step"] == 1
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "tok')
    assert follower.look().last["step"] == 1, "a line that is not whole yet is none"
    with folder.metrics.open("a") as file:
        file.write('ens": 512}\n{"step": 3\n')
    assert follower.look().last == {"step": 2, "tokens": 512}
    say(folder, Happened.CHECKPOINT, at=9, attempt=1, step=9, bytes=1, seconds=0.1)
    assert follower.look().step == 9
    story = follower.look().story
    assert list(story.events) == list(read_story(folder).events)
    assert list(story.metrics) == list(read_story(folder).metrics)


def test_steps_that_are_taken_again_are_shown_once(tmp_path: Path) -> None:
    folder = started(tmp_path)
    follower = Follower(folder)
    for step in (1, 2, 3):
        measure(folder, step, attempt=1)
    follower.look()
    measure(folder, 2, attempt=2, loss=0.5)
    assert [record["step"] for record in follower.look().story.metrics] == [1, 2]


def test_phase_time_left_and_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "unix_milliseconds", lambda: 1_700_000_000_000)
    folder = started(tmp_path)
    assert Follower(folder).look().phase == "running"
    measure(folder, 5, attempt=1)
    beat(folder, phase="evaluate")
    look = Follower(folder).look()
    assert (look.phase, look.left_s, look.silent_s) == ("evaluate", 15.0, 0.0)
    beat(folder, ago_s=60)
    look = Follower(folder).look()
    assert look.silent_s == 60
    assert "tandem runs resume run_0001" in drawn(look)
    say(folder, Happened.PAUSED, at=9, attempt=1, reason="user")
    look = Follower(folder).look()
    assert (look.phase, look.silent_s, look.ended) == ("paused: user", 0.0, True)


def test_a_run_that_waits_for_room_on_the_disk_has_not_ended(tmp_path: Path) -> None:
    folder = started(tmp_path)
    say(folder, Happened.PAUSED, at=9, attempt=1, reason="disk")
    assert not Follower(folder).look().ended


def test_the_view_says_everything(tmp_path: Path) -> None:
    look = Follower(write_run(tmp_path)).look()
    shown = drawn(look)
    for words in (
        "coder  run_0001",
        "succeeded",
        "step 20 of 20",
        "●",
        "256 tokens/s",
        "p50 1.0 s, p95 1.5 s",
        "25.0 % of measured fp32 GEMM",
        "held out",
        "1.25",
        "$0.04",
        "200MB",
        "at step 8, 1 in all",
        "2, 1 restarts",
        "registered as coder@1",
        "q leaves.",
    ):
        assert words in shown, words
    assert facts_of(look)["tokens"] == "5.12k"


@pytest.mark.parametrize("width", [30, 60, 100, 200])
@pytest.mark.parametrize("height", [12, 24, 50])
def test_the_view_fits_its_terminal(tmp_path: Path, width: int, height: int) -> None:
    rows = drawn(Follower(write_run(tmp_path)).look(), width=width, height=height).splitlines()
    assert max(map(len, rows)) <= width
    assert len(rows) <= max(height, 4 + 4 + 14 + 4 + 1), "a very low one is cut at the bottom"
    assert height < 30 or len(rows) < height


def test_the_view_of_a_run_of_which_nothing_is_known(tmp_path: Path) -> None:
    assert "planned  step 0 of 20" in drawn(Follower(begin_run(tmp_path)).look())


def test_in_a_pipe_each_event_is_a_line(tmp_path: Path) -> None:
    shown = console(terminal=False)
    folder = write_run(tmp_path)
    look = asyncio.run(watch_run(folder, console=shown, leave=asyncio.Event(), hint="never shown"))
    assert look.ended
    said = printed(shown)
    assert "\x1b" not in said
    assert "never shown" not in said
    assert [row.partition(" ")[2] for row in said.splitlines()] == [
        "created",
        "attempt 1 started",
        "running from step 0 of 20",
        "checkpoint at step 8 (2.0 MB in 0.5 s)",
        "attempt 1 killed at step 12: SIGKILL",
        "recovering: killed by SIGKILL",
        "attempt 2 started",
        "running from step 8 of 20",
        "evaluated at step 20: held-out loss 1.2500, infill",
        "exported 1 files",
        "attempt 2 finished at step 20",
        "registered as coder@1",
        "succeeded",
        "20/20  loss 2.2500  256 tokens/s  MFU 25.0 %",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_ends_when_the_run_does_or_the_watcher_leaves(tmp_path: Path, terminal: bool) -> None:
    folder = started(tmp_path)
    shown = console(terminal=terminal)

    async def watched() -> Look:
        leave = asyncio.Event()
        watching = asyncio.create_task(watch_run(folder, console=shown, leave=leave, hint="q leaves."))
        while "running" not in printed(shown):
            await asyncio.sleep(0.01)
        measure(folder, 1, attempt=1)
        if terminal:
            leave.set()
        else:
            say(folder, Happened.FAILED, at=9, attempt=1, reason="no luck")
        return await watching

    look = asyncio.run(watched())
    assert look.ended != terminal
    assert look.step == 1, "the last look is newer than the reason to stop"


@pytest.mark.parametrize("kind", Happened)
def test_every_event_can_be_told_whatever_it_says(kind: Happened) -> None:
    assert tell(Event(kind=kind, at=0))
    words = tell(
        Event(kind=kind, at=0, fields={"step": 7, "loss": None, "reason": "why", "bytes": None, "version": "x@1"})
    )
    assert "\n" not in words


def test_a_line_says_what_is_known(tmp_path: Path) -> None:
    folder = started(tmp_path)
    assert line(Follower(folder).look()) == "step 0/20"
    folder.metrics.write_text(json.dumps({"step": 2, "loss": 1.5, "tokens_per_s": 1234.5, "step_p50_s": 2}) + "\n")
    assert line(Follower(folder).look()) == "step 2/20  loss 1.5000  1,234 tokens/s  36.0 s left"
