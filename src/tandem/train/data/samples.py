"""Samples: data sets as a tokenizer and a context make them, rows of tokens or chats by place, weighted to an epoch."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.spec import Recipe
from tandem.train.data.dataset import BadRecord, Dataset, Progress, Side, open_dataset
from tandem.train.data.folders import (
    MANIFEST,
    FileFacts,
    digest_of,
    folder_facts,
    hex_of,
    read_manifest,
    shelve,
    staging,
    verify,
)
from tandem.train.data.packing import Piece, pack
from tandem.train.data.records import Record, bytes_of
from tandem.train.data.sources import DOCUMENTS
from tandem.train.data.text import Text

# NOTE: the place of a sample in its store decides when it is trained on. What changes it takes a new version.
VERSION = 1

FIM_SLACK = 16
"""Tokens that a row leaves free where segments grow by control tokens."""

_BATCH_CHARACTERS = 2**22  # that are encoded together
_SHOWN = 10  # refused records that the manifest tells of
_SPOOL = "tokens.part"
_TELL_EVERY = 64  # records
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64 (Vigna, public domain)


class StoreManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a store holds.

    `longest` sample in tokens; `longer` chats than the context, which are cut; `refused` by the chat template.
    """

    version: int
    dataset: str
    side: str
    tokenizer: str
    wide: bool
    samples: int
    longest: int
    longer: int
    refused: int
    first_refused: tuple[BadRecord, ...]
    files: dict[str, FileFacts]


class Store(Protocol):
    """Samples by place."""

    manifest: StoreManifest
    tokens: NDArray[np.int64]
    """Tokens of each sample."""
    bytes: NDArray[np.int64]
    """UTF-8 bytes of what is predicted of each sample."""

    def __getitem__(self, place: int) -> Record:
        """The sample at a place."""
        ...


class RowStore:
    """Rows of segments: {"segments": [int32 arrays], "bytes": int}."""

    def __init__(self, folder: Path, manifest: StoreManifest) -> None:
        self.manifest = manifest
        self.tokens, self.bytes = _read(folder / "tokens.bin"), _read(folder / "bytes.bin")
        self._rows, self._segments = _read(folder / "rows.bin"), _read(folder / "segments.bin")
        path = folder / "ids.bin"
        self._ids: NDArray[Any] = np.empty(0, np.int32)
        if path.stat().st_size:
            self._ids = np.memmap(path, dtype="<u4" if manifest.wide else "<u2", mode="r")

    def __getitem__(self, place: int) -> Record:
        """The row at a place."""
        edges = self._segments[self._rows[place] : self._rows[place + 1] + 1].tolist()
        segments = [np.asarray(self._ids[begin:end], dtype=np.int32) for begin, end in pairwise(edges)]
        return {"segments": segments, "bytes": int(self.bytes[place])}


class ChatStore:
    """Records as they are in the data set, decoded when they are asked for."""

    def __init__(self, folder: Path, manifest: StoreManifest, records: Path) -> None:
        self.manifest = manifest
        self.tokens, self.bytes = _read(folder / "tokens.bin"), _read(folder / "bytes.bin")
        self._places = _read(folder / "places.bin").reshape(-1, 2)
        self._data: NDArray[np.uint8] = np.empty(0, np.uint8)
        if records.stat().st_size:
            self._data = np.memmap(records, dtype=np.uint8, mode="r")

    def __getitem__(self, place: int) -> Record:
        """The record at a place."""
        begin, end = self._places[place].tolist()
        record: Record = msgspec.json.decode(self._data[begin:end].tobytes())
        return record


class Samples:
    """The samples of an epoch, of one side of a recipe's data, by number; what an epoch holds twice has two numbers.

    `longest` is the longest sample in tokens; `tokens` are those of an epoch, and `bytes` the UTF-8 bytes of what is
    predicted in one.
    """

    def __init__(self, parts: Sequence[tuple[Store, NDArray[np.int64]]]) -> None:
        self._stores = [store for store, _ in parts]
        self._places = np.concatenate([places for _, places in parts])
        self._ends = np.cumsum([len(places) for _, places in parts])
        self.longest = max(store.manifest.longest for store in self._stores)
        self.tokens = sum(int(store.tokens[places].sum()) for store, places in parts)
        self.bytes = sum(int(store.bytes[places].sum()) for store, places in parts)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Record:
        """Sample `number` of the epoch, as `records.Record`, or a row {"segments": [int32 arrays], "bytes": int}."""
        if not 0 <= number < len(self._places):
            raise IndexError(f"sample {number} of {len(self._places)}")
        store = self._stores[int(np.searchsorted(self._ends, number, side="right"))]
        return store[int(self._places[number])]


