"""What strikes a job and what it costs: failure rates with a floor for small jobs, restarts, saves, repairs."""

import math
from dataclasses import dataclass, fields

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Step
from tandem.plan.reliability.formulas import mean_time_s
from tandem.plan.units import DAY_S, HOUR_S

SMALL_JOB_NODES = 128
SMALL_JOB_MEAN_S = 7.9 * HOUR_S
"""Jobs of 1,024 GPUs (128 nodes) were measured to be interrupted once in 7.9 h where the rate of their nodes says
28.8 h (Kokolis et al., HPCA 2025, arXiv 2410.21680): small jobs die of other causes than hardware."""

_MOST_NODES = 10**7


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What strikes a job of so many nodes, and what each time costs."""

    nodes: int
    """All that the job needs: it stops when one of them fails."""
    failures_per_1000_node_days: float = 4.0
    """Per 1,000 nodes and days: 2 to 16 were published."""
    restart_s: float = 600.0
    """From a failure until training goes on: noticed, a node replaced, processes started, the checkpoint read."""
    checkpoint_s: float = 30.0
    """What training stands still for one save; above 0."""
    repair_s: float = DAY_S
    """Until a failed node is back, which is what spare nodes bridge."""
    measured: bool = False
    """Whether the rate was measured on whole jobs of this size, whatever they died of; else a small job is taken to be
    interrupted no less often than those of HPCA 2025."""

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(cls, cluster: Cluster, *, checkpoint_s: float, repair_s: float = DAY_S) -> "Faults":
        """Those of a job on all hosts of a cluster, by the cluster's row."""
        return cls(
            nodes=cluster.hosts,
            failures_per_1000_node_days=cluster.failures_per_1000_node_days,
            restart_s=cluster.restart_s,
            checkpoint_s=checkpoint_s,
            repair_s=repair_s,
        )

    @property
    def hardware_mean_s(self) -> float:
        """Mean time between failures of its nodes alone; infinite at a rate of 0."""
        return mean_time_s(nodes=self.nodes, failures_per_1000_node_days=self.failures_per_1000_node_days)

    @property
    def mean_s(self) -> float:
        """Mean time between interruptions of the job: of its nodes, or the floor for small jobs where that is shorter.

        The floor is the measured 7.9 h at 128 nodes; fewer nodes are interrupted in proportion less often, more at
        least as often, until the rate of their nodes takes over.
        """
        if self.measured:
            return self.hardware_mean_s
        return min(self.hardware_mean_s, SMALL_JOB_MEAN_S * SMALL_JOB_NODES / min(self.nodes, SMALL_JOB_NODES))

    @property
    def step(self) -> Step:
        """How the mean time comes about."""
        rate = f"{self.nodes:,} nodes x {self.failures_per_1000_node_days:g} failures per 1,000 node-days"
        if self.mean_s < self.hardware_mean_s:
            return Step(
                what="mean time between interruptions",
                formula="floor for small jobs: 7.9 h at 128 nodes, in proportion below",
                value=f"{self.mean_s / HOUR_S:.4g} h; its nodes alone {self.hardware_mean_s / HOUR_S:.4g} h by {rate}",
                source="arXiv 2410.21680",
            )
        return Step(
            what="mean time between interruptions",
            formula="M = 1 / (nodes x rate)",
            value=f"{self.mean_s / HOUR_S:.4g} h by {rate}",
            source="arXiv 2410.21680",
        )


def _check(faults: Faults) -> None:
    if not 1 <= faults.nodes <= _MOST_NODES:
        raise InvalidRequest(
            f"A job of {faults.nodes} nodes cannot fail.", remedy="Name 1 to 10,000,000 nodes.", param="nodes"
        )
    for field in fields(faults):
        value, least = getattr(faults, field.name), "above 0" if field.name == "checkpoint_s" else "not negative"
        if field.name in {"nodes", "measured"}:
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and field.name == "checkpoint_s"):
            raise InvalidRequest(
                f"{field.name} is {value:g}, which nothing can be.",
                remedy=f"Give a number that is {least}.",
                param=field.name,
            )
