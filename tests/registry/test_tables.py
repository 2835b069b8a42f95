"""The tables of releases are what the migration makes of them."""

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tandem.kit.db import Database
from tandem.registry import tables


def test_the_migration_makes_these_tables(database: Database) -> None:
    ours = sa.MetaData(naming_convention=tables.metadata.naming_convention)
    for table in (tables.evidence, tables.releases, tables.decisions):
        table.to_metadata(ours)

    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"include_name": included})
        return compare_metadata(context, ours)

    def included(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in ours.tables

    assert database.run_sync(differences) == []
