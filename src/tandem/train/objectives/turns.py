"""The turns of an assistant in an encoded chat: the runs of tokens that count."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.train.data import Text


def last_turn(weights: NDArray[np.floating]) -> slice:
    """Where the last run of weights that are not 0 lies; an empty slice at the end where there is none."""
    counted = np.flatnonzero(weights)
    if not len(counted):
        return slice(len(weights), len(weights))
    breaks = np.flatnonzero(np.diff(counted) > 1)
    first = counted[breaks[-1] + 1] if len(breaks) else counted[0]
    return slice(int(first), int(counted[-1]) + 1)


def encode_answer(
    text: Text, prompt: list[Mapping[str, Any]], answer: str
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """A chat that ends with `answer`: its tokens, and weights of 1 on those of that answer alone."""
    ids, weights = text.encode_chat([*prompt, {"role": "assistant", "content": answer}])
    only = np.zeros_like(weights)
    only[last_turn(weights)] = 1.0
    return ids, only
