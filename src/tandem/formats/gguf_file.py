"""GGUF headers: a bounded reader that trusts no byte of the file."""

import os
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from tandem.kit.errors import IntegrityError, NotFound

# Bounds far above any published model, and far below what would exhaust the memory of the reader.
MAX_ENTRIES = 65_536  # metadata keys, or tensors; the largest mixtures of experts have a few thousand
MAX_STRING_BYTES = 16 * 2**20  # the longest chat templates have 0.1 MB
MAX_ITEMS = 2**22  # in all lists together; the largest vocabularies have 0.3 million tokens and 0.6 million merges
MAX_HEADER_BYTES = 128 * 2**20
MAX_NAME_BYTES = 64 * 1024  # of a metadata key; GGUF itself says 2^16 - 1
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME less the final zero
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_EXTENT = 2**40  # weights in a row

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
# One entry for each token; engines read them up to the number of tokens without asking how many there are.
_PER_TOKEN = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")

Value = bool | int | float | str | tuple["Value", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor's entry: `shape` in numpy order (rows first), `offset` in bytes from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    size: int

    @property
    def parameters(self) -> int:
        """The number of weights."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFHeader:
    """Everything that a GGUF file says before its weights; arrays are tuples."""

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    size: int  # of the whole file, in bytes

    def text(self, key: str) -> str | None:
        """The string under `key`, or None where the file has none.

        Raises:
            IntegrityError: the value has another type.
        """
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise _broken(self.path, f"{key} is not a string")
        return value

    def integer(self, key: str) -> int | None:
        """The whole number under `key`, or None where the file has none.

        Raises:
            IntegrityError: the value has another type.
        """
        value = self.metadata.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise _broken(self.path, f"{key} is not a whole number")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings under `key`, empty where the file has none.

        Raises:
            IntegrityError: the value has another type.
        """
        value = self.metadata.get(key, ())
        if not isinstance(value, tuple):
            raise _broken(self.path, f"{key} is not a list of strings")
        strings = tuple(item for item in value if isinstance(item, str))
        if len(strings) != len(value):
            raise _broken(self.path, f"{key} is not a list of strings")
        return strings

    def integers(self, key: str) -> tuple[int, ...]:
        """The whole numbers under `key`, empty where the file has none.

        Raises:
            IntegrityError: the value has another type.
        """
        value = self.metadata.get(key, ())
        if not isinstance(value, tuple):
            raise _broken(self.path, f"{key} is not a list of whole numbers")
        numbers = tuple(item for item in value if isinstance(item, int) and not isinstance(item, bool))
        if len(numbers) != len(value):
            raise _broken(self.path, f"{key} is not a list of whole numbers")
        return numbers


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file of version 2 or 3; the weights are not read.

    The tensors fill the file: none overlaps another, and between and after them is padding only, less than the
    alignment, so that no other file hides behind the weights. Names are printable text without zeros, which engines
    would cut short; lists have an entry for each token where engines expect one.

    Raises:
        NotFound: there is no such file.
        IntegrityError: it is not GGUF, is cut short, or its header contradicts itself or is absurdly large.
    """
    with open_regular(path) as file:
        reader = _Reader(path, file)
        version, tensor_count, key_count = _preamble(reader)
        metadata = dict(_entry(reader) for _ in range(key_count))
        if len(metadata) != key_count:
            raise reader.broken("a metadata key occurs twice")
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 2**16 or alignment & (alignment - 1):
            raise reader.broken(f"the alignment {alignment!r} is not a small power of two")
        _check_lists(reader, metadata)
        entries = [_tensor_entry(reader) for _ in range(tensor_count)]
        start = -(-reader.offset // alignment) * alignment
        tensors = tuple(_placed(reader, entry, start=start, alignment=alignment) for entry in entries)
        if len({tensor.name for tensor in tensors}) != tensor_count:
            raise reader.broken("a tensor's name occurs twice")
        _check_filled(reader, tensors, start=start, alignment=alignment)
        return GGUFHeader(
            path=path, version=version, metadata=MappingProxyType(metadata), tensors=tensors, size=reader.size
        )


def open_regular(path: Path) -> BinaryIO:
    """A file of bytes, open for reading; a pipe would wait for its writer, a device has no end.

    Raises:
        NotFound: there is none, or it cannot be read.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise NotFound(
            f"Cannot open the model file {path}: {error.strerror}.",
            remedy="Check the path and who may read it.",
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotFound(f"The model file {path} is no regular file.", remedy="Check the path.")
    return file


class _Reader:
    """A cursor that never passes the end of the file or the header's bound."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.offset = 0
        self.size = os.fstat(file.fileno()).st_size
        self._file = file
        self._items_left = MAX_ITEMS

    def broken(self, cause: str) -> IntegrityError:
        return _broken(self.path, cause)

    def take(self, count: int) -> bytes:
        if self.offset + count > MAX_HEADER_BYTES:
            raise self.broken(f"its header is longer than {MAX_HEADER_BYTES} bytes")
        data = self._file.read(count) if self.offset + count <= self.size else b""
        if len(data) != count:
            raise self.broken(f"it is cut short: {self.size} bytes, and its header goes on")
        self.offset += count
        return data

    def unpack(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return int(value)

    def count(self, what: str, limit: int, *, code: str = "Q") -> int:
        number = self.unpack(code)
        if number > limit:
            raise self.broken(f"its header claims {number} {what}; at most {limit} are believed")
        return number

    def items(self) -> int:
        """The length of a list. A number in a list takes up to 40 bytes here, and one in the file."""
        length = self.count("items in a list", self._items_left)
        self._items_left -= length
        return length

    def string(self) -> str:
        # Some vocabularies hold single bytes of longer characters: replaced, since only words are compared.
        return self.take(self.count("bytes of text", MAX_STRING_BYTES)).decode(errors="replace")

    def name(self, limit: int) -> str:
        data = self.take(self.count("bytes of text", limit))
        name = data.decode(errors="replace")
        if not name.isprintable() or "\N{REPLACEMENT CHARACTER}" in name or not name:
            raise self.broken(f"{data[:80]!r} is no name")
        return name


def _preamble(reader: _Reader) -> tuple[int, int, int]:
    if reader.size < 24 or reader.take(4) != b"GGUF":
        raise reader.broken("it does not begin as a GGUF file does")
    version = reader.unpack("I")
    if version not in {2, 3}:
        raise reader.broken(f"its GGUF version {version} is unknown (2 and 3, little-endian, are read)")
    return version, reader.count("tensors", MAX_ENTRIES), reader.count("metadata keys", MAX_ENTRIES)


def _entry(reader: _Reader) -> tuple[str, Value]:
    return reader.name(MAX_NAME_BYTES), _value(reader, reader.unpack("I"))


def _value(reader: _Reader, kind: int, *, inside_array: bool = False) -> Value:
    if kind == _STRING:
        return reader.string()
    if kind == _BOOL:
        return _truth(reader, reader.take(1))[0]
    if kind == _ARRAY and not inside_array:
        return _array(reader)
    if kind in _SCALARS:
        return _numbers(reader, kind, 1)[0]
    raise reader.broken(f"a metadata value has the unknown type {kind}")


def _array(reader: _Reader) -> tuple[Value, ...]:
    kind = reader.unpack("I")
    length = reader.items()
    if kind in _SCALARS:
        return _numbers(reader, kind, length)
    if kind == _BOOL:
        return _truth(reader, reader.take(length))
    return tuple(_value(reader, kind, inside_array=True) for _ in range(length))


def _numbers(reader: _Reader, kind: int, length: int) -> tuple[int | float, ...]:
    layout = f"<{length}{_SCALARS[kind]}"
    return struct.unpack(layout, reader.take(struct.calcsize(layout)))


def _truth(reader: _Reader, data: bytes) -> tuple[bool, ...]:
    if data.strip(b"\0\1"):
        raise reader.broken("a truth value is neither 0 nor 1")
    return tuple(byte == 1 for byte in data)


def _tensor_entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.name(MAX_TENSOR_NAME_BYTES)
    dimensions = reader.count("dimensions of a tensor", MAX_DIMENSIONS, code="I")
    extents = [reader.count("weights in a row", MAX_EXTENT) for _ in range(dimensions)]
    return name, tuple(reversed(extents)), reader.unpack("I"), reader.unpack("Q")


def _placed(reader: _Reader, entry: tuple[str, tuple[int, ...], int, int], *, start: int, alignment: int) -> TensorInfo:
    name, shape, kind, offset = entry
    try:
        tensor_type = GGMLQuantizationType(kind)
    except ValueError as error:
        raise reader.broken(f"tensor {name!r} has the unknown type {kind}") from error
    block, block_bytes = GGML_QUANT_SIZES[tensor_type]
    tensor = TensorInfo(name=name, shape=shape, type=tensor_type, offset=start + offset, size=0)
    row = shape[-1] if shape else 1
    if tensor.parameters == 0 or row % block or offset % alignment:
        raise reader.broken(f"tensor {name!r} has the shape {shape} at {offset}, which {tensor_type.name} cannot have")
    size = tensor.parameters // block * block_bytes
    if start + offset + size > reader.size:
        raise reader.broken(
            f"it is cut short: {reader.size} bytes, and tensor {name!r} ends at {start + offset + size}"
        )
    return TensorInfo(name=name, shape=shape, type=tensor_type, offset=start + offset, size=size)


def _check_lists(reader: _Reader, metadata: Mapping[str, Value]) -> None:
    """See that lists with an entry for each token have one."""
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    count = len(tokens) if isinstance(tokens, tuple) else 0
    for key in _PER_TOKEN:
        values = metadata.get(key)
        if values is None:
            continue
        numbers = isinstance(values, tuple) and all(type(value) in {int, float} for value in values)
        if not numbers or (isinstance(values, tuple) and len(values) < count):
            raise reader.broken(f"{key} is not a list of numbers for all of its {count} tokens")


def _check_filled(reader: _Reader, tensors: Sequence[TensorInfo], *, start: int, alignment: int) -> None:
    """See that no two tensors share a byte, and that nothing else is among them or behind them."""
    end = start
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise reader.broken(f"tensor {tensor.name!r} begins at {tensor.offset}, inside another one")
        if tensor.offset - end >= alignment:
            raise reader.broken(f"the {tensor.offset - end} bytes before tensor {tensor.name!r} belong to none")
        end = tensor.offset + tensor.size
    if reader.size - end >= alignment:
        raise reader.broken(f"the {reader.size - end} bytes after its last tensor belong to none")


def _broken(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is not a usable GGUF file: {cause}.",
        remedy="Fetch or convert the model again; keep no part of it.",
    )


__all__ = ["GGUFHeader", "TensorInfo", "Value", "read_header"]
