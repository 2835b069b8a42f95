"""Options that the planner's commands share, amounts as people type them, and the ground that answers stand on."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tandem.cli.context import open_house
from tandem.flows import ground_of
from tandem.flows.planning import Ground
from tandem.plan.units import parse_count, parse_span_s, parse_usd
from tandem.server import House

T = TypeVar("T")

QUESTION, OPTIONS, GUIDE = "the question", "of the options", "docs/guides/plan.md"
"""What is wrong, where, and the page that lists what it takes, for `kit.typed.converted`."""

System = Annotated[
    str, typer.Option(help="A system or a host of the catalogue. Default: the first that the charter lets train.")
]
Hosts = Annotated[int | None, typer.Option(help="Hosts at most. Default: all that the system has.")]
Price = Annotated[str | None, typer.Option(help="A price of the catalogue. Default: the system's, or the first.")]
Rate = Annotated[float | None, typer.Option(help="Failures per 1,000 hosts and days. Default: the system's.", min=0)]
Explain = Annotated[bool, typer.Option("--explain", help="Show each step of the derivation.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a report with plots to this file.", dir_okay=False)]


def standing() -> tuple[House, Ground]:
    """The house, and what its answers stand on."""
    house = open_house()
    return house, ground_of(house)


def maybe(text: str | None, parse: Callable[..., T], *, what: str) -> T | None:
    """What an option says, if it was given."""
    return None if text is None else parse(text, what=what)


def usd(text: str | None, *, what: str) -> float | None:
    """Money: 250000, 250k, $1.5M."""
    return maybe(text, parse_usd, what=what)


def seconds(text: str | None, *, what: str) -> float | None:
    """A duration: 30d, 12h, 90min."""
    return maybe(text, parse_span_s, what=what)


def count(text: str | None, *, what: str) -> int | None:
    """A whole number: 7B, 1.4T, 512."""
    found = maybe(text, parse_count, what=what)
    return None if found is None else max(1, round(found))
