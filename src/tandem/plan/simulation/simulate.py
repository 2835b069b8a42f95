"""A fleet under a design over weeks: goodput, where the rest of the time went, and what interrupted it."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from tandem.kit.errors import InvalidRequest
from tandem.plan.derivation import Derivation, Step
from tandem.plan.reliability.spares import spare_nodes
from tandem.plan.reliability.spread import SURE_SHARE
from tandem.plan.simulation.causes import UNEXPECTED
from tandem.plan.simulation.designs import Design
from tandem.plan.simulation.fleet import Fleet
from tandem.plan.simulation.saving import Saving, saving_of
from tandem.plan.simulation.strikes import draw, rates_of
from tandem.plan.simulation.walk import Walk, live
from tandem.plan.units import HOUR_S, SURE_DEVIATIONS, Interval, parameters_text

MOST_STRIKES = 2_000_000
"""Of all runs of an answer: some tens of seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Where the time of the whole fleet went; their sum is 1."""

    useful_share: float
    """Work that is in the model at the end: the goodput."""
    saving_share: float
    """Standing still for saves."""
    repeated_share: float
    """Work that failures undid."""
    restarting_share: float
    """Restarts, and stalls of elastic runs."""
    waiting_share: float
    """For a node, where no spare stood by."""
    shrunk_share: float
    """Replicas that were away while the others went on."""
    slow_share: float
    """Waiting for slow nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What became of a fleet under a design; means over the runs, intervals with 90 % probability for one run."""

    design: str
    devices: int
    nodes: int
    spare_nodes: int
    span_s: float
    runs: int
    seed: int
    goodput_share: Interval
    interruptions: Interval
    mean_s: float
    """Wall time by interruptions."""
    interval_s: float
    """Training between two saves."""
    block_s: float
    """What training stands still for one."""
    write_s: float
    """Until one is written to storage."""
    shares: Shares
    causes: dict[str, int]
    """Interruptions of all runs together by cause, the most frequent first."""
    derivation: Derivation


def simulate(fleet: Fleet, design: Design, *, runs: int = 8, seed: int = 0) -> Simulated:
    """So many runs of a fleet under a design; equal for equal seeds, and the same failures for all designs.

    Raises:
        InvalidRequest: there are more events than can be lived through, or no runs.
    """
    bounded([fleet], runs)
    spares = spares_of(fleet, design)
    walks: list[Walk] = []
    counts: list[Counter[str]] = []
    for run in range(runs):
        strikes = draw(fleet, find_s=design.find_s, seed=seed, run=run)
        walks.append(live(fleet, design, strikes, spares=spares))
        counts.append(Counter(strike.cause.name for strike in strikes if not strike.begins))
    return _told(fleet, design, walks=walks, counts=counts, seed=seed)


def _told(fleet: Fleet, design: Design, *, walks: list[Walk], counts: list[Counter[str]], seed: int) -> Simulated:
    saving = saving_of(fleet, design)
    every = [_shares(walk) for walk in walks]
    shares = Shares(**{name: statistics.fmean(getattr(one, name) for one in every) for name in _NAMES})
    interruptions = _interval([float(count.total()) for count in counts])
    goodput_share = _interval([one.useful_share for one in every], most_share=1.0)
    together = sum(counts, Counter())
    return Simulated(
        design=design.name,
        devices=fleet.devices,
        nodes=fleet.nodes,
        spare_nodes=spares_of(fleet, design),
        span_s=fleet.span_s,
        runs=len(walks),
        seed=seed,
        goodput_share=goodput_share,
        interruptions=interruptions,
        mean_s=fleet.span_s / max(interruptions.mid, 1.0),
        interval_s=saving.interval_s,
        block_s=saving.block_s,
        write_s=saving.write_s,
        shares=shares,
        causes=dict(together.most_common()),
        derivation=_derivation(fleet, design, saving),
    )


def _shares(walk: Walk) -> Shares:
    training, span_s = walk.training, walk.fleet.span_s
    return Shares(
        useful_share=training.work_s / span_s,
        saving_share=training.saving_s / span_s,
        repeated_share=training.repeated_s / span_s,
        restarting_share=walk.restarting_s / span_s,
        waiting_share=walk.waiting_s / span_s,
        shrunk_share=training.shrunk_s / span_s,
        slow_share=training.slow_s / span_s,
    )


def spares_of(fleet: Fleet, design: Design) -> int:
    """The design's own, or as many as suffice 99 times of 100 for the nodes that are in repair."""
    if design.spares is not None:
        return design.spares
    rates = rates_of(fleet)
    taken_per_s = rates.failures_per_s * _TAKE_NODE_RATIO + rates.stragglers_per_s
    return spare_nodes(failures_per_s=taken_per_s, repair_s=fleet.repair_s)


def _interval(values: list[float], *, most_share: float = math.inf) -> Interval:
    mean = statistics.fmean(values)
    away = SURE_DEVIATIONS * statistics.stdev(values) if len(values) > 1 else 0.0
    return Interval(max(0.0, mean - away), mean, min(max(most_share, mean), mean + away))


def bounded(fleets: Sequence[Fleet], runs: int) -> None:
    """Refuse more events than can be lived through.

    Raises:
        InvalidRequest: all runs of all these fleets have more than that.
    """
    strikes = runs * sum(rates_of(fleet).all_per_s * fleet.span_s for fleet in fleets)
    if runs < 1 or strikes > MOST_STRIKES:
        raise InvalidRequest(
            f"{runs} runs each of {len(fleets)} fleets have {strikes:,.0f} events.",
            remedy=f"Ask for at least 1 run and at most {MOST_STRIKES:,} events: fewer runs, days or devices.",
            param="runs",
        )


def _derivation(fleet: Fleet, design: Design, saving: Saving) -> Derivation:
    return Derivation(
        steps=(
            fleet.faults.step,
            Step(
                what="checkpoint",
                formula="14 bytes of each weight / what the storage takes from all nodes",
                value=f"{parameters_text(fleet.parameters)} weights, {fleet.checkpoint_bytes / 1e12:.4g} TB: "
                f"{saving.write_s:,.3g} s to write, training stands still for {saving.block_s:,.3g} s "
                f"each {saving.interval_s:,.4g} s",
                source="13.7 bytes: arXiv 2104.04473",
            ),
            Step(
                what="failures",
                formula="Poisson processes with the causes of Llama 3's table 5",
                value=f"{fleet.failures_per_1000_node_days:g} unexpected and {fleet.planned_per_1000_node_days:g} "
                f"planned ones per 1,000 node-days, restarts of {design.restart_s / HOUR_S:.3g} h",
                source="arXiv 2407.21783",
            ),
        ),
        conventions=(
            "goodput is the work that is in the model at the end, by what the whole fleet could have done",
            f"intervals hold {SURE_SHARE:.0%} of runs",
        ),
        warnings=_warnings(fleet, design),
    )


def _warnings(fleet: Fleet, design: Design) -> tuple[str, ...]:
    slow = f"{fleet.stragglers_per_1000_node_days:g} per 1,000 node-days, {fleet.slow_share:.0%} slower"
    told = [
        f"Slow nodes ({slow}) and when silent corruption is noticed are assumptions; no rates were published.",
        "Failures are independent; a power cut or a network that is down for all is not in here.",
    ]
    if design.elastic and fleet.replicas == 1:
        told.append("There is a single replica, so that this run is not elastic.")
    return tuple(told)


_NAMES = tuple(field.name for field in fields(Shares))
_TAKE_NODE_RATIO = sum(cause.count for cause in UNEXPECTED if cause.takes_node) / sum(c.count for c in UNEXPECTED)
