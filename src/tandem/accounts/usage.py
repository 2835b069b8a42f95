"""What was used: sums by key, deployment or day, and the single events, within what the caller may see."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from tandem.accounts.journal import Outcome
from tandem.accounts.principals import Principal
from tandem.accounts.tables import keys, moment, usage_events, usage_readable_by
from tandem.kit.db import Database
from tandem.kit.errors import NotFound

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
    """One sum. `group` is the key's name, the deployment, the day as YYYY-MM-DD, or empty for all."""

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


def summarise(
    db: Database,
    principal: Principal | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    group_by: GroupBy = GroupBy.NONE,
) -> list[UsageRow]:
    """Sums over the requests that began in `since <= time < until`, in the order of their groups.

    Two keys with the same name are two rows. Without events there are no rows, whatever the grouping.
    """
    events = usage_events.c
    group: sa.ColumnElement[Any]
    match group_by:
        case GroupBy.KEY:
            group = events.key_id
        case GroupBy.DEPLOYMENT:
            group = events.deployment
        case GroupBy.DAY:
            group = sa.type_coerce(events.started_at, sa.BigInteger) // _DAY_MS
        case GroupBy.NONE:
            group = sa.literal_column("''")
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

    def work(connection: sa.Connection) -> list[UsageRow]:
        rows = connection.execute(query).all()
        names = _names(connection, [row.group for row in rows]) if group_by is GroupBy.KEY else {}
        return [_row(row, _title(row.group, group_by, names)) for row in rows]

    return sorted(db.run_sync(work), key=lambda row: row.group)


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


def _title(group: Any, group_by: GroupBy, names: dict[str, str]) -> str:
    if group_by is GroupBy.DAY:
        return moment(group * _DAY_MS).date().isoformat()
    return names.get(group, str(group))


def _row(row: sa.Row[Any], group: str) -> UsageRow:
    return UsageRow(
        group=group,
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
