"""Safetensors files: a bounded header reader, tensors as numpy arrays, and a writer; bfloat16 included."""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.formats.gguf_file import open_regular
from tandem.kit.errors import IntegrityError, NotFound, StorageFull

# The format's own library believes 100 MB, of which JSON could make gigabytes of objects. The largest files have a few
# thousand tensors of some 150 bytes each, and training notes of a few MB.
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 65_536
MAX_NAME_CHARS = 1024
_MAX_QUOTES = 12 * (MAX_TENSORS + 1)  # ten belong to each tensor

# Bytes per number; those with a numpy type (little-endian) can be read as weights, and bfloat16 by widening.
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "BOOL": 1} | {
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
_WEIGHTS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_READABLE = {"U64": "<u8", "I64": "<i8", "U32": "<u4", "I32": "<i4", "U16": "<u2", "I16": "<i2"} | {
    "U8": "|u1",
    "I8": "|i1",
    "BOOL": "|b1",
    **_WEIGHTS,
}
# What is written, in the order of the reference, which keeps every tensor aligned: wide numbers first.
_WRITABLE = ("I64", "F64", "F32", "I32", "BF16", "F16", "U8")
_CHUNK = 2**18  # numbers that are copied at a time


@dataclass(frozen=True, slots=True)
class BFloat16:
    """bfloat16 numbers, which numpy does not know, by their bits."""

    bits: NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """A float32 tensor that is made when it is written, so that a large model is never in memory as a whole."""

    shape: tuple[int, ...]
    make: Callable[[], NDArray[np.float32]]


Tensor = NDArray[Any] | BFloat16 | Later


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor's place: `offset` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


Place = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A byte of the file, or an extent of a tensor."""


class _Claim(msgspec.Struct):
    """What a header says of one tensor."""

    dtype: str
    shape: Annotated[tuple[Place, ...], msgspec.Meta(max_length=32)]
    data_offsets: tuple[Place, Place]


class SafetensorsFile:
    """A checked safetensors file; weights are read when they are asked for.

    Raises:
        NotFound: there is no such file.
        IntegrityError: the header is not one, or does not describe the bytes behind it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: Mapping[str, Entry] = MappingProxyType(_read_entries(path))

    def array(self, name: str) -> NDArray[Any]:
        """A tensor in its own type, read only and on disk until it is touched; bfloat16 comes as uint16 bits.

        Raises:
            NotFound: there is no such tensor.
            IntegrityError: numpy has no type for its numbers.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise NotFound(f"{self.path} has no tensor {name!r}.", remedy="Fetch the model again.")
        if entry.dtype not in _READABLE:
            raise _broken(self.path, f"tensor {name!r} has the type {entry.dtype}, which is not read")
        dtype = np.dtype(_READABLE[entry.dtype])
        if math.prod(entry.shape) == 0:
            return np.empty(entry.shape, dtype=dtype)
        return np.memmap(self.path, dtype=dtype, mode="r", offset=entry.offset, shape=entry.shape)

    def weights(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, read only where that needs no copy.

        Raises:
            NotFound: there is no such tensor.
            IntegrityError: it holds no floating-point numbers of 16 to 64 bits.
        """
        raw = np.atleast_1d(self.array(name))
        dtype = self.entries[name].dtype
        if dtype not in _WEIGHTS:
            raise _broken(self.path, f"tensor {name!r} has the type {dtype}, which is no weight")
        if dtype == "BF16":  # the upper half of a float32
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(raw, dtype=np.float32)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors of float16 to float64, int32, int64, uint8 and `BFloat16` to `path`, byte for byte as the
    reference does; a tensor is copied in small pieces, so a memory-mapped one is never in memory as a whole.

    transformers asks for the metadata {"format": "pt"}.

    Raises:
        StorageFull: the disk under `path` is full; nothing is left behind.
    """
    types = {name: _type(name, tensor) for name, tensor in tensors.items()}
    order = sorted(tensors, key=lambda name: (_WRITABLE.index(types[name]), name.encode()))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        shape = tensor.bits.shape if isinstance(tensor, BFloat16) else tensor.shape
        begin, end = end, end + math.prod(shape) * _WIDTHS[types[name]]
        header[name] = {"dtype": types[name], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file_writing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in _pieces(name, tensors[name], types[name]):
                file.write(piece.data)
    return path


@contextmanager
def file_writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` after a clean exit, and nowhere after another.

    Raises:
        StorageFull: the disk under `path` is full.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(f"No space left to write {path}.", remedy="Free some space and run it again.") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _type(name: str, tensor: Tensor) -> str:
    if isinstance(tensor, Later):
        return "F32"
    if isinstance(tensor, BFloat16):
        assert tensor.bits.dtype == np.uint16, f"{name}: the bits of bfloat16 are uint16"
        return "BF16"
    for dtype in _WRITABLE:
        if dtype != "BF16" and tensor.dtype.newbyteorder("<") == np.dtype(_READABLE[dtype]):
            return dtype
    raise AssertionError(f"{name}: {tensor.dtype} is not written to safetensors files")


def _pieces(name: str, tensor: Tensor, dtype: str) -> Iterator[NDArray[Any]]:
    """Runs of little-endian numbers in C order, whatever the tensor's own order in memory."""
    array: NDArray[Any]
    match tensor:
        case BFloat16(bits):
            array = bits
        case Later(shape=shape, make=make):
            array = make()
            assert array.dtype == np.dtype("f4"), f"{name}: {array.dtype}, where float32 was promised"
            assert array.shape == shape, f"{name}: {array.shape}, where {shape} was promised"
        case _:
            array = tensor
    numbers = array.reshape(-1) if array.flags.c_contiguous else array.flat
    for start in range(0, array.size, _CHUNK):
        yield np.asarray(numbers[start : start + _CHUNK], dtype=_READABLE[dtype])


def _read_entries(path: Path) -> dict[str, Entry]:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _broken(path, f"it has {size} bytes, and its header claims {length}")
        text = file.read(length)
    header = _header(path, text)
    start = 8 + length
    entries = {name: _entry(path, name, value, start=start) for name, value in header.items()}
    # The format wants the tensors to fill the file without gaps or overlaps, so that nothing hides between them.
    end = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, _bytes(entry))):
        if entry.offset != end:
            raise _broken(path, f"its tensors leave a gap or overlap at byte {end}")
        end += _bytes(entry)
    if end != size:
        raise _broken(path, f"it has {size} bytes, and its tensors end at {end}")
    return entries


