"""Calibration: how far predictions were from own runs, as a factor of each system with its interval."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tandem.plan.derivation import Step
from tandem.plan.units import Interval

_PRIOR_SPREAD = math.log(1.5)
"""How far an uncalibrated prediction is believed to be off: two of three systems within a factor of 1.5."""
_LEAST_SPREAD = math.log(1.25)
"""How far runs differ from each other at least, however alike the ones that were seen."""
_SPREAD_WEIGHT = 4.0
"""Runs that `_LEAST_SPREAD` counts for next to those that were seen."""
_MEDIAN_EFFICIENCY = 2 / math.pi  # of a median, by the mean of as many normal values
_TO_DEVIATION = 1.4826  # of the median absolute deviation, for normal values
_NINETY = 1.6449  # standard deviations that 90 % of normal values lie within


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The prediction for a run of a system next to what was measured; the run was not in the prediction."""

    run: str
    system: str
    predicted_s: float
    """Uncalibrated."""
    measured_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What predictions for a system are multiplied with; the interval holds 90 % of the next runs."""

    system: str
    ratio: Interval
    """Measured by predicted seconds."""
    runs: tuple[str, ...] = ()
    """Those it was learnt from."""
    source: str = ""
    """What else it is from."""

    @property
    def step(self) -> Step:
        """As a derivation shows it."""
        many = f"{len(self.runs)} own runs" if self.runs else "no own runs yet"
        return Step(
            what=f"calibration of {self.system}",
            formula="measured by predicted time: the median of own runs, drawn to 1 the more the fewer there are",
            value=f"{self.ratio.mid:.3g} (90 % of runs in {self.ratio.low:.3g} to {self.ratio.high:.3g})",
            source=self.source or many,
        )


def factor(system: str, comparisons: Iterable[Comparison]) -> Factor:
    """The factor of a system from its comparisons; without any it is 1, with the interval of ignorance.

    Ratios are compared by their logarithms. A normal prior around 1 meets the median of the runs, whose noise is
    the median absolute deviation, pooled with a least one: so one run moves the factor a good part of the way, one
    odd run among several hardly at all. The interval is the predictive one: of the next run, not of the mean.
    """
    own = [one for one in comparisons if one.system == system and one.predicted_s > 0 and one.measured_s > 0]
    logs = [math.log(one.measured_s / one.predicted_s) for one in own]
    noise = _noise(logs)
    precision = len(logs) * _MEDIAN_EFFICIENCY / noise**2 if len(logs) > 2 else len(logs) / noise**2
    prior = 1 / _PRIOR_SPREAD**2
    centre = precision * statistics.median(logs) / (precision + prior) if logs else 0.0
    reach = _NINETY * math.sqrt(noise**2 + 1 / (precision + prior))
    return Factor(
        system=system,
        ratio=Interval(math.exp(centre - reach), math.exp(centre), math.exp(centre + reach)),
        runs=tuple(one.run for one in own),
    )


def factors(comparisons: Iterable[Comparison]) -> Mapping[str, Factor]:
    """The factor of each system that was compared, by its name, in the order of names."""
    every = list(comparisons)
    return {system: factor(system, every) for system in sorted({one.system for one in every})}


def _noise(logs: list[float]) -> float:
    """The spread of single runs, in natural logarithms."""
    if not logs:
        return _LEAST_SPREAD
    middle = statistics.median(logs)
    seen = _TO_DEVIATION * statistics.median(abs(one - middle) for one in logs)
    variance = _SPREAD_WEIGHT * _LEAST_SPREAD**2 + len(logs) * seen**2
    return math.sqrt(variance / (_SPREAD_WEIGHT + len(logs)))
