"""The fate of a job under failures by simulation, all runs at a time; it must agree with the closed form."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.kit.errors import InvalidRequest
from tandem.plan.reliability.endure import Endurance, Saves, derive, goodput_of, plan_saves, spares_of
from tandem.plan.reliability.faults import Faults
from tandem.plan.reliability.formulas import expected_wall_s
from tandem.plan.reliability.spread import SURE_SHARE, Spread
from tandem.plan.units import Interval

_MOST_INTERRUPTIONS = 200_000  # of one run: each is a step over all runs
_MOST_RUNS = 100_000
_MOST_SAVES = 2**53  # of one run: beyond it a float does not count them one by one


@dataclass(slots=True)
class _Runs:
    """Where all runs stand: one row each."""

    wall_s: NDArray[np.float64]
    done: NDArray[np.int64]
    interruptions: NDArray[np.int64]
    restarting_s: NDArray[np.float64]


def monte_carlo(
    useful_s: float, faults: Faults, *, interval_s: float | None = None, runs: int = 2_000, seed: int = 0
) -> Endurance:
    """As `endure` by simulated runs, from failure to failure; equal numbers for equal seeds.

    Raises:
        InvalidRequest: as `endure`; or so many interruptions or runs are asked for that it would take minutes.
    """
    saves = plan_saves(useful_s, faults, interval_s=interval_s)
    _bounded(useful_s, faults, saves, runs)
    found = _simulate(faults, saves, runs=runs, seed=seed)
    wall_s = _interval(found.wall_s)
    saving_s = saves.count * faults.checkpoint_s
    restarting_s = float(found.restarting_s.mean())
    interruptions = _interval(found.interruptions)
    return Endurance(
        interruptions=interruptions,
        interval_s=saves.interval_s,
        goodput_share=goodput_of(useful_s, wall_s),
        wall_s=wall_s,
        saving_s=saving_s,
        repeated_s=max(0.0, wall_s.mid - useful_s - saving_s - restarting_s),
        restarting_s=restarting_s,
        spare_nodes=spares_of(faults),
        method=f"Monte Carlo: {runs:,} runs, seed {seed}",
        derivation=derive(useful_s, faults, saves, wall_s=wall_s, interruptions=Spread(interruptions.mid)),
    )


def _simulate(faults: Faults, saves: Saves, *, runs: int, seed: int) -> _Runs:
    generator = np.random.default_rng(seed)
    length_s = saves.interval_s + faults.checkpoint_s
    rest_s = saves.rest_s + faults.checkpoint_s if saves.rest_s else 0.0
    all_ = _Runs(
        wall_s=np.zeros(runs),
        done=np.zeros(runs, dtype=np.int64),
        interruptions=np.zeros(runs, dtype=np.int64),
        restarting_s=np.zeros(runs),
    )
    going, restart_s = np.arange(runs), 0.0
    while going.size:
        # Until the next failure: a restart first (not at the beginning), then whole stretches; what is begun is lost.
        gap = generator.exponential(faults.mean_s, going.size) if math.isfinite(faults.mean_s) else _never(going.size)
        wanted = restart_s + (saves.full - all_.done[going]) * length_s + rest_s
        ends = gap >= wanted
        all_.wall_s[going] += np.where(ends, wanted, gap)
        all_.restarting_s[going] += np.minimum(gap, restart_s)
        all_.interruptions[going] += ~ends
        stretches = np.floor(np.maximum(np.where(ends, 0.0, gap) - restart_s, 0.0) / length_s).astype(np.int64)
        all_.done[going] = np.minimum(all_.done[going] + stretches, saves.full)
        going, restart_s = going[~ends], faults.restart_s
    return all_


def _never(count: int) -> NDArray[np.float64]:
    return np.full(count, np.inf)


def _interval(values: NDArray[np.float64] | NDArray[np.int64]) -> Interval:
    tail = (1 - SURE_SHARE) / 2
    low, high = (float(bound) for bound in np.quantile(values, (tail, 1 - tail)))
    mean = float(values.mean())
    return Interval(min(low, mean), mean, max(high, mean))


def _bounded(useful_s: float, faults: Faults, saves: Saves, runs: int) -> None:
    wall_s = expected_wall_s(
        useful_s=useful_s,
        checkpoint_s=faults.checkpoint_s,
        mean_s=faults.mean_s,
        restart_s=faults.restart_s,
        interval_s=min(saves.interval_s, useful_s),
    )
    often = wall_s / faults.mean_s
    if not 1 <= runs <= _MOST_RUNS or often > _MOST_INTERRUPTIONS or saves.count > _MOST_SAVES:
        raise InvalidRequest(
            f"{runs:,} runs with {often:,.0f} interruptions and {saves.count:,} saves each are too much to simulate.",
            remedy=f"Ask for 1 to {_MOST_RUNS:,} runs, at most {_MOST_INTERRUPTIONS:,} interruptions and "
            f"{_MOST_SAVES:.0e} saves, or use the closed form.",
            param="runs",
        )
