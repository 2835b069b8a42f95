"""Writing GGUF files whole or not at all: a temporary file, fsync, rename."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from numpy.typing import NDArray

from tandem.kit.errors import StorageFull

FIM_ORDER = "tandem.fim_order"
"""The key that says how a model expects a gap: `suffix_first`, or `prefix_first` where it is missing."""

FILE_TYPES: Mapping[str, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "f32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "bf16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
"""The weight types that Tandem writes, by the name a person gives."""


@contextmanager
def gguf_writing(path: Path, *, architecture: str) -> Iterator[GGUFWriter]:
    """A writer to add metadata and tensors to; on a clean exit they appear at `path`, else nothing does.

    Raises:
        StorageFull: the disk under `path` is full.
    """
    part = path.with_name(f"{path.name}.part")
    writer = GGUFWriter(part, architecture)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer)
        writer.close()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(f"No space left to write {path}.", remedy="Free some space and run it again.") from error
        raise
    finally:
        with suppress(OSError):  # what is left in its buffer may not fit either
            writer.close()
        part.unlink(missing_ok=True)


def _write_tensors(writer: GGUFWriter) -> None:
    """The writer's own way is numpy's tofile(), which says nothing when the last bytes do not fit on the disk."""
    assert writer.fout is not None, "opened with the header"
    (file,), (tensors,) = writer.fout, writer.tensors
    writer.write_padding(file, file.tell())
    for info in tensors.values():
        file.write(np.ascontiguousarray(info.tensor).data)
        writer.write_padding(file, info.nbytes)
        info.tensor = None  # its memory is free again


def add_weights(writer: GGUFWriter, name: str, weights: NDArray[np.float32], *, kind: str) -> None:
    """Add one tensor as `kind`, a key of `FILE_TYPES`; vectors (norms, biases) stay f32, as llama.cpp wants.
    Rows that are not whole blocks of the type become f16, as llama.cpp's own converter does it.
    """
    _, tensor_type = FILE_TYPES[kind]
    if weights.ndim < 2 or tensor_type is GGMLQuantizationType.F32:
        writer.add_tensor(name, np.ascontiguousarray(weights, dtype=np.float32))
        return
    if weights.shape[-1] % GGML_QUANT_SIZES[tensor_type][0]:
        tensor_type = GGMLQuantizationType.F16
    writer.add_tensor(name, quantize(weights, tensor_type), raw_dtype=tensor_type)
