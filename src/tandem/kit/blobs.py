"""Content-addressed blobs: immutable bytes named by their SHA-256, in a folder or behind an fsspec URL."""

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec

from tandem.kit.clock import unix_seconds
from tandem.kit.errors import ConfigError, IntegrityError, InvalidRequest, NotFound, StorageFull
from tandem.kit.http import Progress
from tandem.kit.ids import new_id

CHUNK_BYTES = 2**20  # larger reads do not hash faster (SHA-256 is the bound)
_RENEWED_S = 3600  # known bytes of a remote store that are older than this are sent again, so that they count as new
_ABANDONED_S = 24 * 3600  # a partial file that nobody has written to for a day has lost its writer
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Stored(NamedTuple):
    """Bytes that a store took: the digest, `sha256:` and 64 hexadecimal digits, and the size in bytes."""

    digest: str
    size: int


class Held(NamedTuple):
    """Bytes that a store holds, and when they last arrived, in Unix seconds: storing them again renews it."""

    digest: str
    size: int
    arrived_s: float


class BlobWriter:
    """Bytes on their way into a store; `stored` is set once the writer's block was left without an exception."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        self.stored: Stored | None = None

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def digest(self) -> str:
        """The digest of what has been written so far."""
        return f"sha256:{self._hash.hexdigest()}"


class Blobs:
    """A content-addressed store. A local folder is used in place; what a remote store holds is cached in `cache`.

    All methods block; an event loop calls them through a thread.
    """

    def __init__(self, url: str, *, cache: Path | None = None) -> None:
        try:
            self._fs, root = fsspec.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"blob_url {url.split('?', 1)[0]!r} cannot be used: {error}.",
                remedy="Use file:///a/folder, or install the fsspec package of that store.",
            ) from error
        self._remote = None if "file" in self._protocols() else str(root).rstrip("/")
        if self._remote is not None and cache is None:
            raise ConfigError("A remote blob store needs a local cache folder.", remedy="Pass one as `cache`.")
        self._root = Path(root) if self._remote is None or cache is None else cache

    def _protocols(self) -> tuple[str, ...]:
        protocol: str | tuple[str, ...] = self._fs.protocol
        return (protocol,) if isinstance(protocol, str) else protocol

    def put(self, path: Path, *, share: bool = False, progress: Progress | None = None) -> Stored:
        """Take a file's bytes; the same bytes again change nothing.

        With `share` the bytes are linked where that can be, not copied: nobody may write to the file after that.

        Raises:
            StorageFull: the disk takes no more; nothing is left behind.
            NotFound: there is no such file.
        """
        try:
            if share and self._remote is None:
                return self._link(path, progress)
            with path.open("rb") as source, self.writer() as writer:
                for chunk in _chunks(source, progress):
                    writer.write(chunk)
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {path} to store.", remedy="Check the path.") from error
        except OSError as error:
            raise _storage_error(error) from error
        assert writer.stored is not None  # the block was left without an exception
        return writer.stored

    @contextlib.contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """A writer whose bytes become a blob when the block is left without an exception, and vanish otherwise.

        Raises:
            StorageFull: the disk takes no more; nothing is left behind.
        """
        part = self._incoming() / f"{new_id('blob')}.part"
        try:
            with part.open("xb") as file:
                writer = BlobWriter(file)
                yield writer
                file.flush()
                os.fsync(file.fileno())
            self._settle(part, writer.digest())
            writer.stored = Stored(writer.digest(), writer.size)
        except OSError as error:
            raise _storage_error(error) from error
        finally:
            part.unlink(missing_ok=True)

    def has(self, digest: str) -> bool:
        """Whether the store holds the bytes."""
        if self._remote is None:
            return self._file(digest).is_file()
        return bool(self._fs.exists(self._key(digest)))

    def local(self, digest: str) -> Path:
        """The path of a local file with these bytes, which nobody may write to.

        Raises:
            NotFound: the store does not hold them.
            IntegrityError: a remote store answered with other bytes.
            StorageFull: there is no room in the cache.
        """
        path = self._file(digest)
        if path.is_file():
            return path
        if not self.has(digest):
            raise NotFound(f"The blob store does not hold {digest}.", remedy="Store it again.")
        self._fetch(digest)
        return path

    def digests(self) -> Iterator[Held]:
        """Everything that the store holds, in no order; what is being written is not among it."""
        yield from self._local_files() if self._remote is None else self._remote_files(self._remote)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nothing of this machine arrives in the store until the block ends: for whoever looks before deleting."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def held(self, digest: str) -> Held | None:
        """What is known of these bytes, if the store holds them."""
        if self._remote is None:
            return _held(self._file(digest))
        key = self._key(digest)
        try:
            return Held(digest, int(self._fs.size(key)), self._modified_s(key))
        except FileNotFoundError:
            return None

    def verify(self, digest: str, *, progress: Progress | None = None, at_source: bool = False) -> None:
        """Read the bytes again and compare. With `at_source` those of a remote store itself, not of its cache.

        Raises:
            NotFound: the store does not hold them.
            IntegrityError: they are not what they were.
        """
        sha256 = hashlib.sha256()
        with self._opened(digest, at_source=at_source) as file:
            for chunk in _chunks(file, progress):
                sha256.update(chunk)
        found = f"sha256:{sha256.hexdigest()}"
        if found != digest:
            raise IntegrityError(
                f"The blob {digest} was changed on disk: its bytes are {found}.",
                remedy="Delete it and store it again.",
            )

    def _opened(self, digest: str, *, at_source: bool) -> BinaryIO:
        if self._remote is None or not at_source:
            return self.local(digest).open("rb")
        if not self.has(digest):
            raise NotFound(f"The blob store does not hold {digest}.", remedy="Store it again.")
        file: BinaryIO = self._fs.open(self._key(digest), "rb")
        return file

    def delete(self, digest: str) -> None:
        """Forget the bytes; a digest that is not there is no error."""
        self._file(digest).unlink(missing_ok=True)
        if self._remote is not None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._key(digest))

    def _link(self, path: Path, progress: Progress | None) -> Stored:
        part = self._incoming() / f"{new_id('blob')}.part"
        try:
            os.link(path, part)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise
            return self.put(path, progress=progress)  # another file system, or one without links
        try:
            os.utime(part)  # it arrives now, however old the file is
            with part.open("rb") as file:
                size, sha256 = os.fstat(file.fileno()).st_size, hashlib.sha256()
                for chunk in _chunks(file, progress):
                    sha256.update(chunk)
                os.fsync(file.fileno())
            digest = f"sha256:{sha256.hexdigest()}"
            self._settle(part, digest)
        finally:
            part.unlink(missing_ok=True)
        return Stored(digest, size)

    def _settle(self, part: Path, digest: str) -> None:
        """Give finished bytes their name, which makes them visible at once or not at all."""
        path = self._file(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_SH):
            known = self.held(digest) if self._remote is not None else None
            if self._remote is not None and (known is None or known.arrived_s < unix_seconds() - _RENEWED_S):
                self._fs.makedirs(self._key(digest).rsplit("/", 1)[0], exist_ok=True)
                self._fs.put_file(str(part), self._key(digest))
            part.replace(path)
        _sync_folder(path.parent)

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """The folder of the store locked among the processes and threads of this machine."""
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _local_files(self) -> Iterator[Held]:
        for path in (self._root / "sha256").glob("??/*"):
            if (found := _held(path)) is not None:
                yield found

    def _remote_files(self, root: str) -> Iterator[Held]:
        for key, facts in self._fs.find(f"{root}/sha256", detail=True).items():
            digest = f"sha256:{str(key).rsplit('/', 1)[-1]}"
            if _DIGEST.fullmatch(digest):
                yield Held(digest, int(facts["size"]), self._modified_s(str(key)))

    def _modified_s(self, key: str) -> float:
        """When an object was written; for ever from now where the store does not say."""
        try:
            moment: datetime = self._fs.modified(key)
        except NotImplementedError:
            return math.inf
        return moment.timestamp()

    def _fetch(self, digest: str) -> None:
        with self.writer() as writer, self._fs.open(self._key(digest), "rb") as source:
            for chunk in _chunks(source):
                writer.write(chunk)
            if writer.digest() != digest:
                raise IntegrityError(
                    f"The blob store answered {digest} with bytes of {writer.digest()}.",
                    remedy="Delete it there and store it again.",
                )

    def _incoming(self) -> Path:
        """The folder of unfinished bytes, without those that a killed process left."""
        folder = self._root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime < unix_seconds() - _ABANDONED_S:
                    part.unlink()
        return folder

    def _file(self, digest: str) -> Path:
        number = _checked(digest)
        return self._root / "sha256" / number[:2] / number

    def _key(self, digest: str) -> str:
        number = _checked(digest)
        return f"{self._remote}/sha256/{number[:2]}/{number}"


def _held(path: Path) -> Held | None:
    """A file of a local store, unless it is gone or no blob."""
    digest = f"sha256:{path.name}"
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return Held(digest, state.st_size, state.st_mtime) if _DIGEST.fullmatch(digest) else None


def _checked(digest: str) -> str:
    """The digits of a digest: a name from outside never becomes a path."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest(f"{digest[:80]!r} is not a digest.", remedy="Use sha256: and 64 hexadecimal digits.")
    return digest.removeprefix("sha256:")


def _chunks(file: BinaryIO, progress: Progress | None = None) -> Iterator[bytes]:
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
        if progress is not None:
            progress(file.tell(), total)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(error: OSError) -> StorageFull | OSError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull("The disk of the blob store is full.", remedy="Free some space; nothing was stored.")
    return error
