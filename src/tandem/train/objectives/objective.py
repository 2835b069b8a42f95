"""The two functions that make an objective, and what passes between them and the loop.

A new objective is a class with `prepare` and `loss`, made by `Class(params, context=...)`, and either a line in the
table of `find_objective` or an entry point of another package. Nothing that the loop does knows what an example
holds: it pads each key with zeros along the first axis, stacks, and hands the batch to `loss`. So an image objective
has an example like {"pixels": [H, W, C], "noise": ..., "level": [1]} and a loss that counts pixels; only the
objectives of text share `likelihood`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.spec.recipe import Parameter
from tandem.train.data import Text

Record = Mapping[str, Any]
"""A sample as the data holds it: {"segments": [token ids, ...]} for text and code, {"messages": [...]} for chat,
{"prompt": [...messages], "chosen": str, "rejected": str} for preference."""

Example = Mapping[str, NDArray[Any]]
"""A prepared sample: arrays whose first axis is the sequence; the loop pads them with zeros and stacks them.
Keys of token ids end with `ids`; the objectives of text have {"ids": int32 [L], "weights": float32 [L]}, where a
weight says how much the token under it counts as a target."""

Batch = Mapping[str, torch.Tensor]
"""Examples as tensors [B, T, ...], under the keys of the example."""


class Loss(NamedTuple):
    """`total` is a sum over what is counted, never a mean; `units` counts it, and is known from the examples alone.

    The loop divides the gradient of the whole global batch once by all its units, so that neither the micro-batch
    nor the number of workers changes it. `metrics` are sums too, and are divided in the same way.
    """

    total: torch.Tensor  # [] float32
    units: torch.Tensor  # [] float32
    metrics: Mapping[str, torch.Tensor]


class Objective(Protocol):
    """What is learnt. Nothing else differs between objectives, an image model's included."""

    formats: frozenset[str]
    """Formats of data that it can learn from."""
    needs_reference: bool
    """Whether `loss` wants what the untouched model says: then it is a `Referenced`, and the loop adds the key
    "reference" to each example: the row of that example in the outcome of `reference` at step 0."""

    def prepare(self, record: Record, text: Text, random: np.random.Generator) -> Example:
        """A sample for the model: tokens, and what each counts. A pure function; `random` is the sample's own."""
        ...

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """What the model loses on a batch, as a sum."""
        ...


@runtime_checkable
class Referenced(Objective, Protocol):
    """An objective that compares the model with what it was before."""

    def reference(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """What the untouched model says of each example: [B, K] float32, without a gradient."""
        ...


class MakeObjective(Protocol):
    """The class of an objective, or a function that makes one; an entry point names such a thing.

    `context` is how many tokens at most the model sees at once; an example has one more, the last target.
    """

    def __call__(self, params: Mapping[str, Parameter], *, context: int) -> Objective:
        """The objective with these parameters of the recipe; InvalidRequest where one is wrong."""
        ...
