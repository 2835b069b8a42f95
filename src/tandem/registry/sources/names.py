"""Names that sources derive: plain model names, and the refusal of file formats that run code."""

import re
from pathlib import PurePosixPath

from tandem.kit.errors import UnsupportedFeature

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


def plain_name(text: str) -> str:
    """`text` as a model's name: lower case, with dashes for what a name may not have."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "model"


def is_pickle(name: str) -> bool:
    """Whether a file of this name would be a pickle."""
    return PurePosixPath(name).suffix.lower() in _PICKLES


def refuse_pickle(name: str) -> None:
    """Refuse a format that runs code when it is loaded.

    Raises:
        UnsupportedFeature: the name is that of a pickle.
    """
    if is_pickle(name):
        raise UnsupportedFeature(
            f"{name} is a pickle, which runs code when it is loaded.",
            remedy="Use a GGUF file, or a folder with safetensors.",
        )
