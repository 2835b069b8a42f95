"""How likely a model finds token sequences: what all objectives of text share, each token predicted from those before.

Shape suffixes: B sequences of a batch, T tokens of the longest of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.train.objectives.objective import Batch, Example, Loss


def tokens_example(ids: Sequence[int] | NDArray[np.integer], weights: NDArray[np.floating], *, context: int) -> Example:
    """Tokens and what each counts as a target, cut at the right so that the model sees at most `context` of them."""
    kept = context + 1
    return {
        "ids": np.asarray(ids, dtype=np.int32)[:kept],
        "weights": np.asarray(weights, dtype=np.float32)[:kept],
    }


def negative_log_likelihood(
    model: torch.nn.Module, ids_BT: torch.Tensor, weights_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each sequence: the sum over its tokens of weight times -log p, in nats, and the sum of those weights; [B].

    The first token of a sequence is predicted from nothing, so it is never counted.
    """
    counted_BT = weights_BT[:, 1:]
    nll_B = model(ids_BT[:, :-1], ids_BT[:, 1:].long(), counted_BT)
    return nll_B, counted_BT.sum(dim=1)


def token_loss(model: torch.nn.Module, batch: Batch) -> Loss:
    """The loss of a batch of `tokens_example`s; its units are the weights of the predicted tokens."""
    nll_B, weights_B = negative_log_likelihood(model, batch["ids"], batch["weights"])
    return Loss(nll_B.sum(), weights_B.sum(), {})
