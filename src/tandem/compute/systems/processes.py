"""Processes of an attempt on this machine, found again by anybody: by their keeper's record and an inherited mark."""

import asyncio
import calendar
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tandem.compute.systems.keeper import born
from tandem.compute.systems.port import Condition, Status
from tandem.kit import clock
from tandem.kit.errors import Unavailable
from tandem.spec import AttemptFolder

T = TypeVar("T")

MARK = "TANDEM_ATTEMPT"
"""The variable by which all processes of an attempt know its folder, and are known."""

_KEEPER = Path(__file__).with_name("keeper.py")
_PROC = Path("/proc")
_POLL_S = 0.05
# A killed process leaves within milliseconds; only one that hangs in the kernel takes longer.
_PATIENCE_S = 10.0
_LOG_TAIL_BYTES = 64 * 1024
# How torchrun, and our stand-in for it, report workers that failed.
_FAILURE = re.compile(
    r"time\s*: (\S+)\s+host\s*: .*\s+rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+) \(pid: \d+\)"
)
# Workers that fail within this time of the first failed of the same cause; torchrun kills the others 30 s later.
_SAME_CAUSE_S = 5.0


class _Record(msgspec.Struct):
    """What the keeper wrote of itself and of the program it started."""

    pid: int
    born: int
    program: int
    program_born: int


class _Exit(msgspec.Struct):
    """How the program ended: its exit status, or a signal's number with a minus."""

    exit_status: int


async def start(attempt: AttemptFolder, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start a program that outlives this process, with its output in the attempt's log.

    Raises:
        Unavailable: it cannot be started.
    """
    keeper = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(_KEEPER),
        str(attempt.path),
        *command,
        env={**environment, MARK: str(attempt.path)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, complaint = await keeper.communicate()
    except asyncio.CancelledError:
        await keeper.communicate()  # what it starts must be found again by whoever comes next
        raise
    if keeper.returncode:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(
            f"The workers of {attempt.path} cannot be started: {' '.join(last)}.",
            remedy="Look for a full disk, or too many processes.",
        )


def status(attempt: AttemptFolder) -> Status:
    """How the attempt's program stands."""
    record = _record(attempt)
    kept = record is not None and born(record.pid) == record.born
    ended = _read(attempt.path / "exit.json", _Exit)  # after the look at its keeper, who writes it and leaves
    if ended is not None:
        return _first_failure(attempt, ended.exit_status)
    return Status(condition=Condition.RUNNING if kept else Condition.LOST)


def _first_failure(attempt: AttemptFolder, exit_status: int) -> Status:
    """The end of the worker that failed first: of one that was killed, the others only noticed."""
    failures = [(_moment(at), int(rank), int(code)) for at, rank, code in _FAILURE.findall(log_tail(attempt))]
    first_at, rank, code = failures[-1] if failures else (0, 0, exit_status)  # torchrun names the root cause last
    for at, its_rank, its_code in failures:
        if its_code < 0 and its_code != -signal.SIGTERM and abs(at - first_at) < _SAME_CAUSE_S:
            rank, code = its_rank, its_code
    if code < 0:
        return Status(condition=Condition.ENDED, signal=signal.Signals(-code).name, rank=rank)
    return Status(condition=Condition.ENDED, exit_status=code, rank=rank)


def _moment(text: str) -> int:
    return calendar.timegm(time.strptime(text, "%Y-%m-%d_%H:%M:%S"))


def log_tail(attempt: AttemptFolder) -> str:
    """The last 64 KiB of what the workers printed."""
    try:
        with attempt.log.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES, 0))
            return log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


async def end(attempt: AttemptFolder, *, grace_s: float) -> None:
    """SIGTERM to the workers, after the grace SIGKILL to all that is left, the keeper last so that it can note it."""
    if grace_s > 0:
        for pid in workers(attempt):
            _signal(pid, signal.SIGTERM)
        if await _gone(attempt, grace_s):
            return
    record = _record(attempt)
    if not await _killed(attempt, spared=record.pid if record is not None else 0):
        await _killed(attempt, spared=0)


def workers(attempt: AttemptFolder) -> list[int]:
    """The workers: the program itself, or those that it started, as torchrun does."""
    record = _record(attempt)
    if record is None or born(record.program) != record.program_born:
        return []
    children = [pid for pid in marked(attempt) if _parent(pid) == record.program]
    ranks = [pid for pid in children if b"LOCAL_RANK=" in _environment(pid)]
    return ranks or [record.program]


def ask_for_stacks(attempt: AttemptFolder) -> None:
    """SIGUSR2 to each worker that has a handler for it; any other would die of it."""
    for pid in workers(attempt):
        if _handles(pid, signal.SIGUSR2):
            _signal(pid, signal.SIGUSR2)


def marked(attempt: AttemptFolder) -> list[int]:
    """All living processes of the attempt, whoever started them and whoever their parent is by now."""
    mark = f"{MARK}={attempt.path}".encode()
    return [pid for pid in _all() if mark in _environment(pid).split(b"\0") and born(pid)]


async def _killed(attempt: AttemptFolder, *, spared: int) -> bool:
    """SIGKILL to all but one until none is left, whether that is so soon: some may just be starting others."""
    deadline = clock.monotonic_seconds() + _PATIENCE_S
    while left := marked(attempt):
        if clock.monotonic_seconds() > deadline:
            return False
        for pid in left:
            if pid != spared:
                _signal(pid, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)
    return True


async def _gone(attempt: AttemptFolder, within_s: float) -> bool:
    deadline = clock.monotonic_seconds() + within_s
    while marked(attempt):
        if clock.monotonic_seconds() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _record(attempt: AttemptFolder) -> _Record | None:
    return _read(attempt.process, _Record)


def _read(path: Path, kind: type[T]) -> T | None:
    """What the keeper noted in a file; nothing where it has not."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(text, type=kind) if text.strip() else None


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was faster


def _all() -> Iterator[int]:
    return (int(path.name) for path in _PROC.iterdir() if path.name.isdecimal())


def _environment(pid: int) -> bytes:
    """The variables that a process was started with; none where it is gone or another user's."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    return int(_field(pid, "PPid") or 0)


def _handles(pid: int, number: signal.Signals) -> bool:
    return bool(int(_field(pid, "SigCgt") or "0", 16) >> (number - 1) & 1)


def _field(pid: int, name: str) -> str:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), "")
