"""Intervals of scores: where a mean lies with 95 % confidence, and a gain on the same cases; pure."""

import math
from collections.abc import Sequence

import numpy as np

from tandem.spec.scores import Interval, bootstrapped

_Z = 1.959963984540054  # of 95 %


def mean_of(values: Sequence[float], *, seed: int) -> Interval:
    """The mean of at least one score: for scores of 0 and 1 with Wilson's interval, else with the bootstrap's.

    Of ten right answers out of ten a bootstrap would be certain; Wilson's interval still reaches down to 0.72.
    """
    scores = np.asarray(values, dtype=np.float64)
    if np.isin(scores, (0.0, 1.0)).all():
        return _wilson(int(scores.sum()), len(scores))
    return bootstrapped(scores, np.random.default_rng(seed))


def paired_gain(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> Interval:
    """The mean of our scores less theirs on the same cases, at least one, with the paired bootstrap's interval."""
    gains = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return bootstrapped(gains, np.random.default_rng(seed))


def _wilson(hits: int, count: int) -> Interval:
    share, spread = hits / count, _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))
