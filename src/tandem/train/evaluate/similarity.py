"""How alike two texts are, and how sure one can be of a mean difference."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tandem.train.order import generator

_RESAMPLES = 2000


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: the fewest characters inserted, deleted or replaced that make one text the other."""
    if len(first) < len(second):
        first, second = second, first
    across = np.arange(len(second) + 1)
    row, letters = across, _letters(second)
    for letter in _letters(first):
        fresh = row + 1  # a deletion
        fresh[1:] = np.minimum(fresh[1:], row[:-1] + (letters != letter))
        # An insertion adds 1 for each place to the right, so the least of `value - place` so far is what counts.
        row = np.minimum.accumulate(fresh - across) + across
    return int(row[-1])


def edit_similarity(first: str, second: str) -> float:
    """1 for equal texts, 0 for texts without anything in common: 1 - distance / length of the longer one."""
    longer = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longer if longer else 1.0


class Interval(NamedTuple):
    """A mean and where it lies with 95 % confidence."""

    mean: float
    low: float
    high: float


def paired_gain(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> Interval:
    """The mean of our scores less theirs on the same cases, with the percentile bootstrap's interval."""
    gains = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    if not len(gains):
        return Interval(0.0, 0.0, 0.0)
    drawn = generator(seed, "bootstrap", 0).integers(0, len(gains), size=(_RESAMPLES, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(gains.mean()), float(low), float(high))


def _letters(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
