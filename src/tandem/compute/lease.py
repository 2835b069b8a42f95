"""The lease: one supervisor for a run, and a rising attempt number that fences off whoever had it before."""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tandem.compute.systems.keeper import born
from tandem.kit import clock
from tandem.kit.errors import Conflict
from tandem.kit.ids import new_secret
from tandem.kit.lines import write_whole
from tandem.spec import RunFolder


class _Word(msgspec.Struct, frozen=True, kw_only=True):
    """What `lease.json` says. `expires_at` is in Unix milliseconds; nobody holds a lease without a holder."""

    holder: str = ""
    attempt: int = 0
    expires_at: int = 0


class Lease:
    """The right to supervise a run, for so many seconds from the last `renew`."""

    def __init__(self, run: RunFolder, *, seconds: float) -> None:
        self._run = run
        self._seconds = seconds
        self._holder = f"{_place()}/{os.getpid()}/{born(os.getpid())}/{new_secret('lease')}"

    @property
    def attempt(self) -> int:
        """The newest fencing number; 0 before the first attempt."""
        return self._run.current_attempt()

    def take(self) -> None:
        """Become the supervisor.

        Raises:
            Conflict: somebody else is, and is not known to be dead; the message says who and until when.
        """
        with self._changing() as word:
            if word.holder and word.expires_at > clock.unix_milliseconds() and not _is_dead(word.holder):
                raise Conflict(
                    f"Run {self._run.path.name} is supervised by {_named(word.holder)} until {_utc(word.expires_at)}.",
                    remedy="Watch it with `tandem runs watch`, stop it with `tandem runs stop`, or wait until then.",
                )
            self._write(word.attempt)

    def renew(self) -> None:
        """Stay the supervisor.

        Raises:
            Conflict: somebody else has become it.
        """
        with self._held() as word:
            self._write(word.attempt)

    def next_attempt(self) -> int:
        """Begin an attempt: workers with a smaller number must not write any more.

        Raises:
            Conflict: somebody else has become the supervisor.
        """
        with self._held() as word:
            self._write(word.attempt + 1)
            return word.attempt + 1

    def release(self) -> None:
        """Let the run go; one that somebody else has taken stays theirs."""
        with self._changing() as word:
            if word.holder == self._holder:
                self._store(_Word(attempt=word.attempt))

    @contextlib.contextmanager
    def _held(self) -> Iterator[_Word]:
        with self._changing() as word:
            if word.holder != self._holder:
                raise Conflict(
                    f"Run {self._run.path.name} has been taken over by {_named(word.holder)}.",
                    remedy="Nothing needs to be done: it goes on there.",
                )
            yield word

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Word]:
        """What the lease says, while nobody else can change it."""
        side = os.open(self._run.path / "lease.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(side, fcntl.LOCK_EX)
            try:
                word = msgspec.json.decode(self._run.lease.read_bytes(), type=_Word)
            except FileNotFoundError:
                word = _Word()
            yield word
        finally:
            os.close(side)

    def _write(self, attempt: int) -> None:
        until = clock.unix_milliseconds() + int(self._seconds * 1000)
        self._store(_Word(holder=self._holder, attempt=attempt, expires_at=until))

    def _store(self, word: _Word) -> None:
        write_whole(self._run.lease, msgspec.json.encode(word))


@contextlib.asynccontextmanager
async def held(run: RunFolder, *, seconds: float) -> AsyncIterator[Lease]:
    """A lease that is renewed as long as the block runs, and released after it.

    Raises:
        Conflict: somebody else supervises the run, or has taken it over meanwhile; the block is cancelled then.
    """
    lease = Lease(run, seconds=seconds)
    await asyncio.to_thread(lease.take)
    block = asyncio.current_task()
    assert block is not None
    lost: list[Conflict] = []

    async def renewing() -> None:
        while not lost:
            await asyncio.sleep(seconds / 3)
            try:
                await asyncio.to_thread(lease.renew)
            except OSError:
                pass  # a full disk, which nobody else can write to either
            except Conflict as error:
                lost.append(error)
                block.cancel()

    keeping = asyncio.create_task(renewing(), name=f"lease of {run.path.name}")
    try:
        yield lease
    except asyncio.CancelledError:
        if not lost:
            raise
        block.uncancel()
        raise lost[0] from None
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.to_thread(lease.release)


def _place() -> str:
    """This machine since it was switched on, and the part of it in which process ids mean something."""
    boot = _line(Path("/proc/sys/kernel/random/boot_id"))[:8]
    with contextlib.suppress(OSError):
        boot += "-" + Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    return f"{socket.gethostname()}/{boot}"


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _is_dead(holder: str) -> bool:
    """Whether the holder was a process of this machine that is gone; of any other nothing is known."""
    place, pid, its_birth, _ = holder.rsplit("/", 3)
    return place == _place() and born(int(pid)) != int(its_birth)


def _named(holder: str) -> str:
    host, _, pid, *_ = [*holder.split("/"), "", ""]
    return f"process {pid} on {host}" if holder else "nobody"


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%H:%M:%S UTC")
