"""Conversion of a Hugging Face folder to GGUF, whichever of the known architectures it holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tandem.formats import bert, llama
from tandem.formats.hf_folder import HFFolder


class _Converter(Protocol):
    def __call__(self, folder: HFFolder, dest: Path, *, name: str, kind: str) -> Path: ...


# The weight type is the one that costs nothing to speak of: encoders are compared to four digits, so f16 for them;
# for text q8_0 is twice as fast as f16 on a CPU.
_CONVERTERS: Mapping[str, tuple[_Converter, str]] = {
    bert.ARCHITECTURE: (bert.convert_bert, "f16"),
    llama.ARCHITECTURE: (llama.convert_llama, "q8_0"),
}


def convert_folder(path: Path, dest: Path, *, name: str, kind: str | None = None) -> Path:
    """Write the model in the Hugging Face folder `path` to the GGUF file `dest`.

    `kind` is the type of the weights: f32, f16, bf16 or q8_0; by default f16 for encoders and q8_0 for others.

    Raises:
        UnsupportedFeature: the model is sound, but none that Tandem converts, or needs code of its own; the message
            says why.
        NotFound, IntegrityError: a file is missing or damaged.
        StorageFull: the disk under `dest` is full; nothing is left behind.
    """
    folder = HFFolder(path)
    folder.refuse_code()
    if folder.architecture not in _CONVERTERS:
        raise folder.refuse(f"its architecture {folder.architecture} is none of {', '.join(sorted(_CONVERTERS))}")
    convert, default = _CONVERTERS[folder.architecture]
    return convert(folder, dest, name=name, kind=kind or default)
