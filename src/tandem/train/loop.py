"""The loop: batches by a keyed order, losses as sums, one division by the whole batch; exact whatever the cut."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tandem.spec import Recipe
from tandem.train.data import Samples, Text
from tandem.train.measure.meter import Meter, Step
from tandem.train.objectives import Example, Objective
from tandem.train.optim import clip_, rate, set_rates
from tandem.train.order import Order, generator
from tandem.train.parallel import Ranks, accumulating, gradient_factor, greatest, summed, whole

SKIPS_UNTIL_DIVERGED = 3


@dataclass(slots=True, kw_only=True)
class Training:
    """Everything that a step needs: what is learnt, from what, by what, and how it is cut."""

    recipe: Recipe
    objective: Objective
    text: Text
    samples: Samples
    model: nn.Module
    """As all ranks train it: wrapped, and perhaps compiled."""
    optimizers: Sequence[torch.optim.Optimizer]
    ranks: Ranks
    steps: int
    micro_samples: int
    half: bool
    """Whether products of matrices are computed in bf16."""
    compiled: bool = False
    reference: NDArray[np.float32] | None = None
    """What the untouched model says of each sample, where the objective wants it."""
    skips: int = 0
    """Steps in a row whose loss or gradient was not finite."""
    order: Order = field(init=False)

    def __post_init__(self) -> None:
        self.order = Order(self.recipe.seed, len(self.samples), self.recipe.batch.samples)

    def autocast(self) -> torch.autocast:
        """The precision of products of matrices; weights, sums and the loss stay fp32."""
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=self.half)


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """Samples that go through the device at once; `tokens` are those that are not padding."""

    batch: Mapping[str, torch.Tensor]
    tokens: int


def example(training: Training, index: int, counter: int) -> Example:
    """Sample `index` of an epoch, prepared with the randomness of position `counter` of the run."""
    random = generator(training.recipe.seed, "example", counter)
    made = training.objective.prepare(training.samples[index], training.text, random)
    if training.reference is None:
        return made
    return {**made, "reference": training.reference[index]}


def length(made: Example) -> int:
    """The tokens of the longest sequence of an example."""
    return max(len(array) for key, array in made.items() if key != "reference")


def micro_batches(training: Training, step: int) -> list[Micro]:
    """This rank's part of a step's samples: slots rank::world, sorted by length so that little is padding."""
    ids = training.order.sample_ids(step)
    slots = range(training.ranks.rank, len(ids), training.ranks.world)
    batch = training.recipe.batch.samples
    made = [example(training, int(ids[slot]), step * batch + slot) for slot in slots]
    made.sort(key=length)
    cut = training.micro_samples
    return [micro(made[begin : begin + cut], training.ranks.device) for begin in range(0, len(made), cut)]


def micro(made: Sequence[Example], device: torch.device) -> Micro:
    """Examples as one batch: each key padded with zeros along its first axis and stacked."""
    batch = {key: _stacked([one[key] for one in made]).to(device, non_blocking=True) for key in made[0]}
    sequences = (array for one in made for key, array in one.items() if key.endswith("ids"))
    return Micro(batch=batch, tokens=sum(len(array) for array in sequences))


def _stacked(arrays: Sequence[NDArray[Any]]) -> torch.Tensor:
    longest = max(len(array) for array in arrays)
    if all(len(array) == longest for array in arrays):
        both = np.stack(arrays)
    else:
        both = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for row, array in zip(both, arrays, strict=True):
            row[: len(array)] = array
    tensor = torch.from_numpy(both)
    return tensor.long() if tensor.dtype in {torch.int32, torch.int16} else tensor


def prefetched(training: Training, first: int, meter: Meter) -> Iterator[tuple[int, list[Micro]]]:
    """The steps from `first` on with their batches; the next one is made while this one is trained."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming: Future[list[Micro]] = pool.submit(micro_batches, training, first)
        for step in range(first, training.steps):
            with meter.spend("data"):
                ready = coming.result()
            if step + 1 < training.steps:
                coming = pool.submit(micro_batches, training, step + 1)
            yield step, ready


