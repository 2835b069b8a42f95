"""The objective `dpo`: of two answers, the chosen one gains on the rejected one, measured against the model before."""

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import logsigmoid, pad

from tandem.spec.recipe import NotNegative, Parameter, Share
from tandem.spec.shape import Positive
from tandem.train.data import Text
from tandem.train.objectives.likelihood import negative_log_likelihood, tokens_example
from tandem.train.objectives.objective import Batch, Example, Loss, Record
from tandem.train.objectives.params import Params, checked
from tandem.train.objectives.turns import encode_answer


class DpoParams(Params, frozen=True):
    """`beta` is the price of leaving the model before; `label_smoothing` the share of pairs thought to be swapped.

    `sft_share` adds that many times the mean -log p of the chosen answer's tokens, which keeps it likely in itself.
    """

    beta: Positive = 0.1
    label_smoothing: Share = 0.0
    sft_share: NotNegative = 0.0


class Dpo:
    """Direct preference optimisation (Rafailov et al., arXiv 2305.18290). A unit is a pair.

    With log-probabilities of the answers under the model (c, r) and under the model before (c0, r0), the margin is
    beta ((c - c0) - (r - r0)), and the loss of a pair -log sigmoid(margin).
    """

    formats = frozenset({"preference"})
    needs_reference = True

    def __init__(self, params: Mapping[str, Parameter], *, context: int) -> None:
        self._params = checked(params, DpoParams, objective="dpo")
        self._context = context

    def prepare(self, record: Record, text: Text, random: np.random.Generator) -> Example:
        """Both chats, each with weights on its last answer, and cut at the right to the context."""
        del random  # nothing is left to chance
        made = {}
        for side in ("chosen", "rejected"):
            ids, weights = encode_answer(text, record["prompt"], record[side])
            for key, array in tokens_example(ids, weights, context=self._context).items():
                made[f"{side}_{key}"] = array
        return made

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """The sum over pairs. A pair of which the cut left an answer out does not count.

        Metrics, as sums over pairs: margin, accuracy (pairs whose margin is positive), chosen_reward, rejected_reward.
        """
        nll_B2, weights_B2 = _both(model, batch)
        counts_B = (weights_B2 > 0).all(dim=1).float()
        rewards_B2 = self._params.beta * (-nll_B2 - batch["reference"]) * counts_B[:, None]
        margin_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        smoothing = self._params.label_smoothing
        lost_B = -(1 - smoothing) * logsigmoid(margin_B) - smoothing * logsigmoid(-margin_B)
        lost_B = lost_B + self._params.sft_share * nll_B2[:, 0] / weights_B2[:, 0].clamp(min=1.0)
        metrics = {
            "margin": margin_B.sum(),
            "accuracy": (margin_B > 0).float().sum(),
            "chosen_reward": rewards_B2[:, 0].sum(),
            "rejected_reward": rewards_B2[:, 1].sum(),
        }
        return Loss(
            (lost_B * counts_B).sum(), counts_B.sum(), {name: value.detach() for name, value in metrics.items()}
        )

    @torch.no_grad()
    def reference(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Log-probabilities of the chosen and the rejected answer: [B, 2]."""
        return -_both(model, batch)[0]


def _both(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p and weights of the chosen and the rejected answers, [B, 2] each, from one pass through the model."""
    longest = max(batch["chosen_ids"].shape[1], batch["rejected_ids"].shape[1])
    ids_CT, weights_CT = (
        torch.cat([_padded(batch[f"{side}_{key}"], longest) for side in ("chosen", "rejected")])
        for key in ("ids", "weights")
    )
    nll_C, weights_C = negative_log_likelihood(model, ids_CT, weights_CT)
    return nll_C.view(2, -1).T, weights_C.view(2, -1).T


def _padded(values_BT: torch.Tensor, longest: int) -> torch.Tensor:
    return pad(values_BT, (0, longest - values_BT.shape[1]))
