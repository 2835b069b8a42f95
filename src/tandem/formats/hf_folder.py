"""A Hugging Face model folder: its JSON files, its one weights file, and refusals of what cannot be used."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tandem.formats.safetensors_file import SafetensorsFile
from tandem.kit.errors import IntegrityError, NotFound, UnsupportedFeature

T = TypeVar("T")

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


class HFFolder:
    """A folder with `config.json`, `model.safetensors` and tokenizer files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def architecture(self) -> str:
        """The model class that wrote the folder, such as `LlamaForCausalLM`."""
        names = self.config.get("architectures") or ["unknown"]
        return str(names[0])

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`."""
        return self.json("config.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """`tokenizer_config.json`, empty where there is none."""
        return self.json("tokenizer_config.json") if self.has("tokenizer_config.json") else {}

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

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder that holds one object.

        Raises:
            NotFound, IntegrityError: as `text`, and where it is no such JSON.
        """
        try:
            value = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{self.path / name} is not JSON.", remedy="Fetch it again.") from error
        if not isinstance(value, dict):
            raise IntegrityError(f"{self.path / name} is not a JSON object.", remedy="Fetch it again.")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """A value of `config.json`.

        Raises:
            IntegrityError: it is missing or of another type.
        """
        value = self.config.get(key)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise IntegrityError(
                f"{self.path / 'config.json'} has {key} = {value!r}; a {kind.__name__} is needed.",
                remedy="Fetch the model again.",
            )
        return value

    def refuse(self, what: str) -> UnsupportedFeature:
        """The error for a model that is sound and not supported."""
        return UnsupportedFeature(
            f"{self.path} cannot be converted to GGUF: {what}.",
            remedy="Convert it with llama.cpp's convert_hf_to_gguf.py and pull the GGUF file.",
        )
