"""The loss on held-out samples, and bits per byte of held-out documents."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.train.data import Samples
from tandem.train.evaluate.examination import held_out_places, measuring, prepared
from tandem.train.loop import Training, length, micro
from tandem.train.objectives import Example, Objective
from tandem.train.objectives.lm import Lm
from tandem.train.parallel import summed

_NO_LIMIT = 2**31  # rows of documents are cut by whoever packed them

_METRIC = "metric "


def held_out_report(
    training: Training,
    samples: Samples,
    *,
    limit: int,
    beat: Callable[[], None],
    reference: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """The loss per unit on at most `limit` held-out samples: the same ones for a seed, whatever the number of ranks.

    All ranks call it, and each does its share. Besides `loss` and the objective's metrics, each per unit:
    `held_out_samples`, `held_out_tokens` (padding excluded), and for documents `bits_per_byte`: the nats of
    predicting each token from those before, ends of documents included, in bits by the bytes of text that the tokens
    are. It is measured without rearranging anything, so it can be compared between objectives and tokenizers.
    `reference` holds a row for each held-out sample, where the objective wants one. `beat` is called all along.
    """
    places = held_out_places(len(samples), count=limit, seed=training.recipe.seed)
    own = _share(training, training.objective, samples, places)
    if reference is not None:
        own = [{**one, "reference": reference[place]} for place, one in zip(_mine(training, places), own, strict=True)]
    sums = _summed(training, training.objective, own, places=places, beat=beat)
    units = max(sums["units"], 1.0)
    report = {name.removeprefix(_METRIC): value / units for name, value in sums.items() if name.startswith(_METRIC)}
    report |= {
        "loss": sums["total"] / units,
        "held_out_samples": len(places),
        "held_out_tokens": int(sums["tokens"]),
    }
    if "segments" in samples[places[0]]:
        report["bits_per_byte"] = _bits_per_byte(training, samples, places, beat)
    return report


def _mine(training: Training, places: Sequence[int]) -> Sequence[int]:
    """This rank's samples. One that has none goes through the first one with the others, and does not count it."""
    return places[training.ranks.rank :: training.ranks.world] or places[:1]


def _share(training: Training, objective: Objective, samples: Samples, places: Sequence[int]) -> list[Example]:
    text, seed = training.text, training.recipe.seed
    return [prepared(objective, samples[place], text, seed=seed, place=place) for place in _mine(training, places)]


def _bits_per_byte(training: Training, samples: Samples, places: Sequence[int], beat: Callable[[], None]) -> float:
    plain = Lm({}, context=_NO_LIMIT)
    own = _share(training, plain, samples, places)
    sums = _summed(training, plain, own, places=places, beat=beat)
    return sums["total"] / math.log(2) / max(sums["bytes"], 1.0)


def _summed(
    training: Training,
    objective: Objective,
    own: Sequence[Example],
    *,
    places: Sequence[int],
    beat: Callable[[], None],
) -> dict[str, float]:
    """The losses of all ranks' examples, summed: total, units, tokens, bytes, and each metric by `_METRIC` and name."""
    ranks, cut = training.ranks, training.micro_samples
    counted = len(places[ranks.rank :: ranks.world])
    ordered = sorted(own, key=length)
    byte_counts = training.text.byte_counts()
    sums = {"total": 0.0, "units": 0.0, "tokens": 0.0, "bytes": 0.0}
    with measuring(training.model), training.autocast():
        # A sharded model speaks to the other ranks in each pass, so all ranks make equally many.
        for begin in range(0, -(-len(places) // ranks.world), cut):
            beat()
            members = ordered[begin : begin + cut] or ordered[:1]
            lost = objective.loss(training.model, micro(members, ranks.device).batch)
            told = {"total": lost.total, "units": lost.units}
            told |= {f"{_METRIC}{name}": value for name, value in lost.metrics.items()}
            values = {name: float(value) for name, value in told.items()} | _sizes(members, byte_counts)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + (value if begin < counted else 0.0)
    names = sorted(sums)
    together = summed(torch.tensor([sums[name] for name in names], dtype=torch.float64, device=ranks.device), ranks)
    return dict(zip(names, together.tolist(), strict=True))


def _sizes(examples: Sequence[Example], byte_counts: NDArray[np.int32]) -> dict[str, float]:
    """Tokens, and the bytes of those tokens that are predicted."""
    sequences = [array for one in examples for key, array in one.items() if key.endswith("ids")]
    return {
        "tokens": sum(map(len, sequences)),
        "bytes": sum(int(byte_counts[array[1:]].sum()) for array in sequences),
    }