def open_samples(home: Path, recipe: Recipe, side: Side) -> Samples:
    """The samples of a side of a pinned recipe, with every file behind them checked.

    The held-out side has each sample once, whatever its weight.

    Raises:
        NotFound: they have not been prepared.
        IntegrityError: a file has changed; the message names it.
    """
    parts = []
    for data in recipe.data:
        store = open_store(home, recipe, open_dataset(home, data), side)
        weight = data.weight if side == "train" else 1.0
        parts.append((store, epoch_places(store.manifest.samples, weight, key=hex_of(data.sha256))))
    return Samples(parts)


def epoch_places(count: int, weight: float, *, key: str) -> NDArray[np.int64]:
    """The places of `count` samples that an epoch holds, int64, ascending: each `weight` times.

    Of a weight's fraction that share of the samples, rounded, is held once more: those with the least keyed number.
    At least one sample is held where there is any.
    """
    times = int(weight)
    more = round(count * (weight - times))
    if count and not times and not more:
        more = 1
    numbers = np.arange(count, dtype=np.uint64) + np.uint64(int(hex_of(key)[:16], 16))
    order = np.argsort(_mixed(_mixed(numbers)), kind="stable")[:more]
    return np.sort(np.concatenate([np.repeat(np.arange(count), times), order])).astype(np.int64)


def slack_of(recipe: Recipe) -> int:
    """Tokens that a row of this recipe's objective leaves free."""
    return FIM_SLACK if recipe.objective.name == "fim" else 0


def store_folder(home: Path, recipe: Recipe, dataset: Dataset, side: Side) -> Path:
    """Where the store of a side of a data set is, for a recipe with a pinned tokenizer."""
    made_from = {
        "version": VERSION,
        "dataset": dataset.digest,
        "side": side,
        "tokenizer": recipe.tokenizer.sha256,
        "context": recipe.batch.context,
        "slack": slack_of(recipe),
    }
    return home / "samples" / digest_of(made_from)


def open_store(home: Path, recipe: Recipe, dataset: Dataset, side: Side) -> Store:
    """A store with every file checked.

    Raises:
        NotFound: it has not been made.
        IntegrityError: a file of it has changed.
    """
    folder = store_folder(home, recipe, dataset, side)
    manifest = read_manifest(folder, StoreManifest)
    verify(folder, manifest.files)
    if dataset.manifest.format in DOCUMENTS:
        return RowStore(folder, manifest)
    return ChatStore(folder, manifest, dataset.path(side))


def make_store(recipe: Recipe, dataset: Dataset, side: Side, *, home: Path, text: Text, progress: Progress) -> Path:
    """Make the store of a side of a data set, if it is not there; returns its folder.

    Raises:
        UnsupportedFeature: chats, and a tokenizer without a usable chat template.
        StorageFull: as it says.
    """
    dest = store_folder(home, recipe, dataset, side)
    if (dest / MANIFEST).is_file():
        return dest
    with staging(dest.parent) as part:
        if dataset.manifest.format in DOCUMENTS:
            capacity = max(1, recipe.batch.context + 1 - slack_of(recipe))
            facts = _make_rows(part, dataset, side, text=text, capacity=capacity, progress=progress)
        else:
            facts = _make_places(part, dataset, side, text=text, context=recipe.batch.context, progress=progress)
        manifest = StoreManifest(
            version=VERSION,
            dataset=dataset.digest,
            side=side,
            tokenizer=recipe.tokenizer.sha256,
            wide=_wide(text),
            samples=facts.samples,
            longest=facts.longest,
            longer=facts.longer,
            refused=len(facts.refused),
            first_refused=tuple(facts.refused[:_SHOWN]),
            files=folder_facts(part, [path.name for path in part.iterdir()]),
        )
        (part / MANIFEST).write_bytes(msgspec.json.encode(manifest, order="sorted"))
        return shelve(part, dest)


class _Facts(NamedTuple):
    samples: int
    longest: int
    longer: int = 0
    refused: Sequence[BadRecord] = ()


