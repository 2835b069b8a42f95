"""The database: one engine, short transactions in worker threads, migrations; SQLite or PostgreSQL."""

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DataError, DBAPIError, OperationalError

import tandem
from tandem.kit import clock
from tandem.kit.errors import (
    ConfigError,
    IntegrityError,
    InvalidRequest,
    MissingPrerequisite,
    StorageFull,
    TandemError,
    Unavailable,
)

T = TypeVar("T")

# Longer than any transaction of ours, shorter than a client's patience.
BUSY_TIMEOUT_S = 10
_BUSY_POLL_S = 0.02
# Any number that no other program on the same server is likely to lock.
_MIGRATION_LOCK = 0x7A4DE3
# The least that SQLite's WAL index takes on the disk: https://www.sqlite.org/walformat.html#the_wal_index_file_format
_SHARED_MEMORY_BYTES = 32 * 1024
_URL_REMEDY = "Use sqlite:///path/to/file.db or postgresql://user:password@host/name."

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
            raise ConfigError(f"database_url names an unknown database: {error}.", remedy=_URL_REMEDY) from error
        except sa.exc.ArgumentError as error:
            # The URL is not repeated here, since it may hold a password.
            raise ConfigError("database_url is not a URL.", remedy=_URL_REMEDY) from error
        except ModuleNotFoundError as error:
            raise MissingPrerequisite(
                f"The driver of {url.split(':', 1)[0]} is not installed.",
                remedy="pip install 'tandem-platform[postgres]'",
            ) from error
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _sqlite_connected)
            sa.event.listen(self._engine, "begin", _sqlite_begin)

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
            IntegrityError: the file is not a database, or a damaged one.
            InvalidRequest: somebody gave a value that the database cannot hold.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if (translated := self._translated(error)) is None:
                raise
            raise translated from error
        except sa.exc.TimeoutError as error:
            raise Unavailable("All connections to the database are busy.", remedy="Try again.") from error

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
            ConfigError: the database was written by a newer Tandem than this one, or its folder cannot be made.
        """
        self._make_folder()
        config = _alembic_config()
        scripts = ScriptDirectory.from_config(config)
        with self.transaction() as connection:
            if not self.is_sqlite:  # SQLite's transaction is exclusive already
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            if not _is_at_head(connection, scripts):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def is_migrated(self) -> bool:
        """Whether `migrate` would change nothing; changes nothing itself.

        Raises:
            ConfigError: the database was written by a newer Tandem than this one.
        """
        scripts = ScriptDirectory.from_config(_alembic_config())
        return self.run_sync(lambda connection: _is_at_head(connection, scripts))

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()

    def _make_folder(self) -> None:
        path = sa.make_url(self.url).database if self.is_sqlite else None
        if path:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"The folder {Path(path).parent} cannot be made: {error.strerror}.",
                    remedy="Set `home` or `database_url` to a place that this user may write to.",
                ) from error

    def _has_no_room(self, text: str) -> bool:
        """Whether it is SQLite that finds no room for its shared memory, which it calls an I/O error."""
        path = sa.make_url(self.url).database if self.is_sqlite and "disk I/O error" in text else None
        return path is not None and shutil.disk_usage(Path(path).parent).free < _SHARED_MEMORY_BYTES

    def _translated(self, error: DBAPIError) -> TandemError | None:
        """Our error for it, or None where the statement was wrong and not the database."""
        text = " ".join(str(error.orig).split()).rstrip(".")  # libpq's messages have several lines
        if "disk is full" in text or "No space left" in text or os.strerror(28) in text or self._has_no_room(text):
            return StorageFull("The database's disk is full.", remedy="Free some space; nothing was changed.")
        if self.is_sqlite and ("not a database" in text or "malformed" in text):
            return IntegrityError(
                f"{sa.make_url(self.url).database} is damaged: {text}.",
                remedy="Restore it from a copy, or move it away to start with an empty one.",
            )
        if self.is_sqlite and ("unable to open" in text or "readonly" in text):
            return Unavailable(
                f"{sa.make_url(self.url).database} cannot be used: {text}.",
                remedy="Check that it is a file, and who owns it and its folder.",
            )
        if isinstance(error, DataError):  # PostgreSQL has no NUL in texts, and whoever asks may have one in a name
            return InvalidRequest(f"The database takes no such value: {text}.", remedy="Leave out the character.")
        if isinstance(error, OperationalError) or error.connection_invalidated:
            return Unavailable(f"The database does not answer: {text}.", remedy="`tandem doctor` looks closer.")
        return None


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


def _is_at_head(connection: sa.Connection, scripts: ScriptDirectory) -> bool:
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(
            f"The database is at migration {current}, which this version of Tandem does not know.",
            remedy="Install the Tandem that wrote it, or a newer one.",
        )
    return current == scripts.get_current_head()


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.set_main_option("path_separator", "os")
    return config


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _connect_args(url: str) -> dict[str, object]:
    return {"timeout": BUSY_TIMEOUT_S} if url.startswith("sqlite") else {"connect_timeout": BUSY_TIMEOUT_S}


def _sqlite_connected(connection: sqlite3.Connection, _record: object) -> None:
    # Python's driver would begin by itself, too late and never before CREATE TABLE; `_sqlite_begin` does it instead.
    connection.isolation_level = None
    _write_ahead(connection)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have the file keep a write-ahead log.

    A new file changes to that only while nobody else is in a transaction, and SQLite does not wait for that by itself.
    """
    deadline = clock.monotonic_seconds() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or clock.monotonic_seconds() > deadline:
                raise
            time.sleep(_BUSY_POLL_S)
        else:
            return


def _sqlite_begin(connection: sa.Connection) -> None:
    # IMMEDIATE takes the write lock first. A transaction that reads and then writes would otherwise build on rows that
    # another one has changed meanwhile, or fail at its write without waiting (SQLITE_BUSY_SNAPSHOT).
    connection.exec_driver_sql("BEGIN IMMEDIATE")
