"""What strikes a fleet and when: drawn at once from a seed, the same for all designs, so that they can be compared."""

from dataclasses import dataclass

import numpy as np

from tandem.plan.simulation.causes import OTHER, PLANNED, STRAGGLER, UNEXPECTED, Cause
from tandem.plan.simulation.fleet import Fleet
from tandem.plan.units import DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One event."""

    at_s: float
    cause: Cause
    place_share: float
    """Where it strikes, as a share of the way through all replicas."""
    begins: bool = False
    """Whether a node only gets slow now; it is found later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often what strikes the whole fleet."""

    failures_per_s: float
    other_per_s: float
    planned_per_s: float
    stragglers_per_s: float

    @property
    def unexpected_per_s(self) -> float:
        """Whatever stops a run without a word."""
        return self.failures_per_s + self.other_per_s

    @property
    def all_per_s(self) -> float:
        """All events; a slow node has two, when it gets slow and when it is found."""
        return self.unexpected_per_s + self.planned_per_s + 2 * self.stragglers_per_s


def rates_of(fleet: Fleet) -> Rates:
    """Those of all nodes, and what small jobs die of besides."""
    node_days_per_s = fleet.nodes / 1_000 / DAY_S
    failures_per_s = fleet.failures_per_1000_node_days * node_days_per_s
    return Rates(
        failures_per_s=failures_per_s,
        other_per_s=max(0.0, 1 / fleet.faults.mean_s - failures_per_s),
        planned_per_s=fleet.planned_per_1000_node_days * node_days_per_s,
        stragglers_per_s=fleet.stragglers_per_1000_node_days * node_days_per_s,
    )


def draw(fleet: Fleet, *, find_s: float, seed: int, run: int) -> list[Strike]:
    """All strikes of one run in the order of time: Poisson processes of each kind, causes by their counts."""
    generator = np.random.default_rng((seed, run, fleet.devices))
    rates, span_s = rates_of(fleet), fleet.span_s
    weights = np.array([cause.count for cause in UNEXPECTED], dtype=np.float64)
    strikes: list[Strike] = []
    for per_s, kind in (
        (rates.failures_per_s, None),
        (rates.planned_per_s, PLANNED),
        (rates.other_per_s, OTHER),
        (rates.stragglers_per_s, STRAGGLER),
    ):
        count = int(generator.poisson(per_s * span_s))
        times, places = generator.uniform(0.0, span_s, count), generator.random(count)
        which = generator.choice(len(UNEXPECTED), size=count, p=weights / weights.sum())
        for at_s, place_share, index in zip(times.tolist(), places.tolist(), which.tolist(), strict=True):
            cause = UNEXPECTED[index] if kind is None else kind
            if cause.slows:
                strikes.append(Strike(at_s=at_s, cause=cause, place_share=place_share, begins=True))
            found_s = at_s + find_s if cause.slows else at_s
            strikes.append(Strike(at_s=found_s, cause=cause, place_share=place_share))
    return sorted((strike for strike in strikes if strike.at_s < span_s), key=lambda strike: strike.at_s)
