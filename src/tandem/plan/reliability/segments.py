"""One stretch of training between two saves under failures: its time and its interruptions, mean and spread, exact.

A stretch of `length_s` (training and the save after it) is tried until no failure falls into it. A failure loses what
the stretch had done and is followed by a restart, which is itself tried until no failure falls into it. With failures
at a constant rate (exponential times) everything follows from the geometric number of failed tries: the mean is Daly's
equation (`formulas.expected_wall_s`), the variance is that of a compound sum.
"""

import math
from dataclasses import dataclass

from tandem.plan.reliability.spread import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What one stretch takes, or the sum of independent ones."""

    wall: Spread
    """Seconds from its beginning until it is safe."""
    interruptions: Spread
    """How many, those of restarts included."""
    repeated_s: float = 0.0
    """Mean of the training and saves in it that failures undid."""
    restarting_s: float = 0.0
    """Mean of its restarts, failed ones included."""

    def times(self, count: int) -> "Stretch":
        """The sum of so many independent ones."""
        return Stretch(
            wall=self.wall.times(count),
            interruptions=self.interruptions.times(count),
            repeated_s=count * self.repeated_s,
            restarting_s=count * self.restarting_s,
        )

    def plus(self, other: "Stretch") -> "Stretch":
        """The sum with another that is independent of it."""
        return Stretch(
            wall=self.wall.plus(other.wall),
            interruptions=self.interruptions.plus(other.interruptions),
            repeated_s=self.repeated_s + other.repeated_s,
            restarting_s=self.restarting_s + other.restarting_s,
        )


def stretch(*, length_s: float, restart_s: float, mean_s: float) -> Stretch:
    """One stretch; `length_s` is its training and the save after it."""
    if math.isinf(mean_s):
        return Stretch(wall=Spread(length_s), interruptions=Spread(0.0))
    # Tries that fail are geometric: exp(L/M) - 1 of them on the mean, with a variance of exp(L/M) (exp(L/M) - 1).
    fails, refails = math.expm1(length_s / mean_s), math.expm1(restart_s / mean_s)
    lost = _until_failure(length_s, mean_s)
    restarting = _compound(refails, _until_failure(restart_s, mean_s))
    delay = _compound(fails, lost.plus(Spread(restart_s)).plus(restarting))
    return Stretch(
        wall=Spread(length_s + delay.mean, delay.deviation),
        interruptions=_compound(fails, Spread(1 + refails, math.sqrt(refails * (refails + 1)))),
        repeated_s=fails * lost.mean,
        restarting_s=fails * (restart_s + restarting.mean),
    )


def _compound(tries: float, each: Spread) -> Spread:
    """The sum of a geometric number of independent terms: `tries` of them on the mean."""
    return Spread(tries * each.mean, math.sqrt(tries * each.deviation**2 + tries * (tries + 1) * each.mean**2))


def _until_failure(within_s: float, mean_s: float) -> Spread:
    """The time until a failure that is known to come within so many seconds: an exponential, cut off."""
    ratio = within_s / mean_s
    if ratio < _EVEN:
        # The differences below lose their digits; over so short a time the failure is even.
        return Spread(within_s * (0.5 - ratio / 12), within_s / math.sqrt(12))
    odds = 1 / math.expm1(ratio)
    return Spread(mean_s - within_s * odds, math.sqrt(mean_s**2 - within_s**2 * odds * (odds + 1)))


_EVEN = 1e-4
