"""What Tandem does not take: pickles, which run code, and other formats, told by name and by their first bytes."""

import re
from pathlib import Path, PurePosixPath

from tandem.formats import PICKLES
from tandem.kit.errors import NotFound, UnsupportedFeature

_FIRST_BYTES = 4096
_RUNS_CODE = "runs code when it is loaded"
_SAVED_ANEW = "Use a GGUF file, or a folder with config.json and model.safetensors."
_OTHERS = {
    ".onnx": "an ONNX graph",
    ".ort": "an ONNX graph",
    ".h5": "an HDF5 file of Keras",
    ".hdf5": "an HDF5 file of Keras",
    ".keras": "a Keras archive",
    ".pb": "a TensorFlow graph",
    ".tflite": "a TensorFlow Lite graph",
    ".msgpack": "a file of Flax weights",
    ".mlmodel": "a Core ML model",
    ".npy": "a numpy array",
    ".npz": "an archive of numpy arrays",
    ".ggml": "a GGML file of before 2023",
    ".engine": "a TensorRT engine",
    ".nemo": "a NeMo archive",
    ".zip": "an archive",
    ".tar": "an archive",
    ".gz": "an archive",
}
# The beginnings of files, most telling first. Pickles of protocol 2 and later begin with their number; older ones with
# an instruction, of which these come first in a list, a dictionary, or a call.
_BEGINNINGS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x80[\x02-\x05]"), f"a pickle, which {_RUNS_CODE}"),
    (re.compile(rb"(?:\([ld](?:p\d+)?\n|[}\]]q|c[\w.]+\n\w+\n)"), f"a pickle, which {_RUNS_CODE}"),
    (
        re.compile(rb"PK\x03\x04.{22}.{4}[^\0]*data\.pkl", re.DOTALL),
        f"a PyTorch archive of pickles, which {_RUNS_CODE}",
    ),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb"\x93NUMPY.{4}.*'descr':\s*'\|O", re.DOTALL), f"a numpy file of pickled objects, which {_RUNS_CODE}"),
    (re.compile(rb"\x93NUMPY"), "a numpy array"),
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
    (re.compile(rb"(?:lmgg|fmgg|tjgg|algg)"), "a GGML file of before 2023"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf"), "a compressed archive"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS, without the file that it stands for"),
    (re.compile(rb"\s*<(?:!doctype|html)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\x08[\x01-\x14]\x12.{1,40}(?:pytorch|onnx|tf2onnx)", re.DOTALL), "an ONNX graph"),
)


def is_pickle(name: str) -> bool:
    """Whether a file of this name would be a pickle."""
    return PurePosixPath(name).suffix.lower() in PICKLES


def refuse_name(name: str) -> None:
    """Refuse a file whose name says that it is of another format than ours.

    Raises:
        UnsupportedFeature: the name is that of a pickle or of a format that no engine here reads.
    """
    if is_pickle(name):
        raise UnsupportedFeature(f"{name} is a pickle, which {_RUNS_CODE}.", remedy=_SAVED_ANEW)
    if (kind := _OTHERS.get(PurePosixPath(name).suffix.lower())) is not None:
        raise UnsupportedFeature(f"{name} is {kind}, which no engine here reads.", remedy=_SAVED_ANEW)


def refuse_content(path: Path) -> None:
    """Refuse a file whose first bytes are those of another format, whatever its name says.

    It only finds better words: what passes is still no model before its header was read.

    Raises:
        UnsupportedFeature: it begins like a pickle, an archive, or another format.
        NotFound: it is no file, or cannot be read.
    """
    if not path.is_file():
        raise NotFound(f"{path} is no regular file.", remedy="Check the path.")
    with path.open("rb") as file:
        begin = file.read(_FIRST_BYTES)
    if begin[6:9] == b"\0\0{":
        return  # the length of a safetensors header, which may look like the number of a pickle's protocol
    for pattern, kind in _BEGINNINGS:
        if pattern.match(begin):
            raise UnsupportedFeature(f"{path.name} is in truth {kind}.", remedy=_SAVED_ANEW)
