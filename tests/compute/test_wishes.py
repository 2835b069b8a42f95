"""Wishes: left in the run's folder for whoever supervises it, and made by signals."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest

from tandem.compute import Wish, forget_wish, make_wish, on_interrupt
from tandem.compute.wishes import wish_of
from tandem.spec import RunFolder
from tests.compute.stand_ins import until


def test_a_wish_stays_until_it_is_forgotten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert wish_of(run) is Wish.NONE
    for wish in (Wish.PAUSE, Wish.CANCEL):
        make_wish(run, wish)
        assert wish_of(run) is wish
    forget_wish(run)
    forget_wish(run)
    assert wish_of(run) is Wish.NONE


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_acts_and_the_next_is_as_before(number: signal.Signals) -> None:
    made: list[str] = []
    reached: list[int] = []
    before = signal.signal(number, lambda got, _: reached.append(got))
    try:
        with on_interrupt(lambda: made.append("wish")):
            os.kill(os.getpid(), number)
            await until(lambda: made == ["wish"])
            os.kill(os.getpid(), number)
            await until(lambda: reached == [number])
        os.kill(os.getpid(), number)
        await until(lambda: reached == [number, number])
        assert made == ["wish"]
    finally:
        signal.signal(number, before)


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    async def look() -> None:
        with on_interrupt(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    thread.join()
    assert seen == [before]