def take_step(training: Training, step: int, micros: Sequence[Micro]) -> Step:
    """One optimizer step. A loss or a gradient that is not finite changes no weight, and counts as a skip."""
    began = time.perf_counter()
    total, counts, metrics = _gradient(training, micros)
    units, tokens = float(counts[0]), int(counts[1])
    parameters = [p for group in _groups(training) for p in group["params"] if p.grad is not None]
    factor = gradient_factor(training.model, training.ranks) / max(units, 1.0)
    torch._foreach_mul_([p.grad for p in parameters], factor)
    norm = float(whole(clip_(parameters, training.recipe.optimizer.clip)))
    loss = total / max(units, 1.0)
    if math.isfinite(loss) and math.isfinite(norm):
        training.skips = 0
        set_rates(training.optimizers, training.recipe.optimizer, step, training.steps)
        for optimizer in training.optimizers:
            optimizer.step()
    else:
        training.skips += 1
    for optimizer in training.optimizers:
        optimizer.zero_grad(set_to_none=True)
    return Step(
        number=step + 1,
        loss=loss,
        grad_norm=norm,
        rate=rate(training.recipe.optimizer, step, training.steps) * training.recipe.optimizer.lr,
        tokens=tokens,
        seconds=time.perf_counter() - began,
        metrics={key: value / max(units, 1.0) for key, value in metrics.items()},
    )


def _gradient(training: Training, micros: Sequence[Micro]) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Leave the summed gradient on the weights; returns the loss, (units, tokens) and metrics, summed over all."""
    device = training.ranks.device
    total = torch.zeros((), device=device)
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    metrics: dict[str, torch.Tensor] = {}
    for number, one in enumerate(micros, start=1):
        with accumulating(training.model, last=number == len(micros)):
            with training.autocast():
                lost = training.objective.loss(training.model, one.batch)
            lost.total.backward()
        total += lost.total.detach()
        counts[0] += lost.units
        counts[1] += one.tokens
        for key, value in lost.metrics.items():
            metrics[key] = metrics.get(key, torch.zeros((), device=device)) + value.detach()
    names = sorted(metrics)
    sums = summed(torch.stack([total, *(metrics[name].float() for name in names)]).double(), training.ranks)
    counts = summed(counts, training.ranks)
    values = sums.tolist()
    return values[0], counts, dict(zip(names, values[1:], strict=True))


def _groups(training: Training) -> Iterator[dict[str, Any]]:
    return (group for optimizer in training.optimizers for group in optimizer.param_groups)


@dataclass(slots=True, kw_only=True)
class Watcher:
    """What happens between steps; the loop itself knows none of it.

    `wishes` answers what this rank wants after a step, as whole numbers of which the greatest over all ranks holds:
    (stop, save). The others are called when their time has come; `stopped` with whether all steps were done.
    """

    wishes: Callable[[Step], list[int]]
    stepped: Callable[[Step, bool], None]
    skipped: Callable[[Step], None]
    save: Callable[[int], None]
    evaluate: Callable[[int], None]
    evaluate_every: int


def run_steps(training: Training, first: int, meter: Meter, watcher: Watcher) -> bool:
    """Train from step `first` until all steps are done or a rank wishes to stop; returns whether all are done.

    Raises:
        FloatingPointError: three steps in a row were not finite.
    """
    training.model.train()
    for step, micros in prefetched(training, first, meter):
        with meter.spend("compile" if training.compiled and step == first else "useful"):
            taken = take_step(training, step, micros)
        last = taken.number == training.steps
        watcher.stepped(taken, last)
        if training.skips:
            watcher.skipped(taken)
        if training.skips >= SKIPS_UNTIL_DIVERGED:
            raise FloatingPointError(f"{training.skips} steps in a row were not finite; the last was {taken.number}.")
        stop, save = greatest(watcher.wishes(taken), training.ranks)
        if taken.number % watcher.evaluate_every == 0 and not last:
            with meter.spend("eval"):
                watcher.evaluate(taken.number)
            training.model.train()
        if save and not stop and not last:
            with meter.spend("checkpoint"):
                watcher.save(taken.number)
        if stop and not last:
            return False
    return True
