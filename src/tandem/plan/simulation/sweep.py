"""Designs by sizes: how goodput falls as a fleet grows, and the size at which each design breaks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.plan.simulation.designs import DESIGNS, Design
from tandem.plan.simulation.fleet import Fleet
from tandem.plan.simulation.simulate import Simulated, bounded, simulate

SIZES = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072)
"""Devices that a sweep goes through where nobody says otherwise."""
BREAKS_SHARES = (0.8, 0.5)
"""Below these goodputs a design is called strained and broken."""

_MOST_POINTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Where a design's goodput falls under a share."""

    design: str
    goodput_share: float
    devices: int | None
    """Between two sizes by the logarithm of the size; None where it stays above, the least size where it is below
    everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Each design at each size, the sizes rising, and where each breaks."""

    points: tuple[Simulated, ...]
    breaks: tuple[Break, ...]

    @property
    def text(self) -> str:
        """Tables for people: goodput of each design by size, where each breaks, what takes the time at the largest."""
        return "\n\n".join((_goodputs(self), _breaks(self), _losses(self)))


def sweep(
    fleet: Fleet,
    *,
    designs: Mapping[str, Design] = DESIGNS,
    sizes: Sequence[int] = SIZES,
    runs: int = 4,
    seed: int = 0,
) -> Sweep:
    """All designs on fleets of all sizes, which differ from `fleet` in nothing else.

    Raises:
        InvalidRequest: no sizes or designs, sizes that do not rise, or too many of both; or as `simulate`.
    """
    if not sizes or not designs or list(sizes) != sorted(set(sizes)) or len(sizes) * len(designs) > _MOST_POINTS:
        raise InvalidRequest(
            f"{len(designs)} designs at {len(sizes)} sizes are no sweep.",
            remedy=f"Name at least one design and rising sizes, at most {_MOST_POINTS} points in all.",
            param="sizes",
        )
    fleets = [fleet.of_devices(size) for size in sizes]
    bounded(fleets * len(designs), runs)
    points = tuple(simulate(one, design, runs=runs, seed=seed) for design in designs.values() for one in fleets)
    return Sweep(
        points=points,
        breaks=tuple(
            Break(design=design.name, goodput_share=share, devices=_where(_of(points, design.name), share))
            for design in designs.values()
            for share in BREAKS_SHARES
        ),
    )


def _of(points: tuple[Simulated, ...], design: str) -> list[Simulated]:
    return [point for point in points if point.design == design]


def _where(points: list[Simulated], goodput_share: float) -> int | None:
    for before, after in zip([None, *points], points, strict=False):
        low = after.goodput_share.mid
        if low >= goodput_share:
            continue
        if before is None:
            return after.devices
        high = before.goodput_share.mid
        way = (high - goodput_share) / (high - low)
        between = math.exp(math.log(before.devices) * (1 - way) + math.log(after.devices) * way)
        return int(round(between, 1 - math.floor(math.log10(between))))
    return None


def _goodputs(swept: Sweep) -> str:
    sizes = sorted({point.devices for point in swept.points})
    rows = [["goodput", *(f"{size:,}" for size in sizes)]]
    for design in dict.fromkeys(point.design for point in swept.points):
        rows.append([design, *(f"{point.goodput_share.mid:.0%}" for point in _of(swept.points, design))])
    return _table(rows)


def _breaks(swept: Sweep) -> str:
    shares = sorted({one.goodput_share for one in swept.breaks}, reverse=True)
    largest = max(point.devices for point in swept.points)
    rows = [["devices at which goodput falls", *(f"under {share:.0%}" for share in shares)]]
    for design in dict.fromkeys(one.design for one in swept.breaks):
        found = {one.goodput_share: one.devices for one in swept.breaks if one.design == design}
        told = (found[share] for share in shares)
        rows.append([design, *(f"over {largest:,}" if size is None else f"{size:,}" for size in told)])
    return _table(rows)


def _losses(swept: Sweep) -> str:
    largest = max(point.devices for point in swept.points)
    names = ("useful", "saving", "repeated", "restarting", "waiting", "shrunk", "slow")
    rows = [[f"time at {largest:,}", *names, "interruptions a day"]]
    for point in (point for point in swept.points if point.devices == largest):
        shares = (f"{getattr(point.shares, f'{name}_share'):.1%}" for name in names)
        rows.append([point.design, *shares, f"{point.interruptions.mid * 86_400 / point.span_s:.0f}"])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
