"""Folders by content: made beside their place, fsynced, renamed whole, and checked by the digests in their manifest."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tandem.kit import clock
from tandem.kit.errors import IntegrityError, NotFound, StorageFull
from tandem.kit.ids import sha256_hex
from tandem.kit.lines import write_whole

T = TypeVar("T")

MANIFEST = "manifest.json"

_UNFINISHED = ".making-"
_MADE = ".made"
_STALE_S = 24 * 3600  # an unfinished folder that old is what a killed process left
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a file must hold."""

    sha256: str
    bytes: int


def hex_of(digest: str) -> str:
    """The hexadecimal digits of a `sha256:` digest: the name of its folder."""
    return digest.removeprefix("sha256:")


def digest_of(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON, as 64 hexadecimal digits."""
    return sha256_hex(msgspec.json.encode(value, order="sorted"))


def file_facts(path: Path) -> FileFacts:
    """The digest and size of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileFacts(sha256=sha256, bytes=file.tell())


def folder_facts(folder: Path, names: Iterable[str]) -> dict[str, FileFacts]:
    """The digests and sizes of the named files of a folder."""
    return {name: file_facts(folder / name) for name in sorted(names)}


@contextmanager
def staging(shelf: Path) -> Iterator[Path]:
    """An empty folder on the shelf to fill and to `shelve`; what is still in it afterwards is removed.

    Raises:
        StorageFull: the disk is full.
    """
    part: Path | None = None
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        _sweep(shelf)
        part = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=shelf))
        part.chmod(0o755)
        yield part
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFull(
                f"No space left to write to {shelf}.", remedy="Free some space and run it again: nothing is half-done."
            ) from error
        raise
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def shelve(part: Path, dest: Path) -> Path:
    """Bring a filled folder to its place with all of it on the disk; where there is one already, that one stays."""
    for path in part.iterdir():
        _sync(path)
    _sync(part)
    try:
        part.rename(dest)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
    _sync(dest.parent)
    return dest


def read_manifest(folder: Path, kind: type[T]) -> T:
    """The manifest of a folder.

    Raises:
        NotFound: there is no such folder.
        IntegrityError: its manifest is damaged.
    """
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise NotFound(
            f"{folder} is not there, or has no {MANIFEST}.",
            remedy="Run `tandem train` again: it prepares what is missing.",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise changed(folder / MANIFEST, f"is not what it was: {error}") from error


def verify(folder: Path, files: Mapping[str, FileFacts]) -> None:
    """Check every file of a folder against its digest.

    Raises:
        IntegrityError: one is missing or has other bytes; the message names it.
    """
    for name, expected in files.items():
        path = folder / name
        try:
            found = file_facts(path)
        except FileNotFoundError as error:
            raise changed(path, "is missing") from error
        if found != expected:
            raise changed(path, f"has changed: {found.bytes} bytes of sha256 {found.sha256}, not {expected.sha256}")


def changed(path: Path, what: str) -> IntegrityError:
    """The error for a file that is not what the recipe was pinned to."""
    return IntegrityError(
        f"{path} {what}.",
        remedy=f"Bring the file back, or remove {path.parent} and start again: unchanged sources give the same data.",
    )


def recall(shelf: Path, key: str) -> Path | None:
    """The folder on the shelf that was once made from what `key` is the digest of, if it is still there."""
    try:
        name = (shelf / _MADE / key).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    folder = shelf / name
    return folder if len(name) == len(key) and folder.is_dir() else None


def remember(shelf: Path, key: str, folder: Path) -> None:
    """Note what a folder was made from."""
    (shelf / _MADE).mkdir(exist_ok=True)
    write_whole(shelf / _MADE / key, folder.name.encode("ascii"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(shelf: Path) -> None:
    for path in shelf.glob(f"{_UNFINISHED}*"):
        try:
            age_s = clock.unix_seconds() - path.stat().st_mtime
        except FileNotFoundError:
            continue  # another process has just finished it
        if age_s > _STALE_S:
            shutil.rmtree(path, ignore_errors=True)
