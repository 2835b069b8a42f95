"""`tandem usage`: what was used, by key, deployment or day."""

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from tandem.accounts import GroupBy, UsageRow, summarise
from tandem.cli.context import AsJson, Quiet, emit, open_house, table
from tandem.kit import clock
from tandem.kit.errors import InvalidRequest

_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhdw])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def usage(
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, or a date or time in ISO form (UTC).")] = "24h",
    by: Annotated[GroupBy, typer.Option(help="What to sum by.")] = GroupBy.KEY,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show requests and tokens. A gateway that runs writes them here within half a second."""
    rows = summarise(open_house().db, since=parse_since(since, now=clock.now()), group_by=by)
    heading = "all" if by is GroupBy.NONE else by.value
    emit(
        [asdict(row) for row in rows],
        as_json=as_json,
        quiet=quiet,
        bare=["\t".join(map(str, _cells(row))) for row in rows],
        shown=table(
            (heading, "requests", "failed", "prompt", "cached", "completion"),
            map(_cells, rows),
            empty=f"Nothing was used in this time (--since {since}).",
        ),
    )


def parse_since(text: str, *, now: datetime) -> datetime:
    """The moment that `24h`, `7d`, `2026-01-31` or `2026-01-31T12:00:00+01:00` means; without a zone it is UTC.

    Raises:
        InvalidRequest: it is none of these.
    """
    if match := _SPAN.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--since is {text!r}.", remedy="Use a span such as 24h or 7d, or a date such as 2026-01-31.", param="since"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _cells(row: UsageRow) -> tuple[str | int, ...]:
    group = row.group or "all"
    return group, row.requests, row.failed, row.prompt_tokens, row.cached_tokens, row.completion_tokens
