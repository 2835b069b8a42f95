"""What was used: sums by key, deployment or day, and the single events, within what the caller may see."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from tandem.accounts.journal import Outcome
from tandem.accounts.principals import Principal
from tandem.accounts.tables import keys, milliseconds, moment, usage_events, usage_readable_by
from tandem.kit.db import Database
from tandem.kit.errors import InvalidRequest, NotFound

_DAY_MS = 86_400_000


class GroupBy(StrEnum):
    """What usage is summed by."""

    KEY = "key"
    DEPLOYMENT = "deployment"
    DAY = "day"
    """Days of UTC."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One sum. `group` is the key's name, the deployment, the day as YYYY-MM-DD, or empty for all.

    `id` tells rows apart: the key's id, otherwise the same as `group`.
    """

    id: str
    group: str
    requests: int
    failed: int
    """Of the requests, those with another outcome than `ok`."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """One settled request."""

    id: str
    tenant: str
    key_id: str
    deployment: str
    version: str
    operation: str
    surface: str
    outcome: Outcome
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reserved_tokens: int
    started_at: datetime
    settled_at: datetime
    duration_ms: int


class Page(NamedTuple):
    """A part of a list: at most `limit` rows of those that come after the row with the id `after`."""

    limit: int
    after: str | None = None


def summarise(
    db: Database,
    principal: Principal | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    group_by: GroupBy = GroupBy.NONE,
    page: Page | None = None,
) -> list[UsageRow]:
    """Sums over the requests that began in `since <= time < until`, in the order of their groups; of a page, of ids.

    Two keys with the same name are two rows. Without events there are no rows, whatever the grouping.

    Raises:
        InvalidRequest: days are asked for, and the page comes after something that is none.
    """
    events, group = usage_events.c, _group(group_by)
    query = usage_readable_by(
        principal,
        group.label("group"),
        sa.func.count().label("requests"),
        sa.func.count().filter(events.outcome != Outcome.OK.value).label("failed"),
        sa.func.sum(events.prompt_tokens).label("prompt_tokens"),
        sa.func.sum(events.cached_tokens).label("cached_tokens"),
        sa.func.sum(events.completion_tokens).label("completion_tokens"),
    ).group_by("group")
    query = _during(query, since, until)
    if page is not None:
        query = query.order_by(sa.literal_column('"group"')).limit(page.limit)
        if page.after is not None:
            query = query.where(group > _key_of(page.after, group_by))

    def work(connection: sa.Connection) -> list[UsageRow]:
        rows = connection.execute(query).all()
        names = _names(connection, [row.group for row in rows]) if group_by is GroupBy.KEY else {}
        return [_row(row, _title(row.group, group_by), names) for row in rows]

    rows = db.run_sync(work)
    return sorted(rows, key=lambda row: row.group) if page is None else rows


def events(
    db: Database,
    principal: Principal | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
    after: str | None = None,
) -> list[UsageEvent]:
    """Single events, the newest first, `limit` at most, from behind the event whose id is `after`.

    Raises:
        NotFound: the caller sees no event with the id `after`.
    """
    place = sa.tuple_(usage_events.c.started_at, usage_events.c.id)
    query = _during(usage_readable_by(principal), since, until)
    query = query.order_by(usage_events.c.started_at.desc(), usage_events.c.id.desc()).limit(limit)

    def work(connection: sa.Connection) -> list[UsageEvent]:
        page = query
        if after is not None:
            last = connection.execute(usage_readable_by(principal).where(usage_events.c.id == after)).one_or_none()
            if last is None:
                raise NotFound(f"There is no usage event {after!r}.", remedy="Pass the last id of the page before.")
            page = query.where(place < sa.tuple_(sa.literal(last.started_at, usage_events.c.started_at.type), last.id))
        return [_event(row) for row in connection.execute(page)]

    return db.run_sync(work)


def _during(query: sa.Select[Any], since: datetime | None, until: datetime | None) -> sa.Select[Any]:
    if since is not None:
        query = query.where(usage_events.c.started_at >= since)
    if until is not None:
        query = query.where(usage_events.c.started_at < until)
    return query


def _names(connection: sa.Connection, key_ids: list[str]) -> dict[str, str]:
    """The names of keys whose usage the caller sees."""
    named: dict[str, str] = {}
    for first in range(0, len(key_ids), 500):  # SQLite takes no more than 32,766 parameters
        query = sa.select(keys.c.id, keys.c.name).where(keys.c.id.in_(key_ids[first : first + 500]))
        named.update((row.id, row.name) for row in connection.execute(query))
    return named


def _group(group_by: GroupBy) -> sa.ColumnElement[Any]:
    events = usage_events.c
    match group_by:
        case GroupBy.KEY:
            return events.key_id
        case GroupBy.DEPLOYMENT:
            return events.deployment
        case GroupBy.DAY:
            return sa.type_coerce(events.started_at, sa.BigInteger) // _DAY_MS
        case GroupBy.NONE:
            return sa.literal_column("''", sa.Text)


def _title(group: Any, group_by: GroupBy) -> str:
    return moment(group * _DAY_MS).date().isoformat() if group_by is GroupBy.DAY else str(group)


def _key_of(row_id: str, group_by: GroupBy) -> str | int:
    """What the database groups by, from the id of a row."""
    if group_by is not GroupBy.DAY:
        return row_id
    try:
        day = date.fromisoformat(row_id)
    except ValueError:
        raise InvalidRequest(f"after is {row_id[:80]!r}, which is no day.", param="after") from None
    return milliseconds(datetime(day.year, day.month, day.day, tzinfo=UTC)) // _DAY_MS


def _row(row: sa.Row[Any], row_id: str, names: dict[str, str]) -> UsageRow:
    return UsageRow(
        id=row_id,
        group=names.get(row_id, row_id),
        requests=row.requests,
        failed=row.failed,
        prompt_tokens=int(row.prompt_tokens),  # PostgreSQL sums integers to decimals
        cached_tokens=int(row.cached_tokens),
        completion_tokens=int(row.completion_tokens),
    )


def _event(row: sa.Row[Any]) -> UsageEvent:
    return UsageEvent(
        id=row.id,
        tenant=row.tenant_id,
        key_id=row.key_id,
        deployment=row.deployment,
        version=row.version,
        operation=row.operation,
        surface=row.surface,
        outcome=Outcome(row.outcome),
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
        reserved_tokens=row.reserved_tokens,
        started_at=row.started_at,
        settled_at=row.settled_at,
        duration_ms=row.duration_ms,
    )
