"""The objective `lm`: the next token of text and code."""

from collections.abc import Mapping

import numpy as np
import torch

from tandem.spec.recipe import Parameter
from tandem.train.data import Text
from tandem.train.objectives.likelihood import token_loss, tokens_example
from tandem.train.objectives.objective import Batch, Example, Loss, Record
from tandem.train.objectives.params import Params, checked


class LmParams(Params, frozen=True):
    """None."""


class Lm:
    """Every token after the first of a row counts; the row's segments follow each other."""

    formats = frozenset({"text", "code"})
    needs_reference = False

    def __init__(self, params: Mapping[str, Parameter], *, context: int) -> None:
        checked(params, LmParams, objective="lm")
        self._context = context

    def prepare(self, record: Record, text: Text, random: np.random.Generator) -> Example:
        """The row as it is."""
        del text, random  # a row is tokens already, and nothing is left to chance
        ids = np.concatenate([np.asarray(segment, dtype=np.int32) for segment in record["segments"]])
        return tokens_example(ids, np.ones(len(ids)), context=self._context)

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """The sum of -log p of the tokens."""
        return token_loss(model, batch)
