"""The tables are what the migration makes of them."""

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st

from tandem.accounts import tables
from tandem.kit.db import Database


def test_the_migration_makes_these_tables(database: Database) -> None:
    ours = sa.MetaData(naming_convention=tables.metadata.naming_convention)
    for table in (tables.tenants, tables.keys, tables.usage_events):
        table.to_metadata(ours)

    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"include_name": included})
        return compare_metadata(context, ours)

    def included(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in ours.tables

    assert database.run_sync(differences) == []


def test_the_default_tenant_is_there(database: Database) -> None:
    found = database.run_sync(lambda connection: connection.execute(sa.select(tables.tenants.c.id)).scalars().all())
    assert found == ["default"]


@given(st.integers(0, 10**14 - 1))
def test_moments_keep_their_milliseconds(passed_ms: int) -> None:
    assert tables.milliseconds(tables.moment(passed_ms)) == passed_ms
