"""The database: one engine, short transactions in worker threads, migrations; SQLite or PostgreSQL."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError, OperationalError

import tandem
from tandem.kit.errors import ConfigError, MissingPrerequisite, StorageFull, Unavailable

T = TypeVar("T")

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""All rooms declare their tables on this one object, so that migrations and tests see the whole schema."""


class Database:
    """One connection pool. Rooms hand in functions of a connection; the transaction is around each call."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._engine = sa.create_engine(
                _with_driver(url), pool_pre_ping=not url.startswith("sqlite"), connect_args=_connect_args(url)
            )
        except sa.exc.NoSuchModuleError as error:
            raise ConfigError(f"database_url names an unknown database: {error}.") from error
        except ModuleNotFoundError as error:
            raise MissingPrerequisite(
                f"The driver of {url.split(':', 1)[0]} is not installed.",
                remedy="pip install 'tandem-platform[postgres]'",
            ) from error
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _sqlite_pragmas)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.url.startswith("sqlite")

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction: commits on a clean exit, rolls back on any exception.

        Raises:
            StorageFull: the disk under the database is full.
            Unavailable: the database cannot be reached or is locked.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise _translated(error) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _translated(error) from error
            raise

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction on a worker thread, so that the event loop never waits for a disk."""
        return await asyncio.to_thread(self.run_sync, work)

    def run_sync(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction on this thread."""
        with self.transaction() as connection:
            return work(connection)

    def migrate(self) -> None:
        """Bring the schema to the newest migration; creates the SQLite file and its folder.

        Raises:
            ConfigError: the database was written by a newer Tandem than this one.
        """
        if self.is_sqlite and (path := sa.make_url(self.url).database):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        config = _alembic_config()
        scripts = ScriptDirectory.from_config(config)
        with self.transaction() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
                raise ConfigError(
                    f"The database is at migration {current}, which this version of Tandem does not know.",
                    remedy="Install the Tandem that wrote it, or a newer one.",
                )
            if current != scripts.get_current_head():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()


def migrations_folder() -> Path:
    """Where the migrations lie: inside an installed package, or beside `src` in a checkout."""
    package = Path(tandem.__file__).parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent.parent / "migrations"


def upsert_ignore(connection: sa.Connection, table: sa.Table) -> sa.Insert:
    """An INSERT that leaves rows alone whose key is already there, in the database's own dialect."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects.postgresql import insert as postgres_insert

    return postgres_insert(table).on_conflict_do_nothing()


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.set_main_option("path_separator", "os")
    return config


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _connect_args(url: str) -> dict[str, object]:
    # 10 s: longer than any transaction of ours, shorter than a client's patience.
    return {"timeout": 10} if url.startswith("sqlite") else {"connect_timeout": 10}


def _sqlite_pragmas(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _translated(error: DBAPIError) -> Unavailable:
    text = str(error.orig)
    if "disk is full" in text or "No space left" in text or os.strerror(28) in text:
        return StorageFull("The database's disk is full.", remedy="Free some space; nothing was changed.")
    return Unavailable(f"The database does not answer: {text}.", remedy="Try again; `tandem doctor` looks closer.")
