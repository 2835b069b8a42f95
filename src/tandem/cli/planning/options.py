"""Options that the planner's commands share, amounts as people type them, and the ground that answers stand on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tandem.cli.context import open_house
from tandem.flows import ground_of
from tandem.flows.planning import Ground
from tandem.kit.typed import converted
from tandem.plan.units import parse_count, parse_device_time, parse_span_s, parse_usd
from tandem.server import House

T = TypeVar("T")

OPTIONS, PAGE = "of the options", "docs/reference/cli.md"
"""Where a question stands, and the page that says what may be asked."""
GUIDE = "docs/guides/plan.md"
"""The page that says what stands in a file about money."""

System = Annotated[
    str, typer.Option(help="A system or a host of the catalogue. Default: the first that the charter lets train.")
]
Hosts = Annotated[int | None, typer.Option(help="Hosts at most. Default: all that the system has.")]
Price = Annotated[str | None, typer.Option(help="A price of the catalogue. Default: the system's, or the first.")]
Rate = Annotated[float | None, typer.Option(help="Failures per 1,000 hosts and days. Default: the system's.", min=0)]
Explain = Annotated[bool, typer.Option("--explain", help="Show each step of the derivation.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a report with plots to this file.", dir_okay=False)]


def question(kind: type[T], said: Mapping[str, object]) -> T:
    """What options say, as the typed ask.

    Raises:
        InvalidRequest: a value is out of bounds; names its key.
    """
    return converted(said, kind, what="the question", where=OPTIONS, page=PAGE)


def goal(
    *, budget: str | None, devices: str | None, loss: float | None, parameters: str | None, within: str | None
) -> dict[str, object]:
    """What a run is planned from, by the keys of `QuoteAsk`.

    Raises:
        InvalidRequest: an amount is none; names its option.
    """
    many, span_s = maybe(devices, parse_device_time, what="--devices") or (None, None)
    return {
        "budget_usd": usd(budget, what="--budget"),
        "devices": many,
        "span_s": span_s,
        "target_loss_nats": loss,
        "parameters": count(parameters, what="--parameters"),
        "most_wall_s": seconds(within, what="--within"),
    }


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
