"""Arithmetic of scores: how alike two texts are, and where a mean lies with 95 % confidence; pure."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_Z = 1.959963984540054  # of 95 %


class Interval(NamedTuple):
    """A mean and where it lies with 95 % confidence."""

    mean: float
    low: float
    high: float


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


def mean_of(values: Sequence[float], *, seed: int) -> Interval:
    """The mean of at least one score: for scores of 0 and 1 with Wilson's interval, else with the bootstrap's.

    Of ten right answers out of ten a bootstrap would be certain; Wilson's interval still reaches down to 0.72.
    """
    scores = np.asarray(values, dtype=np.float64)
    if np.isin(scores, (0.0, 1.0)).all():
        return _wilson(int(scores.sum()), len(scores))
    return _bootstrapped(scores, seed=seed)


def paired_gain(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> Interval:
    """The mean of our scores less theirs on the same cases, at least one, with the paired bootstrap's interval."""
    return _bootstrapped(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64), seed=seed)


def _bootstrapped(scores: NDArray[np.float64], *, seed: int) -> Interval:
    """The percentile bootstrap: the middle 95 % of the means of as many cases, drawn again and again."""
    drawn = np.random.default_rng(seed).integers(0, len(scores), size=(_RESAMPLES, len(scores)))
    low, high = np.quantile(scores[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(scores.mean()), float(low), float(high))


def _wilson(hits: int, count: int) -> Interval:
    share, spread = hits / count, _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def _letters(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
