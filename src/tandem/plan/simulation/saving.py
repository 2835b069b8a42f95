"""When a simulated run saves, what that costs it, and how far a failure throws it back."""

import math
from dataclasses import dataclass

from tandem.plan.reliability.formulas import best_interval_s
from tandem.plan.simulation.designs import Design
from tandem.plan.simulation.fleet import Fleet
from tandem.plan.simulation.strikes import rates_of

COPY_BYTES_PER_S = 20e9
"""From a device to its host's memory: PCIe 4 at two thirds of its 32 GB/s."""
STORED_EACH_S = 1_800.0
"""Runs that keep checkpoints in memory also store one each half an hour, against what is found late."""

_LEAST_S = 0.1  # until all ranks have agreed


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """The save of a design on a fleet."""

    interval_s: float
    """Training between two."""
    block_s: float
    """What training stands still for one."""
    write_s: float
    """Until all nodes have written it to storage, which they share: a checkpoint storm takes longer the more is
    written, not the fewer nodes write."""
    behind_s: float
    """How old a checkpoint must be to be safe."""
    behind_late_s: float
    """The same for what is found late, when only storage helps."""
    load_s: float
    """What a restart after a failure reads for."""
    orderly_s: float
    """What a last save before an orderly stop takes."""


def saving_of(fleet: Fleet, design: Design) -> Saving:
    """With the interval that is best for how often the run is interrupted."""
    bytes_per_s = min(design.storage_bytes_per_s, fleet.nodes * fleet.node_bytes_per_s)
    write_s = max(_LEAST_S, fleet.checkpoint_bytes / bytes_per_s)
    copied = design.background or design.in_memory
    copy_s = max(_LEAST_S, fleet.checkpoint_bytes / fleet.devices / COPY_BYTES_PER_S)
    block_s = copy_s if copied else write_s
    often_per_s = rates_of(fleet).unexpected_per_s
    mean_s = 1 / often_per_s if often_per_s > 0 else math.inf
    interval_s = min(best_interval_s(checkpoint_s=block_s, mean_s=mean_s), fleet.span_s)
    if copied and not design.in_memory:
        interval_s = max(interval_s, write_s - block_s)  # the one before must be written
    return Saving(
        interval_s=interval_s,
        block_s=block_s,
        write_s=write_s,
        behind_s=write_s if copied and not design.in_memory else 0.0,
        behind_late_s=max(write_s, STORED_EACH_S) if design.in_memory else write_s if copied else 0.0,
        load_s=0.0 if design.in_memory else write_s,
        orderly_s=block_s if design.in_memory else write_s,
    )
