"""What an evaluation measures: a model, the held-out samples that a seed chooses, and the sign of life meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tandem.train.data import Samples, Text
from tandem.train.objectives import Example, Objective, Record
from tandem.train.order import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """A task on at most `count` of the held-out samples, always the same ones for a seed."""

    model: torch.nn.Module
    text: Text
    samples: Samples
    context: int
    count: int
    seed: int
    suffix_first: bool = False
    """How a gap is asked for: as the model was trained."""
    beat: Callable[[], None]
    """Called all along, so that a long evaluation is not taken for a hang."""

    @property
    def places(self) -> list[int]:
        """Of the held-out samples that are looked at."""
        return held_out_places(len(self.samples), count=self.count, seed=self.seed)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device


def held_out_places(size: int, *, count: int, seed: int) -> list[int]:
    """At most `count` of `size` places, in an order that the seed alone decides; fewer are the first of more."""
    return generator(seed, "held_out", 0).permutation(size)[:count].tolist()


def prepared(objective: Objective, record: Record, text: Text, *, seed: int, place: int) -> Example:
    """A held-out sample as the model takes it, with randomness of its own."""
    return objective.prepare(record, text, generator(seed, "held_out_example", place))


@contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """A block in which the model is in evaluation mode, and no gradient is kept."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(before)
