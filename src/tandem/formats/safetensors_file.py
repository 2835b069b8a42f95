"""Safetensors files: a bounded header reader, and weights as numpy arrays, bfloat16 included."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.kit.errors import IntegrityError, NotFound

MAX_HEADER_BYTES = 100_000_000  # the bound of the format's own library
MAX_TENSORS = 65_536

# Bytes per number; those with a numpy type (little-endian) can be read as weights, and bfloat16 by widening.
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "BOOL": 1} | {
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
_READABLE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor's place: `offset` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsFile:
    """A checked safetensors file; weights are read when they are asked for.

    Raises:
        NotFound: there is no such file.
        IntegrityError: the header is not one, or does not describe the bytes behind it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: Mapping[str, Entry] = MappingProxyType(_read_entries(path))

    def weights(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, read only where that needs no copy.

        Raises:
            NotFound: there is no such tensor.
            IntegrityError: it holds no floating-point numbers of 16 to 64 bits.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise NotFound(f"{self.path} has no tensor {name!r}.", remedy="Fetch the model again.")
        if entry.dtype not in _READABLE:
            raise _broken(self.path, f"tensor {name!r} has the type {entry.dtype}, which is no weight")
        raw = np.memmap(
            self.path, dtype=_READABLE[entry.dtype], mode="r", offset=entry.offset, shape=entry.shape or (1,)
        )
        if entry.dtype == "BF16":  # the upper half of a float32
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(raw, dtype=np.float32)


def _read_entries(path: Path) -> dict[str, Entry]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound(
            f"Cannot open {path}: {error.strerror}.", remedy="Check the path and who may read it."
        ) from error
    with file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _broken(path, f"it has {size} bytes, and its header claims {length}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its header is not JSON") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise _broken(path, "its header is not a table of tensors")
    header.pop("__metadata__", None)
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


def _entry(path: Path, name: str, value: Any, *, start: int) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if dtype in _WIDTHS:
            pass
        case _:
            raise _broken(path, f"the entry of tensor {name!r} is not one")
    if not all(isinstance(extent, int) and not isinstance(extent, bool) and extent >= 0 for extent in shape):
        raise _broken(path, f"tensor {name!r} has the shape {shape}")
    entry = Entry(dtype=dtype, shape=tuple(shape), offset=start + begin)
    if begin < 0 or end - begin != _bytes(entry):
        raise _broken(path, f"tensor {name!r} does not fit its place")
    return entry


def _bytes(entry: Entry) -> int:
    return math.prod(entry.shape) * _WIDTHS[entry.dtype]


def _broken(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is not a usable safetensors file: {cause}.", remedy="Fetch the model again; keep no part of it."
    )
