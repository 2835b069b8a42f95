"""The usage journal on disk: preallocated files of JSON lines, in which every reserved request has room to settle.

A file is `<writer>-<number>.log`. It begins as zeros that hold their place on the disk, so a write inside it finds
space when the disk is full. A reservation is written only where the room for its own settlement is left as well; both
lie in the same file. `<writer>.lock` is locked for as long as the writer lives, so the files of a dead one can be told
apart.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from tandem.kit import ids
from tandem.kit.errors import StorageFull, Unavailable

MAX_TOKENS = 10**12 - 1
"""Counts are bounded here, so that a settlement's length is; an engine that says more is wrong."""
_MAX_MILLISECONDS = 10**14 - 1  # the year 5138

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=_MAX_MILLISECONDS)]


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    ERROR = "error"
    CLIENT_GONE = "client_gone"
    FILTERED = "filtered"
    ENGINE_FAILED = "engine_failed"
    INTERRUPTED = "interrupted"
    """The gateway died before the request ended."""
    REFUSED = "refused"


class Reserved(msgspec.Struct, frozen=True, gc=False, tag_field="record", tag="reserved", omit_defaults=True):
    """A request was let in. Times are milliseconds since 1970 UTC."""

    id: str
    tenant: str
    key: str
    deployment: str
    version: str
    operation: str
    surface: str
    tokens: _Tokens
    started_ms: _Milliseconds
    second: str = ""
    """The version that answers where the first one fails before its first byte."""


class Settled(msgspec.Struct, frozen=True, gc=False, tag_field="record", tag="settled", omit_defaults=True):
    """It ended, and this is what it used."""

    id: str
    outcome: Outcome
    prompt_tokens: _Tokens
    cached_tokens: _Tokens
    completion_tokens: _Tokens
    settled_ms: _Milliseconds
    duration_ms: _Milliseconds
    by_second: bool = False
    """Whether the second version answered."""


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Reserved | Settled)
_RECORD = re.compile(rb"[^\0\n]+")


def to_line(record: Reserved | Settled) -> bytes:
    """A record as it is written.

    Raises:
        UnicodeEncodeError: a text has half of a surrogate pair.
    """
    return _encode(record) + b"\n"


def _longest_settlement() -> int:
    longest = max(Outcome, key=len)
    numbers = (MAX_TOKENS, MAX_TOKENS, MAX_TOKENS, _MAX_MILLISECONDS, _MAX_MILLISECONDS)
    return len(to_line(Settled("", longest, *numbers, by_second=True)))


_SETTLEMENT_BYTES = _longest_settlement()


def settlement_bytes(request_id: str) -> int:
    """The length of the longest line that `settled` can make for this request."""
    return _SETTLEMENT_BYTES + len(_encode(request_id)) - len(b'""')


def settled(
    request_id: str,
    outcome: Outcome,
    *,
    tokens: tuple[int, int, int],
    settled_ms: int,
    duration_ms: int,
    by_second: bool = False,
) -> Settled:
    """A settlement of prompt, cached and completion tokens, with each number inside its bounds."""
    prompt, cached, completion = (min(max(count, 0), MAX_TOKENS) for count in tokens)
    return Settled(
        request_id,
        outcome,
        prompt,
        cached,
        completion,
        min(max(settled_ms, 0), _MAX_MILLISECONDS),
        min(max(duration_ms, 0), _MAX_MILLISECONDS),
        by_second,
    )


@dataclass(slots=True)
class Contents:
    """What a file says: settled requests, requests that only began, and how many lines were none."""

    settled: list[tuple[Reserved, Settled]] = field(default_factory=list)
    open: list[Reserved] = field(default_factory=list)
    skipped: int = 0


