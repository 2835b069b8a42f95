"""The objective `sft`: the turns of the assistant in chats, in the chat template of the model."""

from collections.abc import Mapping

import numpy as np
import torch

from tandem.spec.recipe import Parameter
from tandem.train.data import Text
from tandem.train.objectives.likelihood import negative_log_likelihood, tokens_example
from tandem.train.objectives.objective import Batch, Example, Loss, Record
from tandem.train.objectives.params import Params, checked


class SftParams(Params, frozen=True):
    """None."""


class Sft:
    """Only what the assistant says counts, the end of its turn included; a chat is cut at the right to the context."""

    formats = frozenset({"chat", "questions"})
    needs_reference = False

    def __init__(self, params: Mapping[str, Parameter], *, context: int) -> None:
        checked(params, SftParams, objective="sft")
        self._context = context

    def prepare(self, record: Record, text: Text, random: np.random.Generator) -> Example:
        """The chat as the template writes it."""
        del random  # nothing is left to chance
        ids, weights = text.encode_chat(record["messages"])
        return tokens_example(ids, weights, context=self._context)

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """The sum of -log p of the assistant's tokens; `lost_samples` counts chats of which the cut left no answer."""
        nll_B, weights_B = negative_log_likelihood(model, batch["ids"], batch["weights"])
        return Loss(nll_B.sum(), weights_B.sum(), {"lost_samples": (weights_B == 0).sum().float()})
