"""Where flows are recorded: DBOS's own tables, in a file of their own or in a schema of their own."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tandem.kit.config import Settings
from tandem.kit.errors import IntegrityError, StorageFull, TandemError, Unavailable

if TYPE_CHECKING:
    from dbos import DBOSClient, DBOSConfig

APPLICATION = "tandem"
SCHEMA = "tandem_flows"
"""On PostgreSQL."""
VERSION = "flows-1"
"""What a recorded flow can be continued by. It is ours, not a digest of the code: newer code goes on with old flows.
A change of the steps of a story that would break that gets a new story, not a new version."""

_FILE = "flows.db"


def flows_url(settings: Settings) -> str:
    """The database of flows: the house's own on PostgreSQL, else a file beside the house's.

    Not the same file, since DBOS looks and writes every second, and SQLite has one writer: the ledger would wait for
    it; since its tables have names that could be ours; and since a damaged record of flows must stop no gateway.
    """
    if settings.sqlalchemy_url.startswith("sqlite"):
        return f"sqlite:///{settings.home / _FILE}"
    return settings.sqlalchemy_url


def has_flows(settings: Settings) -> bool:
    """Whether there has ever been a flow; makes nothing.

    Raises:
        Unavailable: the database does not answer.
    """
    if settings.sqlalchemy_url.startswith("sqlite"):
        return (settings.home / _FILE).exists()
    query = sa.text("SELECT 1 FROM information_schema.schemata WHERE schema_name = :name")
    with answering(), connected(settings) as connection:
        return connection.execute(query, {"name": SCHEMA}).scalar() is not None


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[sa.Connection]:
    """One connection to PostgreSQL outside all pools, each statement a transaction of its own."""
    url = sa.make_url(settings.sqlalchemy_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def opened_client(settings: Settings) -> "DBOSClient":
    """Who asks for flows and looks at them from any process; makes the tables where there are none.

    Raises:
        Unavailable, StorageFull, IntegrityError: the database cannot be used.
    """
    from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer

    quiet()
    url = flows_url(settings)
    with answering():
        if url.startswith("sqlite"):
            with contextlib.closing(sqlite3.connect(settings.home / _FILE)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # readers and the writer do not wait for each other
        DBOS.migrate(url, schema=SCHEMA)
        return DBOSClient(
            system_database_url=url,
            dbos_system_schema=SCHEMA,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
        )


def configuration(settings: Settings) -> "DBOSConfig":
    """How DBOS runs flows: from that database, as JSON instead of pickle, and telling nobody."""
    from dbos import DBOSPortableJSONSerializer

    quiet()
    return {
        "name": APPLICATION,
        "system_database_url": flows_url(settings),
        "dbos_system_schema": SCHEMA,
        "application_version": VERSION,
        "executor_id": APPLICATION,  # there is one at a time
        "serializer": DBOSPortableJSONSerializer(),
        "enable_otlp": False,
        "log_level": "WARNING",
        "use_listen_notify": False,
    }


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Errors of the database as ours.

    Raises:
        Unavailable, StorageFull, IntegrityError: as the database says.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _translated(str(error.orig)) from error
    except (sqlite3.Error, sa.exc.TimeoutError) as error:
        raise _translated(str(error)) from error


def quiet() -> None:
    """Let DBOS log where Tandem logs, from warnings on, and not what is told to people already."""
    logger = logging.getLogger("dbos")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())  # with none it would write to the terminal by itself
        logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not a failure that its flow tells of, nor that a step was left because the executor stops."""
    kind: Any = record.exc_info[0] if record.exc_info else None
    told = isinstance(kind, type) and (issubclass(kind, TandemError) or kind.__name__ == "PortableWorkflowError")
    return not told and not record.getMessage().startswith("Asyncio task cancelled")


def _translated(text: str) -> TandemError:
    said = " ".join(text.split()).rstrip(".")
    if "disk is full" in said or "No space left" in said:
        return StorageFull("The disk of the flows' database is full.", remedy="Free some space; nothing was changed.")
    if "not a database" in said or "malformed" in said:
        return IntegrityError(
            f"{_FILE} in the home folder is damaged: {said}.",
            remedy="Restore it from a copy, or move it away to start with an empty one; nothing else depends on it.",
        )
    return Unavailable(f"The database of flows does not answer: {said}.", remedy="Try again.")