def _make_rows(part: Path, dataset: Dataset, side: Side, *, text: Text, capacity: int, progress: Progress) -> _Facts:
    """Encode the documents into a spool, then write them row by row."""
    kind = np.dtype("<u4" if _wide(text) else "<u2")
    total = getattr(dataset.manifest.counts, side)
    lengths = array("q")
    with (part / _SPOOL).open("wb") as spool:
        for batch in _batches(record["text"] for record in dataset.records(side)):
            progress("encoding", len(lengths), total)
            for ids in text.encode_all(batch):
                spool.write(np.append(ids, text.end).astype(kind).tobytes())
                lengths.append(len(ids) + 1)
    rows = pack(lengths, capacity)
    if rows:
        tokens = np.memmap(part / _SPOOL, dtype=kind, mode="r")
        with (part / "ids.bin").open("wb") as file:
            sizes = _write_rows(rows, tokens, lengths, text.byte_counts(), file.write)
    else:
        (part / "ids.bin").touch()
        sizes = np.empty((0, 2), np.int64)
    (part / _SPOOL).unlink()
    _write(part / "tokens.bin", sizes[:, 0])
    _write(part / "bytes.bin", sizes[:, 1])
    _write(part / "rows.bin", np.cumsum([0, *(len(row) for row in rows)]))
    _write(part / "segments.bin", np.cumsum([0, *(piece.size for row in rows for piece in row)]))
    return _Facts(samples=len(rows), longest=int(sizes[:, 0].max(initial=0)))


def _write_rows(
    rows: Sequence[Sequence[Piece]],
    tokens: NDArray[Any],
    lengths: Sequence[int],
    byte_counts: NDArray[np.int32],
    write: Callable[[bytes], object],
) -> NDArray[np.int64]:
    """Write the rows' tokens; returns tokens and predicted bytes of each, int64[rows, 2]."""
    starts = np.cumsum([0, *lengths])
    sizes = np.empty((len(rows), 2), np.int64)
    for place, row in enumerate(rows):
        begins = [int(starts[piece.document]) + piece.begin for piece in row]
        pieces = [tokens[begin : begin + piece.size] for begin, piece in zip(begins, row, strict=True)]
        ids = np.concatenate(pieces)
        write(ids.tobytes())
        sizes[place] = len(ids), byte_counts[ids[1:]].sum()  # the first token of a row is given, not predicted
    return sizes


def _make_places(part: Path, dataset: Dataset, side: Side, *, text: Text, context: int, progress: Progress) -> _Facts:
    """Note where each chat is that the template takes, and how long it is."""
    total = getattr(dataset.manifest.counts, side)
    places, sizes, refused = array("q"), array("q"), list[BadRecord]()
    offset = longest = longer = 0
    with dataset.path(side).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number % _TELL_EVERY == 0:
                progress("encoding", number, total)
            begin, offset = offset, offset + len(line)
            record = msgspec.json.decode(line)
            try:
                lengths = [len(text.encode_chat(chat)[0]) for chat in _chats(record)]
            except ValueError as error:
                refused.append(BadRecord(file=f"{side}.jsonl", line=number, reason=str(error)))
                continue
            places.extend((begin, offset))
            sizes.extend((sum(lengths), bytes_of(record)))
            longest = max(longest, *lengths)
            longer += max(lengths) > context + 1
    both = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    _write(part / "places.bin", np.array(places, dtype=np.int64))
    _write(part / "tokens.bin", both[:, 0])
    _write(part / "bytes.bin", both[:, 1])
    return _Facts(samples=len(both), longest=longest, longer=longer, refused=refused)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every bit of a word decides about half of the bits of the outcome."""
    words = (words ^ (words >> np.uint64(30))) * _MIX[0]
    words = (words ^ (words >> np.uint64(27))) * _MIX[1]
    return words ^ (words >> np.uint64(31))


def _chats(record: Record) -> Iterator[list[dict[str, str]]]:
    if "messages" in record:
        yield record["messages"]
        return
    for side in ("chosen", "rejected"):
        yield [*record["prompt"], {"role": "assistant", "content": record[side]}]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _wide(text: Text) -> bool:
    return text.size > 2**16


def _write(path: Path, values: NDArray[np.int64]) -> None:
    path.write_bytes(values.astype("<i8").tobytes())


def _read(path: Path) -> NDArray[np.int64]:
    return np.fromfile(path, dtype="<i8")
