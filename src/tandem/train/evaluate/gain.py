"""Gains on a baseline, and how sure one can be of them, by the run's own randomness."""

from collections.abc import Sequence

import numpy as np

from tandem.spec.scores import Interval, bootstrapped
from tandem.train.order import generator


def paired_gain(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> Interval:
    """The mean of our scores less theirs on the same cases, with the percentile bootstrap's interval."""
    gains = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    if not len(gains):
        return Interval(0.0, 0.0, 0.0)
    return bootstrapped(gains, generator(seed, "bootstrap", 0))
