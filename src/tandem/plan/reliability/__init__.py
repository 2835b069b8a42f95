"""Reliability: failures, checkpoint intervals, goodput and spare nodes, in closed form and by simulation."""

from tandem.plan.reliability.checkpoints import CheckpointCost, checkpoint_cost
from tandem.plan.reliability.endure import Endurance, endure
from tandem.plan.reliability.faults import Faults
from tandem.plan.reliability.monte_carlo import monte_carlo
from tandem.plan.reliability.spares import spare_nodes

__all__ = [
    "CheckpointCost",
    "Endurance",
    "Faults",
    "checkpoint_cost",
    "endure",
    "monte_carlo",
    "spare_nodes",
]
