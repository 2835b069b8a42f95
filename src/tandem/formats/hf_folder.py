"""A Hugging Face model folder: its JSON files, its one weights file, and refusals of what cannot be used."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from tandem.formats.gguf_file import open_regular
from tandem.formats.safetensors_file import SafetensorsFile, sync_folder
from tandem.kit.errors import Conflict, IntegrityError, NotFound, StorageFull, UnsupportedFeature

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""A size in a configuration."""
Layers = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
"""A number of layers; tables are made of this length before the weights are looked at."""

MAX_JSON_BYTES = 64 * 2**20  # the largest tokenizer.json files have 35 MB
WEIGHTS = "model.safetensors"
FOLDER_FILES = (
    "config.json",
    WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.txt",
    "1_Pooling/config.json",
)
"""All files that a conversion reads; nothing else of a model needs to be fetched."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})
"""Endings of files that run code when they are loaded."""
_CONFIGURATIONS = ("config.json", "tokenizer_config.json")


class _Kind(msgspec.Struct):
    architectures: list[str] = msgspec.field(default_factory=list)


class _Code(msgspec.Struct):
    """Where a configuration names Python code that came with the model."""

    auto_map: Any = None
    custom_pipelines: Any = None


class HFFolder:
    """A folder with `config.json`, `model.safetensors` and tokenizer files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def architecture(self) -> str:
        """The model class that wrote the folder, such as `LlamaForCausalLM`."""
        return next(iter(self.read("config.json", _Kind).architectures), "unknown")

    @cached_property
    def weights(self) -> SafetensorsFile:
        """The weights.

        Raises:
            UnsupportedFeature: they are in several files, or in a pickle.
        """
        if not self.has(WEIGHTS):
            raise UnsupportedFeature(
                f"{self.path} has no {WEIGHTS}{self._instead()}.",
                remedy="Only one unsharded safetensors file is read; save the model again in that form.",
            )
        return SafetensorsFile(self.path / WEIGHTS)

    def refuse_code(self) -> None:
        """See that the model needs no code of its own: none of it is ever run, so it would be another model.

        Raises:
            UnsupportedFeature: a configuration names such code (`auto_map`).
            IntegrityError: a configuration is damaged.
        """
        for name in _CONFIGURATIONS:
            if self.has(name):
                code = self.read(name, _Code)
                if code.auto_map or code.custom_pipelines:
                    raise UnsupportedFeature(
                        f"{self.path / name} names Python code of the model (auto_map), which is never run.",
                        remedy="Use a model of a plain architecture, or one that was converted to GGUF.",
                    )

    def _instead(self) -> str:
        """What the folder has in the place of one safetensors file."""
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        if any(name.endswith(".safetensors") for name in names):
            return "; its weights are in several files"
        if any(Path(name).suffix.lower() in PICKLES for name in names):
            return "; its weights are only there as a pickle, which runs code when it is loaded"
        return ""

    def has(self, name: str) -> bool:
        """Whether the folder has this file."""
        return (self.path / name).is_file()

    def text(self, name: str) -> str:
        """A text file of the folder.

        Raises:
            NotFound: it is missing.
            IntegrityError: it is absurdly large or not UTF-8.
        """
        path = self.path / name
        try:
            with open_regular(path) as file:
                data = file.read(MAX_JSON_BYTES + 1)
        except NotFound as error:
            raise NotFound(error.message, remedy="Fetch the whole model folder again.") from error
        if len(data) > MAX_JSON_BYTES:
            raise IntegrityError(f"{path} has more than {MAX_JSON_BYTES} bytes.", remedy="Fetch it again.")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{path} is not UTF-8 text.", remedy="Fetch it again.") from error

    def read(self, name: str, kind: type[T]) -> T:
        """A JSON file of the folder as a struct; unknown keys are ignored.

        Raises:
            NotFound, IntegrityError: as `text`, and where it is not JSON or not of this shape.
        """
        try:
            return msgspec.json.decode(self.text(name), type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise IntegrityError(
                f"{self.path / name} is not what it should be: {error}.", remedy="Fetch it again."
            ) from error

    def refuse(self, what: str) -> UnsupportedFeature:
        """The error for a model that is sound and not supported."""
        return UnsupportedFeature(
            f"{self.path} cannot be converted to GGUF: {what}.",
            remedy="Convert it with llama.cpp's convert_hf_to_gguf.py and pull the GGUF file.",
        )


@contextmanager
def folder_writing(dest: Path) -> Iterator[Path]:
    """An empty folder to fill with files that are synced one by one; it is at `dest` after a clean exit, and
    nowhere after another. Several processes may try: the first one wins.

    Raises:
        Conflict: there is something at `dest`.
        StorageFull: the disk under `dest` is full.
    """
    if dest.exists():
        raise _taken(dest)
    holder: Path | None = None
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f"{dest.name}.", suffix=".part", dir=dest.parent))
        part = holder / dest.name  # with the rights that any new folder has
        part.mkdir()
        yield part
        sync_folder(part)
        _rename(part, dest)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(f"No space left to write {dest}.", remedy="Free some space and run it again.") from error
        raise
    finally:
        if holder is not None:
            shutil.rmtree(holder, ignore_errors=True)


def _rename(part: Path, dest: Path) -> None:
    try:
        part.rename(dest)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise _taken(dest) from error
        raise
    sync_folder(dest.parent)


def _taken(dest: Path) -> Conflict:
    return Conflict(f"{dest} is there already.", remedy="Use it, or remove it first.")
