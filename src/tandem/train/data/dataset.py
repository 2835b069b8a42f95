"""Data sets: a source cleaned of bad records and duplicates and split in two, in a folder named by its content."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from tandem.kit.errors import InvalidRequest, NotFound
from tandem.spec import Curation, Data
from tandem.train.data.duplicates import NearDuplicates
from tandem.train.data.folders import (
    MANIFEST,
    FileFacts,
    digest_of,
    folder_facts,
    hex_of,
    read_manifest,
    recall,
    remember,
    shelve,
    staging,
    verify,
)
from tandem.train.data.records import Record, compared_text, line_of_flaw, read_record, split_text
from tandem.train.data.sources import DOCUMENTS, Raw, Source, find_source

# NOTE: data sets and their digests live for ever. What changes the bytes of a data set takes a new version.
VERSION = 1

Side = Literal["train", "held_out"]
Progress = Callable[[str, int, int | None], None]
"""Told (what is being done, how much of it is done, of how much or None)."""

_QUARANTINE = "quarantine.jsonl"
_SPOOL = "records.part"
_TELL_EVERY = 64  # records


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records: `records` were good, of which `train` and `held_out` are left."""

    records: int
    train: int
    held_out: int
    duplicates: int
    near_duplicates: int
    beyond_limit: int
    quarantined: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set's folder holds, and where that came from: only the first three fields make its digest.

    `inputs` are the files that were read, by name relative to the source's root.
    """

    version: int
    format: str
    files: dict[str, FileFacts]
    counts: Counts
    source: str
    licenses: tuple[str, ...]
    inputs: dict[str, FileFacts] | None

    @property
    def identity(self) -> str:
        """64 hexadecimal digits: equal for equal records in an equal split, wherever they were found."""
        sides = {side: self.files[f"{side}.jsonl"].sha256 for side in ("train", "held_out")}
        return digest_of({"version": self.version, "format": self.format, **sides})


class BadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that was put aside."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set's folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """What a recipe pins it by."""
        return f"sha256:{self.folder.name}"

    def path(self, side: Side) -> Path:
        """The records of a side, one JSON object a line."""
        return self.folder / f"{side}.jsonl"

    def records(self, side: Side) -> Iterator[Record]:
        """The records of a side; documents of folders have the key `path` too."""
        with self.path(side).open("rb") as file:
            for line in file:
                yield msgspec.json.decode(line)

    def bad_records(self, most: int) -> list[BadRecord]:
        """The first of the records that were put aside."""
        with (self.folder / _QUARANTINE).open("rb") as file:
            return [msgspec.json.decode(line, type=BadRecord) for line in itertools.islice(file, most)]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A good record in the spool; `key` decides its side."""

    offset: int
    size: int
    digest: bytes
    key: bytes


@dataclass(slots=True)
class _Tally:
    records: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    quarantined: int = 0


def open_dataset(home: Path, data: Data) -> Dataset:
    """The data set that a pinned entry of a recipe names, with every file checked.

    Raises:
        NotFound: it is not in the home folder.
        IntegrityError: a file of it has changed.
    """
    folder = home / "datasets" / hex_of(data.sha256)
    manifest = read_manifest(folder, Manifest)
    verify(folder, manifest.files)
    if manifest.identity != folder.name:
        verify(folder, {MANIFEST: FileFacts(sha256=folder.name, bytes=0)})
    return Dataset(folder, manifest)


def make_dataset(data: Data, curation: Curation, *, home: Path, progress: Progress) -> Dataset:
    """Collect, clean and split what an entry of a recipe names; what was made from the same files before is reused.

    Raises:
        InvalidRequest: the source is none, has no good record, or gives other data than the entry is pinned to.
        NotFound, MissingPrerequisite, Unavailable, StorageFull: as they say.
    """
    source = find_source(data)
    shelf = home / "datasets"
    inputs = source.inputs()
    key = _key(data, curation, inputs) if inputs is not None else ""
    folder = recall(shelf, key) if key else None
    if folder is None:
        folder = _made(data, curation, source=source, inputs=inputs, shelf=shelf, progress=progress)
        if key:
            remember(shelf, key, folder)
    digest = f"sha256:{folder.name}"
    if data.sha256 not in {"", digest}:
        raise InvalidRequest(
            f"{data.source} gives {digest}, and the recipe is pinned to {data.sha256}: the source has changed.",
            remedy="Bring the old files back, or empty data.sha256 to train on the new ones: that is another recipe.",
            param="data.sha256",
        )
    return open_dataset(home, Data(format=data.format, sha256=digest))


def held_out_places(keys: Sequence[bytes], share: float) -> set[int]:
    """Which of the records with these keys are held out: those with a small key, equal keys on one side.

    Each side has at least one record where there are two or more and `share` is not 0.
    """
    if share <= 0 or len(keys) < 2:
        return set()
    bound = int(share * 2**64)
    held = {place for place, key in enumerate(keys) if int.from_bytes(key[:8]) < bound}
    if not held:
        held = _places(keys, min(keys))
    if len(held) == len(keys):
        held -= _places(keys, max(keys))
    return held or {len(keys) - 1}


def cut_in_two(text: str, share: float) -> tuple[str, str]:
    """A single document's train and held-out part: the last share of its characters, cut between lines."""
    wanted = int(len(text) * (1 - share))
    place = text.rfind("\n", 0, wanted) + 1 or text.find("\n", wanted) + 1
    head, tail = text[:place], text[place:]
    return (head, tail) if head.strip() and tail.strip() else (text, "")


def _key(data: Data, curation: Curation, inputs: dict[str, FileFacts]) -> str:
    made_from = {
        "version": VERSION,
        "format": data.format,
        "limit": data.limit,
        "include": data.include,
        "curation": curation,
        "inputs": inputs,
        "kind": data.source.partition(":")[0],
    }
    return digest_of(made_from)


