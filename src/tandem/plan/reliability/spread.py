"""Spreads: mean and standard deviation of sums of independent quantities, and the interval that follows from them."""

import math
from typing import NamedTuple

from tandem.plan.units import SURE_DEVIATIONS, Interval

SURE_SHARE = 0.9
"""An interval holds its number with this probability: from the 5th to the 95th percentile."""

_WIDEST = 1e6  # deviations by the mean: from about 6 on the 95th percentile is 0, so that the mean bounds the interval


class Spread(NamedTuple):
    """Mean and standard deviation of a quantity that is not negative, both in its unit."""

    mean: float
    deviation: float = 0.0

    def times(self, count: int) -> "Spread":
        """The sum of so many independent ones."""
        return Spread(count * self.mean, math.sqrt(count) * self.deviation)

    def plus(self, other: "Spread") -> "Spread":
        """The sum with another that is independent of it."""
        return Spread(self.mean + other.mean, math.hypot(self.deviation, other.deviation))

    def interval(self, *, least: float = 0.0) -> Interval:
        """Where it lies with 90 % probability, its mean as best guess; never below `least`.

        What it has above `least` is taken to be distributed as a gamma, which sums of failures resemble when they are
        few (skewed, never negative) and when they are many (normal); quantiles by Wilson and Hilferty 1931.
        """
        above = self.mean - least
        if above <= 0 or self.deviation == 0:
            return Interval(self.mean, self.mean, self.mean)
        wide = min(self.deviation / above, _WIDEST)
        low, high = (above * max(0.0, 1 - wide**2 / 9 + z * wide / 3) ** 3 for z in (-SURE_DEVIATIONS, SURE_DEVIATIONS))
        return Interval(least + min(low, above), self.mean, least + max(high, above))
