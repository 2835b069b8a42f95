"""Where training data come from: the standard library, files, folders and the hub, in one deterministic order."""

import gzip
import importlib
import itertools
import os
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from tandem.kit.errors import InvalidRequest, MissingPrerequisite, NotFound, TooLarge, Unavailable
from tandem.spec import Data
from tandem.train.data.folders import FileFacts, file_facts

MAX_RECORD_BYTES = 16 * 2**20
"""The largest document or record; what is larger is no text to learn from."""
MAX_ARRAY_BYTES = 512 * 2**20
"""The largest file that holds one JSON array, since it is read whole."""

DOCUMENTS = frozenset({"text", "code"})
"""The formats whose files are documents."""

_CODE = "py pyi js jsx ts tsx go rs java kt c h cc cpp hpp cs rb php swift scala sh lua sql r jl"
_PATTERNS = {
    "code": tuple(f"*.{ending}" for ending in _CODE.split()),
    "text": ("*.txt", "*.md", "*.rst"),
}
_LINES = ("*.jsonl", "*.jsonl.gz", "*.ndjson", "*.json")
_GENERATED = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "lib-dynload"})
# The library takes what is a path for a folder of this machine, which a client that orders a run may not name.
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(?:#[\w.-]+)?", re.ASCII)
_LICENSE_FILE = re.compile(r"(?i)(?:un)?licen[cs]e(?:[-._].*)?|copying(?:[-._].*)?")
# What names a licence in its own text, the more particular first.
_LICENSES = (
    ("Apache-2.0", r"Apache License\s+Version 2\.0"),
    ("AGPL-3.0", r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL", r"GNU (?:LESSER|LIBRARY) GENERAL PUBLIC LICENSE"),
    ("GPL-3.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"),
    ("GPL-2.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 2"),
    ("MPL-2.0", r"Mozilla Public License,? (?:Version|v\.?) ?2\.0"),
    ("PSF-2.0", r"PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"),
    ("CC0-1.0", r"CC0 1\.0 Universal"),
    ("CC-BY-NC-4.0", r"Attribution-NonCommercial 4\.0"),
    ("CC-BY-SA-4.0", r"Attribution-ShareAlike 4\.0"),
    ("CC-BY-4.0", r"Attribution 4\.0 International"),
    ("Unlicense", r"This is free and unencumbered software released into the public domain"),
    ("BSD", r"Redistribution and use in source and binary forms"),
    ("MIT", r"Permission is hereby granted, free of charge, to any person obtaining a copy"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One thing as it was found: the bytes of a document (`whole`) or of one JSON record, or what is wrong with it.

    `file` is relative to the source's root, `line` counts from 1; in a JSON array it is the record's number.
    """

    file: str
    line: int
    data: bytes = b""
    whole: bool = False
    flaw: str = ""


class Source(Protocol):
    """A place with training data."""

    @property
    def licenses(self) -> tuple[str, ...]:
        """What is known of the licences, such as `MIT (LICENSE)`."""
        ...

    def inputs(self) -> dict[str, FileFacts] | None:
        """What is read, by name relative to the root; None where only reading it tells."""
        ...

    def __iter__(self) -> Iterator[Raw]:
        """Everything in it, in the same order each time."""
        ...


def find_source(data: Data) -> Source:
    """The source that an entry of a recipe names.

    Raises:
        InvalidRequest: no such kind of source, or no file in it matches.
        NotFound: no such file or folder.
        MissingPrerequisite, Unavailable: the hub cannot be asked.
    """
    kind, colon, place = data.source.partition(":")
    match kind:
        case "stdlib" if colon and not place:
            root = Path(sysconfig.get_path("stdlib"))
            return Files(root=root, names=_standard_library(root), format=data.format, licenses=("PSF-2.0",))
        case "file" if place:
            return _file(Path(place), data)
        case "folder" if place:
            return _folder(Path(place), data)
        case "hf" if _HUB_NAME.fullmatch(place):
            return Hub(name=place)
        case _:
            raise InvalidRequest(
                f"{data.source!r} is no source of data.",
                remedy="Write stdlib:, file:PATH, folder:PATH or hf:org/name.",
                param="data.source",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files under a root, by names relative to it; a file that stands alone has no name that counts."""

    root: Path
    names: tuple[str, ...]
    format: str
    licenses: tuple[str, ...]
    alone: bool = False

    def inputs(self) -> dict[str, FileFacts]:
        """The digest and size of each file.

        Raises:
            InvalidRequest: one cannot be read.
        """
        return {"" if self.alone else _shown(name): self._facts(name) for name in self.names}

    def __iter__(self) -> Iterator[Raw]:
        """Documents and records, file by file."""
        for name in self.names:
            yield from self._read(self.root / name, _shown(name))

    def _facts(self, name: str) -> FileFacts:
        try:
            return file_facts(self.root / name)
        except OSError as error:
            raise InvalidRequest(
                f"Cannot read {self.root / name}: {error.strerror}.",
                remedy="Check who may read it, or leave it out with `include`.",
            ) from error

    def _read(self, path: Path, name: str) -> Iterator[Raw]:
        if path.suffix == ".json" and self.format != "code" and _is_array(path):
            return _read_array(path, name)
        lines = name.endswith((".jsonl", ".ndjson", ".jsonl.gz")) or (path.suffix == ".json" and self.format != "code")
        if lines or self.format not in DOCUMENTS:
            return _read_lines(path, name)
        return iter([_read_document(path, name)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A data set of the hub, `org/name` or `org/name#configuration`: the rows of its split `train`."""

    name: str
    licenses: tuple[str, ...] = ()

    def inputs(self) -> None:
        """Unknown until the rows have been read."""

    def __iter__(self) -> Iterator[Raw]:
        """The rows as JSON records.

        Raises:
            MissingPrerequisite: the package `datasets` is not installed.
            InvalidRequest: there is a file or folder of this name, which the package would take instead.
            Unavailable: the hub, or that data set, cannot be reached.
        """
        for number, row in enumerate(self._rows(), start=1):
            try:
                yield Raw(file=self.name, line=number, data=msgspec.json.encode(row))
            except (TypeError, ValueError) as error:
                yield Raw(file=self.name, line=number, flaw=f"the row is not JSON: {error}")

    def _rows(self) -> Any:
        try:
            library = importlib.import_module("datasets")
        except ImportError as error:
            raise MissingPrerequisite(
                f"hf:{self.name} needs the package `datasets`, which is not installed.",
                remedy="Install it with `pip install datasets`, or download the data and name it with file:PATH.",
            ) from error
        name, _, configuration = self.name.partition("#")
        if Path(name).exists():
            raise InvalidRequest(
                f"hf:{self.name} would be the file or folder {name} of this machine, not the hub's.",
                remedy="Work in another folder, or say that it is meant: folder:PATH.",
                param="data.source",
            )
        try:
            return library.load_dataset(name, configuration or None, split="train")
        except Exception as error:  # the hub's libraries have no common error
            raise Unavailable(
                f"hf:{self.name} cannot be loaded: {type(error).__name__}: {error}",
                remedy="Check the name and the network, or download the data and name it with file:PATH.",
            ) from error


def _standard_library(root: Path) -> tuple[str, ...]:
    # What the build of this Python wrote is about its machine, and no library.
    names = _walk(root, ("*.py",))
    return tuple(name for name in names if not name.startswith(("_sysconfigdata", "config-")))


def _file(path: Path, data: Data) -> Files:
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", remedy="Check the path in data.source.")
    licenses = _found_licenses(path.parent, [entry.name for entry in path.parent.iterdir()])
    return Files(root=path.parent, names=(path.name,), format=data.format, licenses=licenses, alone=True)


def _folder(root: Path, data: Data) -> Files:
    if not root.is_dir():
        raise NotFound(f"There is no folder {root}.", remedy="Check the path in data.source.")
    patterns = data.include or _PATTERNS.get(data.format, _LINES)
    names = _walk(root, patterns)
    if not names:
        raise InvalidRequest(
            f"No file in {root} matches {', '.join(patterns)}.",
            remedy="Name others with `include`.",
            param="data.include",
        )
    return Files(root=root, names=names, format=data.format, licenses=_found_licenses(root, _walk(root, ("*",))))


def _walk(root: Path, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Names under the root that match, sorted; hidden and generated folders are not entered."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _GENERATED]
        for file in files:
            name = Path(folder, file).relative_to(root).as_posix()
            if not file.startswith(".") and any(_matches(name, pattern) for pattern in patterns):
                found.append(name)
    return tuple(sorted(name for name in found if (root / name).is_file()))


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)


def _found_licenses(root: Path, names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """What the licence files under the root say, as `MIT (LICENSE)`."""
    named = sorted(name for name in names if _LICENSE_FILE.fullmatch(name.rpartition("/")[2]))
    return tuple(f"{_license(root / name)} ({_shown(name)})" for name in named if (root / name).is_file())


def _license(path: Path) -> str:
    with path.open("rb") as file:
        words = " ".join(file.read(2**16).decode("utf-8", errors="replace").split())
    return next((name for name, pattern in _LICENSES if re.search(pattern, words, re.IGNORECASE)), "unknown licence")


def _shown(name: str) -> str:
    """A file's name as text, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def _read_document(path: Path, name: str) -> Raw:
    with path.open("rb") as file:
        data = file.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        return Raw(file=name, line=1, flaw=_too_large())
    return Raw(file=name, line=1, data=data, whole=True)


def _too_large() -> str:
    return f"larger than {MAX_RECORD_BYTES // 2**20} MiB"


def _read_lines(path: Path, name: str) -> Iterator[Raw]:
    line = 0
    with _opened(path) as file:
        try:
            for line in itertools.count(1):
                data = file.readline(MAX_RECORD_BYTES + 1)
                if not data:
                    return
                if len(data) > MAX_RECORD_BYTES:
                    while data and not data.endswith(b"\n"):
                        data = file.readline(MAX_RECORD_BYTES)
                    yield Raw(file=name, line=line, flaw=_too_large())
                elif data.strip():
                    yield Raw(file=name, line=line, data=data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield Raw(file=name, line=line, flaw=f"the compressed file is damaged from here on: {error}")


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith(b"[")


def _read_array(path: Path, name: str) -> Iterator[Raw]:
    if path.stat().st_size > MAX_ARRAY_BYTES:
        raise TooLarge(
            f"{path} is one JSON array of more than {MAX_ARRAY_BYTES // 2**20} MiB.",
            remedy="Write it as JSON lines, one record a line: those are read one by one.",
        )
    try:
        records = msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        yield Raw(file=name, line=1, flaw=f"not a JSON array: {error}")
        return
    for number, record in enumerate(records, start=1):
        data = bytes(record)
        flaw = _too_large() if len(data) > MAX_RECORD_BYTES else ""
        yield Raw(file=name, line=number, data=b"" if flaw else data, flaw=flaw)