def _header(path: Path, text: bytes) -> dict[str, msgspec.Raw]:
    """What the header says of each tensor, not looked at yet."""
    if text.count(b'"') > _MAX_QUOTES:
        raise _broken(path, f"its header names more than {MAX_TENSORS} tensors")
    try:
        header = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        msgspec.json.decode(header.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(path, "its header is not a JSON table of tensors") from error
    if len(header) > MAX_TENSORS:
        raise _broken(path, f"its header names more than {MAX_TENSORS} tensors")
    return header


def _entry(path: Path, name: str, value: msgspec.Raw, *, start: int) -> Entry:
    if len(name) > MAX_NAME_CHARS:
        raise _broken(path, f"the name of a tensor has {len(name)} characters")
    try:
        claim = msgspec.json.decode(value, type=_Claim)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(path, f"the entry of tensor {name!r} is not one") from error
    if claim.dtype not in _WIDTHS:
        raise _broken(path, f"tensor {name!r} has the type {claim.dtype[:40]!r}, which is not read")
    begin, end = claim.data_offsets
    entry = Entry(dtype=claim.dtype, shape=claim.shape, offset=start + begin)
    if end - begin != _bytes(entry):
        raise _broken(path, f"tensor {name!r} does not fit its place")
    return entry


def _bytes(entry: Entry) -> int:
    return math.prod(entry.shape) * _WIDTHS[entry.dtype]


def _broken(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is not a usable safetensors file: {cause}.", remedy="Fetch the model again; keep no part of it."
    )
