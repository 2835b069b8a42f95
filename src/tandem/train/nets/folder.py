"""Reading a Llama from a Hugging Face folder: config.json and one safetensors file, as fp32."""

from pathlib import Path

import numpy as np
import torch

from tandem.formats import SafetensorsFile
from tandem.kit.errors import IntegrityError
from tandem.train.nets.config import read_config
from tandem.train.nets.llama import Llama


def load_folder(folder: Path) -> Llama:
    """The model in the folder, with its weights in fp32.

    Raises:
        NotFound, IntegrityError: a file or a tensor is missing or damaged.
        UnsupportedFeature: it is no model that `Llama` computes.
    """
    config = read_config(folder)
    file = SafetensorsFile(folder / "model.safetensors")
    net = Llama(config)
    known = {"lm_head.weight"} if config.tie else set()
    with torch.no_grad():
        for name, weights in net.named_parameters():
            found = file.entries[name].shape if name in file.entries else "nothing"
            if found != tuple(weights.shape):
                raise IntegrityError(
                    f"{file.path} has {found} for {name!r}, where {tuple(weights.shape)} is needed.",
                    remedy="Fetch the model again: its weights do not belong to its config.json.",
                )
            known.add(name)
            weights.copy_(torch.from_numpy(np.array(file.weights(name))))
    unknown = [name for name in file.entries if name not in known and not name.endswith(".rotary_emb.inv_freq")]
    if unknown:
        raise IntegrityError(
            f"{file.path} has {unknown[0]!r}, for which the model of its config.json has no place.",
            remedy="Use a parent of the plain Llama family.",
        )
    return net
