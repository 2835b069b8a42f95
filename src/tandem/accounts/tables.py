"""The tables of accounts, and for each the one query through which callers read it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from tandem.accounts.principals import Principal, Role
from tandem.kit.db import metadata

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(sa.types.TypeDecorator[datetime]):
    """A point in time, stored as milliseconds since 1970 UTC.

    SQLite has no type for times, and PostgreSQL groups them by day in the session's time zone; an integer sorts,
    compares and divides alike in both.
    """

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | int | None, _dialect: Dialect) -> int | None:
        """To whole milliseconds; an integer is that already."""
        return milliseconds(value) if isinstance(value, datetime) else value

    def process_result_value(self, value: Any | None, _dialect: Dialect) -> datetime | None:
        """To an aware datetime in UTC."""
        return None if value is None else moment(value)


def moment(passed_ms: int) -> datetime:
    """The aware datetime that many milliseconds after 1970-01-01 UTC."""
    return _EPOCH + timedelta(milliseconds=passed_ms)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970-01-01 UTC of an aware datetime."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1000 + passed.microseconds // 1000


tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", Instant, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant_id", sa.Text, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("concurrency", sa.BigInteger),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("revoked_at", Instant),
    sa.Index("ix_keys_tenant_id_id", "tenant_id", "id"),
    # A name is free again once its key is revoked.
    sa.Index(
        "uq_keys_active_name",
        "tenant_id",
        "name",
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    ),
)

# NOTE: these rows live for ever; columns are only added, at the end, with a default.
# No foreign keys: a journal that is folded late must find its place whatever has become of the key by then.
usage_events = sa.Table(
    "usage_events",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant_id", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("deployment", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("surface", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("reserved_tokens", sa.BigInteger, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("settled_at", Instant, nullable=False),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_usage_events_tenant_id_started_at", "tenant_id", "started_at"),
    sa.Index("ix_usage_events_started_at", "started_at"),
)


def keys_readable_by(principal: Principal | None) -> sa.Select[Any]:
    """The keys that a caller may see: an admin those of its tenant, a user its own; `None` is the house itself."""
    return _within(sa.select(keys), principal, tenant=keys.c.tenant_id, key=keys.c.id)


def usage_readable_by(principal: Principal | None, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """The usage that a caller may see, by the same rule; of the whole events or of the given columns."""
    query = sa.select(*columns) if columns else sa.select(usage_events)
    return _within(query, principal, tenant=usage_events.c.tenant_id, key=usage_events.c.key_id)


def _within(
    query: sa.Select[Any], principal: Principal | None, *, tenant: sa.Column[str], key: sa.Column[str]
) -> sa.Select[Any]:
    if principal is None:
        return query
    query = query.where(tenant == principal.tenant)
    return query if principal.role is Role.ADMIN else query.where(key == principal.key_id)
