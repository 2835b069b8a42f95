"""Wishes: how any process asks the supervisor of a run to pause or to cancel it, and how Ctrl-C does."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import msgspec

from tandem.kit.lines import write_whole
from tandem.spec import RunFolder


class Wish(StrEnum):
    """What a person wants of a run that goes on."""

    NONE = ""
    PAUSE = "user"
    CANCEL = "cancel"


def make_wish(run: RunFolder, wish: Wish) -> None:
    """Leave word for the supervisor, who looks for it several times a second."""
    write_whole(_file(run), msgspec.json.encode({"wish": wish}))


def wish_of(run: RunFolder) -> Wish:
    """What is wanted of the run now."""
    try:
        return Wish(msgspec.json.decode(_file(run).read_bytes())["wish"])
    except FileNotFoundError:
        return Wish.NONE


def forget_wish(run: RunFolder) -> None:
    """It has been done, or a person wants the run to go on."""
    _file(run).unlink(missing_ok=True)


@contextlib.contextmanager
def on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """While the block runs, the first SIGINT or SIGTERM calls `act` on the event loop; a second one ends the process.

    Only the main thread gets signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number in numbers:
            if loop.remove_signal_handler(number):
                signal.signal(number, before[number])

    def act_once() -> None:
        restore()
        act()

    for number in numbers:
        loop.add_signal_handler(number, act_once)
    try:
        yield
    finally:
        restore()


def _file(run: RunFolder) -> Path:
    return run.path / "wish.json"