class Segment:
    """One file of the journal, in the hands of its writer. A failed write changes nothing."""

    __slots__ = ("_fd", "_fsync", "offset", "owed", "path", "size")

    def __init__(self, path: Path, fd: int, *, size: int, fsync: bool) -> None:
        self.path = path
        self.size = size
        self.offset = 0
        """Bytes written; everything before is whole lines."""
        self.owed = 0
        """Bytes that belong to requests that have not settled yet."""
        self._fd = fd
        self._fsync = fsync

    def fits(self, line: bytes, settlement: int) -> bool:
        """Whether a reservation and, some day, its settlement have room."""
        return self.offset + self.owed + len(line) + settlement <= self.size

    def reserve(self, line: bytes, settlement: int) -> None:
        """Write a reservation and set `settlement` bytes aside."""
        assert self.fits(line, settlement), "asked before"
        self._write(line)
        self.owed += settlement

    def settle(self, line: bytes, settlement: int) -> None:
        """Write a settlement into the bytes that were set aside for it; they are free again, written or not.

        Raises:
            OSError: the disk failed.
        """
        assert len(line) <= settlement <= self.owed, "a settlement was longer than the room kept for it"
        self.owed -= settlement
        self._write(line)
        if self._fsync:
            os.fsync(self._fd)

    def close(self) -> None:
        """Write no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._fd < 0

    def _write(self, line: bytes) -> None:
        if os.pwrite(self._fd, line, self.offset) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # the next line overwrites the torn one
        self.offset += len(line)


class Writer:
    """One process's own files in the journal's folder."""

    def __init__(self, folder: Path, *, segment_bytes: int, fsync: bool) -> None:
        """Take a fresh name in the folder, which is made if it is missing.

        Raises:
            StorageFull, Unavailable: the folder or the lock cannot be made.
        """
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._number = 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.id, self._lock = _fresh_name(folder)
        except OSError as error:
            raise _cannot_grow(folder, error) from error

    def new_segment(self, at_least: int) -> Segment:
        """A fresh file with its place on the disk taken.

        Raises:
            StorageFull: the disk is full; no file is left behind.
            Unavailable: the folder cannot be written.
        """
        self._number += 1
        path = self._folder / f"{self.id}-{self._number:06d}.log"
        size = max(self._segment_bytes, at_least)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _preallocate(fd, size)
                if self._fsync:
                    _sync_folder(self._folder)
            except OSError:
                os.close(fd)
                path.unlink()
                raise
        except OSError as error:
            raise _cannot_grow(self._folder, error) from error
        return Segment(path, fd, size=size, fsync=self._fsync)

    def close(self) -> None:
        """Give the name up; files that are left are another's to recover."""
        release_writer(self._folder, self.id, self._lock)


def lock_writer(folder: Path, writer: str) -> int | None:
    """Lock a writer's name; `None` if another process holds it. The kernel frees it however the process ends."""
    path = folder / f"{writer}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A lock on a file that was removed between the two calls above protects nothing.
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def release_writer(folder: Path, writer: str, lock: int) -> None:
    """Unlock a writer's name; the lock file goes unless files of the journal still need it."""
    if not segments_of(folder, writer):
        (folder / f"{writer}.lock").unlink(missing_ok=True)
    os.close(lock)


def writers(folder: Path) -> Iterator[str]:
    """The names under which there is anything in the folder."""
    names = {path.name.rsplit("-", 1)[0] for path in folder.glob("*-*.log")}
    names.update(path.stem for path in folder.glob("*.lock"))
    yield from sorted(names)


def segments_of(folder: Path, writer: str) -> list[Path]:
    """A writer's files, the oldest first."""
    return sorted(path for path in folder.glob("*.log") if path.name.startswith(f"{writer}-"))


def read_segment(path: Path, *, end: int | None = None) -> Contents:
    """Read a file up to byte `end`; torn and foreign lines are skipped and counted. A missing file is empty."""
    try:
        with path.open("rb") as file:
            data = file.read(-1 if end is None else end)
    except FileNotFoundError:
        return Contents()
    contents = Contents()
    begun: dict[str, Reserved] = {}
    for match in _RECORD.finditer(data):
        try:
            record = _decoder.decode(match.group())
        except (msgspec.DecodeError, UnicodeDecodeError):
            contents.skipped += 1
            continue
        if isinstance(record, Reserved):
            begun[record.id] = record
        elif (reserved := begun.pop(record.id, None)) is not None:
            contents.settled.append((reserved, record))
        else:
            contents.skipped += 1
    contents.open.extend(begun.values())
    return contents


def _fresh_name(folder: Path) -> tuple[str, int]:
    while True:
        writer = ids.new_id("w")
        # Somebody who looks for dead writers may be faster with the lock; then the name is spoilt.
        if (lock := lock_writer(folder, writer)) is not None:
            return writer, lock


def _preallocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:  # macOS; written zeros hold their place as well
        os.pwrite(fd, bytes(size), 0)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _cannot_grow(folder: Path, error: OSError) -> Unavailable:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(
            f"The usage journal in {folder} cannot grow: the disk is full.",
            remedy="Free some space; requests that run already are still counted, new ones wait.",
        )
    return Unavailable(
        f"The usage journal in {folder} cannot be written: {error.strerror}.",
        remedy="Check the folder's owner and its file system.",
    )