def _made(
    data: Data,
    curation: Curation,
    *,
    source: Source,
    inputs: dict[str, FileFacts] | None,
    shelf: Path,
    progress: Progress,
) -> Path:
    with staging(shelf) as part:
        tally = _Tally()
        with (part / _SPOOL).open("wb+") as spool, (part / _QUARANTINE).open("wb") as quarantine:
            good = _good_records(source, data, quarantine, tally, progress)
            kept = _clean(good, spool, curation, tally)
            if not kept:
                raise _nothing_good(data, quarantine, tally)
            chosen = _limited(kept, data.limit)
            sizes = _split(chosen, spool, part, curation.held_out, data.format)
        (part / _SPOOL).unlink()
        manifest = Manifest(
            version=VERSION,
            format=data.format,
            files=folder_facts(part, ("train.jsonl", "held_out.jsonl", _QUARANTINE)),
            counts=Counts(
                records=tally.records,
                train=sizes["train"],
                held_out=sizes["held_out"],
                duplicates=tally.duplicates,
                near_duplicates=tally.near_duplicates,
                beyond_limit=len(kept) - len(chosen),
                quarantined=tally.quarantined,
            ),
            source=data.source,
            licenses=(data.license,) if data.license else source.licenses,
            inputs=inputs,
        )
        (part / MANIFEST).write_bytes(msgspec.json.encode(manifest, order="sorted"))
        return shelve(part, shelf / manifest.identity)


def _good_records(
    source: Source, data: Data, quarantine: BinaryIO, tally: _Tally, progress: Progress
) -> Iterator[tuple[Record, str]]:
    """Records, each with the path that it keeps; the bad ones go to the quarantine."""
    folder = data.source.startswith(("stdlib:", "folder:"))
    for number, raw in enumerate(source):
        if number % _TELL_EVERY == 0:
            progress(f"reading {data.source}", number, None)
        try:
            record = read_record(raw, data.format)
        except ValueError as error:
            tally.quarantined += 1
            quarantine.write(msgspec.json.encode(_bad(raw, str(error))) + b"\n")
            continue
        tally.records += 1
        yield record, raw.file if folder and raw.whole else ""


def _bad(raw: Raw, reason: str) -> BadRecord:
    return BadRecord(file=raw.file, line=line_of_flaw(raw), reason=reason)


def _clean(good: Iterable[tuple[Record, str]], spool: BinaryIO, curation: Curation, tally: _Tally) -> list[_Kept]:
    """The first of each group of equal or nearly equal records, written to the spool."""
    near = NearDuplicates(curation.near_duplicates) if curation.near_duplicates > 0 else None
    seen: set[bytes] = set()
    kept: list[_Kept] = []
    offset = 0
    for record, path in good:
        digest = hashlib.sha256(msgspec.json.encode(record)).digest()
        if digest in seen:
            tally.duplicates += 1
            continue
        seen.add(digest)
        if near is not None and near.seen(compared_text(record)):
            tally.near_duplicates += 1
            continue
        line = msgspec.json.encode({**record, "path": path} if path else record) + b"\n"
        spool.write(line)
        kept.append(_Kept(offset, len(line), digest, _keyed("held out", split_text(record))))
        offset += len(line)
    return kept


def _limited(kept: list[_Kept], limit: int) -> list[_Kept]:
    if not limit or len(kept) <= limit:
        return kept
    last = sorted(_keyed("limit", one.digest) for one in kept)[limit - 1]
    return [one for one in kept if _keyed("limit", one.digest) <= last]


def _split(chosen: list[_Kept], spool: BinaryIO, part: Path, share: float, format_: str) -> dict[str, int]:
    """Write both sides; returns how many records each has."""
    held = held_out_places([one.key for one in chosen], share)
    sizes = {"train": 0, "held_out": 0}
    with (part / "train.jsonl").open("wb") as train, (part / "held_out.jsonl").open("wb") as held_out:
        files = {"train": train, "held_out": held_out}
        for place, one in enumerate(chosen):
            spool.seek(one.offset)
            line = spool.read(one.size)
            if len(chosen) == 1 and format_ in DOCUMENTS and share > 0:
                sides = _cut_record(msgspec.json.decode(line), share)
            else:
                sides = {"held_out" if place in held else "train": line}
            for side, data in sides.items():
                files[side].write(data)
                sizes[side] += 1
    return sizes


def _cut_record(record: dict[str, Any], share: float) -> dict[str, bytes]:
    parts = zip(("train", "held_out"), cut_in_two(record["text"], share), strict=True)
    return {side: msgspec.json.encode({**record, "text": text}) + b"\n" for side, text in parts if text}


def _keyed(purpose: str, data: bytes) -> bytes:
    return hashlib.sha256(purpose.encode() + b"\0" + data).digest()


def _places(keys: Sequence[bytes], wanted: bytes) -> set[int]:
    return {place for place, key in enumerate(keys) if key == wanted}


def _nothing_good(data: Data, quarantine: BinaryIO, tally: _Tally) -> InvalidRequest | NotFound:
    if not tally.quarantined:
        return NotFound(f"{data.source} has no records.", remedy="Name a source that holds some.")
    quarantine.flush()
    with Path(quarantine.name).open("rb") as file:
        first = msgspec.json.decode(file.readline(), type=BadRecord)
    return InvalidRequest(
        f"{data.source} has no good record of the format {data.format!r}; {tally.quarantined} are bad, the first one "
        f"({first.file}, line {first.line}): {first.reason}.",
        remedy="Mend the records, or name the format that they have.",
        param="data.format",
    )
