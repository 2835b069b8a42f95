"""A Hugging Face model folder: its JSON files, its one weights file, and refusals of what cannot be used."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from tandem.formats.safetensors_file import SafetensorsFile
from tandem.kit.errors import IntegrityError, NotFound, UnsupportedFeature

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


class _Kind(msgspec.Struct):
    architectures: list[str] = msgspec.field(default_factory=list)


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
                f"{self.path} has no {WEIGHTS}.",
                remedy="Only one unsharded safetensors file is read; save the model again in that form.",
            )
        return SafetensorsFile(self.path / WEIGHTS)

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
            if path.stat().st_size > MAX_JSON_BYTES:
                raise IntegrityError(f"{path} has more than {MAX_JSON_BYTES} bytes.", remedy="Fetch it again.")
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise NotFound(
                f"Cannot read {path}: {error.strerror}.", remedy="Fetch the whole model folder again."
            ) from error
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
