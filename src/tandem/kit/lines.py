"""JSON lines on disk: whole lines appended by several processes, fsynced where they must survive; a torn end is cut."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tandem.kit.errors import IntegrityError

T = TypeVar("T")


def append_line(path: Path, record: Any, *, durable: bool = True) -> None:
    """Append one record as a line; with `durable` it is on the disk before this returns.

    One `write` with O_APPEND: lines of several processes do not mix on a local file system. A line that a crash or
    a full disk tore stays alone: the next one begins on a line of its own.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = (b"\n" if torn else b"") + msgspec.json.encode(record) + b"\n"
        if os.write(descriptor, line) != len(line):
            raise OSError(28, "No space left on device", str(path))
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path, kind: type[T]) -> Iterator[T]:
    """The records of a file in order; lines that are no whole JSON are what a crash left, and are passed over.

    Raises:
        IntegrityError: a line is JSON, and not of this kind.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or not line.strip():
                continue
            try:
                yield msgspec.json.decode(line, type=kind)
            except msgspec.ValidationError as error:
                raise IntegrityError(
                    f"{path}, line {number}: {error}.", remedy="The file was changed by hand."
                ) from error
            except msgspec.DecodeError:
                continue


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file's bytes at once or not at all, and have them on the disk before this returns."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
