"""Placements: where and how a recipe is trained; they never change the result beyond the order of summation."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from tandem.kit.typed import converted, read_toml

Count = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**20)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e30)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e30)]  # bounded, since JSON has no infinity


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a placement."""


class Checkpoints(_Table, frozen=True):
    """When the state is saved, and how much of it is kept."""

    every_s: NotNegative = 0.0
    """Seconds between two; 0 finds Young's interval from the measured cost and `mtbf_s`."""
    keep: Count = 3
    """The newest ones that stay; the best one and the last one stay too."""
    mtbf_s: Positive = 4 * 3600.0
    """Expected seconds between two failures of the system."""
    every_steps: Whole = 0
    """Steps between two, in place of seconds; 0 goes by time."""


class Limits(_Table, frozen=True):
    """Where a run is paused or failed by itself; 0 sets no limit on time or money."""

    wall_s: NotNegative = 0.0
    """Seconds of all attempts together, then the run is paused."""
    usd: NotNegative = 0.0
    """US dollars of all attempts together, by the system's price, then the run is paused."""
    restarts: Whole = 5
    """Restarts without a new checkpoint between them; each checkpoint refills the allowance. 0 never restarts."""
    hang_s: Positive = 60.0
    """Least time without a step that counts as a hang; ten times the 95th percentile of a step if that is more."""
    start_s: Positive = 1800.0
    """Longest time of a phase without steps: starting, compiling, evaluating, exporting."""


class Placement(_Table, frozen=True):
    """Where a recipe is trained. `workers` are processes, one for each device; `micro_samples` go through a device at
    once (0 finds a number that fits the cache or the memory)."""

    system: str = "local"
    """The system: `local`, or one by its name."""
    workers: Count = 1
    """Processes that share each step."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """Whether each worker holds the whole state, or a share of it."""
    micro_samples: Whole = 0
    """Samples that go through a device at once; 0 finds a number that fits."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the layers are compiled; `auto` does where it pays."""
    threads: Whole = 0
    """Threads of each worker; 0 shares the cores among the workers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the workers compute on; `auto` takes GPUs where there are any."""
    checkpoints: Checkpoints = Checkpoints()
    """When the state is saved."""
    limits: Limits = Limits()
    """When a run is paused or failed by itself."""


def load_placement(path: Path) -> Placement:
    """Read a placement file (TOML).

    Raises:
        InvalidRequest: no such file, not TOML, or not a placement; the message names the key.
    """
    return parse_placement(read_toml(path, what="the placement"), where=str(path))


def parse_placement(table: object, *, where: str) -> Placement:
    """A placement from plain tables.

    Raises:
        InvalidRequest: it is not one; the message names `where` and the key.
    """
    return converted(table, Placement, what="the placement", where=where, page="docs/reference/recipes.md")
