"""How long a job takes that failures strike: interruptions, best interval, goodput and wall time, with intervals."""

import math
from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.plan.derivation import Derivation, Step
from tandem.plan.reliability.faults import Faults
from tandem.plan.reliability.formulas import (
    availability_optimal_s,
    best_interval_s,
    daly_s,
    expected_wall_s,
    workshop_interval_s,
    young_s,
)
from tandem.plan.reliability.segments import Stretch, stretch
from tandem.plan.reliability.spares import spare_nodes
from tandem.plan.reliability.spread import SURE_SHARE, Spread
from tandem.plan.units import DAY_S, HOUR_S, Interval

LEAST_GOODPUT_SHARE = 1e-3
"""A job of which less is of use is refused: it does not finish in any time that somebody waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endurance:
    """How a job fares under failures. Intervals hold with 90 % probability; their middle is the mean."""

    interruptions: Interval
    """How many until it is finished."""
    interval_s: float
    """Training between two saves."""
    goodput_share: Interval
    """Useful time by wall time."""
    wall_s: Interval
    """From start to end."""
    saving_s: float
    """Of the mean wall time: standing still for saves that lasted."""
    repeated_s: float
    """Of the mean wall time: training and saves that failures undid."""
    restarting_s: float
    """Of the mean wall time: restarts."""
    spare_nodes: int
    """How many must stand by so that a failed node is replaced at once 99 times of 100."""
    method: str
    derivation: Derivation

    @property
    def lost_s(self) -> float:
        """What of the mean wall time was of no use."""
        return self.saving_s + self.repeated_s + self.restarting_s


def endure(useful_s: float, faults: Faults, *, interval_s: float | None = None) -> Endurance:
    """The fate of a job of `useful_s` seconds of training, in closed form; `monte_carlo` is the same by simulation.

    Failures strike independently at a constant rate, during saves and restarts too; a save follows each `interval_s`
    and the end. Where nobody names the interval it is the one that makes the mean wall time least.

    Raises:
        InvalidRequest: a number is not above 0, or the job would never finish; names the nearest thing that works.
    """
    saves = plan_saves(useful_s, faults, interval_s=interval_s)
    return _endurance(useful_s, faults, saves)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saves:
    """So many stretches of `interval_s`, and one of `rest_s` where that is not 0; a save after each."""

    interval_s: float
    full: int
    rest_s: float = 0.0

    @property
    def count(self) -> int:
        """All saves."""
        return self.full + (self.rest_s > 0)


def plan_saves(useful_s: float, faults: Faults, *, interval_s: float | None = None) -> Saves:
    """When to save in a job of `useful_s` seconds: each `interval_s`, or in the best number of equal stretches.

    Raises:
        InvalidRequest: a number is not above 0, or the job would never finish.
    """
    for name, value in (("useful_s", useful_s), ("interval_s", 1.0 if interval_s is None else interval_s)):
        if not (math.isfinite(value) and value > 0):
            raise InvalidRequest(
                f"{name} is {value:g}, which no job takes.", remedy="Give seconds above 0.", param=name
            )
    saves = _best(useful_s, faults) if interval_s is None else _cut(useful_s, interval_s)
    expected_s = _expected_s(faults, min(saves.interval_s, useful_s), useful_s)
    if expected_s * LEAST_GOODPUT_SHARE > useful_s:
        raise _never(faults, saves)
    return saves


def _cut(useful_s: float, interval_s: float) -> Saves:
    full = math.floor(useful_s / interval_s * (1 + 1e-12))
    rest_s = useful_s - full * interval_s
    return Saves(interval_s=interval_s, full=full, rest_s=rest_s if rest_s > 1e-9 * useful_s else 0.0)


def _best(useful_s: float, faults: Faults) -> Saves:
    """Equal stretches; the mean wall time is convex in their number, so the best one is beside the real optimum."""
    ideal = useful_s / best_interval_s(checkpoint_s=faults.checkpoint_s, mean_s=faults.mean_s)
    few = max(1, math.floor(ideal))
    count = min((few, few + 1), key=lambda number: _expected_s(faults, useful_s / number, useful_s))
    return Saves(interval_s=useful_s / count, full=count)


def _expected_s(faults: Faults, interval_s: float, useful_s: float) -> float:
    return expected_wall_s(
        useful_s=useful_s,
        checkpoint_s=faults.checkpoint_s,
        mean_s=faults.mean_s,
        restart_s=faults.restart_s,
        interval_s=interval_s,
    )


def _never(faults: Faults, saves: Saves) -> InvalidRequest:
    best_s = best_interval_s(checkpoint_s=faults.checkpoint_s, mean_s=faults.mean_s)
    return InvalidRequest(
        f"A job on {faults.nodes:,} nodes is interrupted each {faults.mean_s:,.0f} s and never finishes with restarts "
        f"of {faults.restart_s:,.0f} s and saves of {faults.checkpoint_s:,.0f} s each {saves.interval_s:,.0f} s.",
        remedy=f"Save each {best_s:,.0f} s if that is less, make saves and restarts shorter than the time between "
        "interruptions, or use fewer nodes.",
        param="nodes",
    )


def _endurance(useful_s: float, faults: Faults, saves: Saves) -> Endurance:
    whole = _stretch(faults, saves.interval_s).times(saves.full)
    if saves.rest_s:
        whole = whole.plus(_stretch(faults, saves.rest_s))
    saving_s = saves.count * faults.checkpoint_s
    wall_s = whole.wall.interval(least=useful_s + saving_s)
    return Endurance(
        interruptions=whole.interruptions.interval(),
        interval_s=saves.interval_s,
        goodput_share=goodput_of(useful_s, wall_s),
        wall_s=wall_s,
        saving_s=saving_s,
        repeated_s=whole.repeated_s,
        restarting_s=whole.restarting_s,
        spare_nodes=spares_of(faults),
        method="closed form",
        derivation=derive(useful_s, faults, saves, wall_s=wall_s, interruptions=whole.interruptions),
    )


def _stretch(faults: Faults, training_s: float) -> Stretch:
    return stretch(length_s=training_s + faults.checkpoint_s, restart_s=faults.restart_s, mean_s=faults.mean_s)


def goodput_of(useful_s: float, wall_s: Interval) -> Interval:
    """Useful time by wall time."""
    return Interval(useful_s / wall_s.high, useful_s / wall_s.mid, useful_s / wall_s.low)


def spares_of(faults: Faults) -> int:
    """Spare nodes for the failures of its nodes; what else interrupts a job takes none away."""
    rate_per_s = 0.0 if math.isinf(faults.hardware_mean_s) else 1 / faults.hardware_mean_s
    return spare_nodes(failures_per_s=rate_per_s, repair_s=faults.repair_s)


def derive(useful_s: float, faults: Faults, saves: Saves, *, wall_s: Interval, interruptions: Spread) -> Derivation:
    """How interval, interruptions and wall time come about, with the intervals that other formulas give."""
    checkpoint_s, mean_s, restart_s = faults.checkpoint_s, faults.mean_s, faults.restart_s
    availability_s = availability_optimal_s(checkpoint_s=checkpoint_s, mean_s=mean_s, restart_s=restart_s)
    others = (
        f"Young {young_s(checkpoint_s=checkpoint_s, mean_s=mean_s):,.0f} s, "
        f"Daly {daly_s(checkpoint_s=checkpoint_s, mean_s=mean_s):,.0f} s, availability "
        f"{availability_s - checkpoint_s:,.0f} s, the workshop's "
        f"{workshop_interval_s(checkpoint_s=checkpoint_s, mean_s=mean_s):,.0f} s"
    )
    return Derivation(
        steps=(
            faults.step,
            Step(
                what="training between two saves",
                formula="the least mean wall time over whole numbers of equal stretches, or as asked",
                value=f"{saves.interval_s:,.0f} s, {saves.count:,} saves of {checkpoint_s:g} s; {others}",
                source="Daly 2006, equation 13",
            ),
            Step(
                what="wall time",
                formula="M exp(R/M) (exp((T+C)/M) - 1) for each stretch; spread by the geometric number of its tries",
                value=f"{wall_s.mid / DAY_S:.4g} days ({wall_s.low / DAY_S:.4g} to {wall_s.high / DAY_S:.4g}) for "
                f"{useful_s / DAY_S:.4g} useful ones, {interruptions.mean:.4g} interruptions with restarts of "
                f"{restart_s / HOUR_S:.3g} h",
                source="Daly 2006, equation 13",
            ),
            Step(
                what="spare nodes",
                formula="99 % quantile of a Poisson number with the mean failures x repair time",
                value=f"{spares_of(faults)} for repairs of {faults.repair_s / HOUR_S:.3g} h",
                source="Palm 1943",
            ),
        ),
        conventions=(
            f"intervals hold with {SURE_SHARE:.0%} probability under a constant failure rate; their middle is the mean",
        ),
        warnings=_warnings(faults, mean_s),
    )


def _warnings(faults: Faults, mean_s: float) -> tuple[str, ...]:
    if mean_s < faults.hardware_mean_s:
        return ("Jobs die of other causes than their nodes too; the rate is the floor of HPCA 2025.",)
    return ()
