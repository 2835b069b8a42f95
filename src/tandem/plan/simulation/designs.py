"""Designs: the knobs that decide how a run at scale lives with failures, and named sets of them."""

from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.plan.units import YEAR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How a run lives with failures."""

    name: str
    about: str
    restart_s: float = 600.0
    """From a failure until processes stand again, without reading the checkpoint."""
    storage_bytes_per_s: float = 200e9
    """What all nodes together read and write: the storage's, however many they are."""
    background: bool = False
    """Whether a save is copied to the hosts' memory first and written while training goes on."""
    in_memory: bool = False
    """Whether each node also keeps a neighbour's checkpoint in its memory, from which restarts begin."""
    spares: int | None = None
    """Nodes that stand by; None has as many as suffice 99 times of 100."""
    elastic: bool = False
    """Whether the other replicas go on without the one that failed, and it joins again later."""
    stall_s: float = 180.0
    """What all stand still when an elastic run loses a replica and when it joins again, together."""
    find_s: float = 1_800.0
    """Until a slow node is found."""

    def __post_init__(self) -> None:
        _check_design(self)


def _check_design(design: Design) -> None:
    times_s = (design.restart_s, design.stall_s, design.find_s)
    spares = 0 if design.spares is None else design.spares
    if not all(0 <= time_s <= YEAR_S for time_s in times_s) or not design.storage_bytes_per_s > 0 or spares < 0:
        raise InvalidRequest(
            f"The design {design.name[:80]!r} has a negative time, no storage or fewer than 0 spares.",
            remedy="Give times of 0 s to a year, bytes per second above 0 and at least 0 spares.",
        )


DESIGNS = {
    design.name: design
    for design in (
        Design(name="plain", about="all stop, saves block, storage of 200 GB/s"),
        Design(name="no-spares", about="as plain, nobody stands by", spares=0),
        Design(name="fast-storage", about="as plain, storage of 2 TB/s", storage_bytes_per_s=2e12),
        Design(name="background", about="as plain, saves in the background", background=True),
        Design(name="in-memory", about="restarts from neighbours' memory", background=True, in_memory=True),
        Design(
            name="fast-restart",
            about="as in-memory, processes stand again after 3 minutes",
            background=True,
            in_memory=True,
            restart_s=180.0,
        ),
        Design(
            name="elastic",
            about="as in-memory, other replicas go on without the failed one",
            background=True,
            in_memory=True,
            elastic=True,
        ),
        Design(
            name="elastic-no-spares",
            about="as elastic, nobody stands by",
            background=True,
            in_memory=True,
            elastic=True,
            spares=0,
        ),
    )
}
"""Sets of knobs from the simplest to what was built for 100,000 devices; each is named in `tandem plan simulate`.

Storage: 273 GB/s were published for saves of 1 T weights (arXiv 2104.04473), 2 TB/s for Llama 3 (arXiv 2407.21783).
Elastic: stalls of 10 minutes became 3 on about 100,000 GPUs (FT-HSDP, arXiv 2602.00277).
"""
