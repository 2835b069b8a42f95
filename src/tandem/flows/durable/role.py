"""The role of the executor: one process at a time goes on with the flows of a home, and of a database."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from tandem.flows.durable.database import answering, connected
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, Unavailable

# Any number that no other program on the same server is likely to lock.
_ROLE_LOCK = 0x7A4DE4


@contextlib.contextmanager
def executor_role(settings: Settings) -> Iterator[Callable[[], bool]]:
    """Be the executor until the block ends, or this process does; yields whether that is still so.

    The kernel holds `flows.lock` in the home folder, and on PostgreSQL the server a lock for all homes that share the
    database; both let go however the process ends. Only the latter can be lost before, with its connection.

    Raises:
        Conflict: another process has the role.
        Unavailable: the database does not answer.
        OSError: the home folder cannot be written.
    """
    with _held(settings) as connection:
        yield lambda: connection is None or _answers(connection)


def is_executed(settings: Settings) -> bool:
    """Whether some process is the executor now."""
    try:
        with _held(settings, only_asking=True):
            return False
    except Conflict:
        return True
    except (OSError, Unavailable):
        return False


@contextlib.contextmanager
def _held(settings: Settings, *, only_asking: bool = False) -> Iterator[sa.Connection | None]:
    """The role's locks, and the connection that the second one hangs on. Those who only ask share them."""
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((settings.home / "flows.lock").open("a"))
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if only_asking else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken() from None
        if settings.sqlalchemy_url.startswith("sqlite"):
            yield None
            return
        with answering():
            connection = stack.enter_context(connected(settings))
            lock_role = sa.func.pg_try_advisory_lock_shared if only_asking else sa.func.pg_try_advisory_lock
            mine = connection.scalar(sa.select(lock_role(_ROLE_LOCK)))
        if not mine:
            raise _taken()
        yield connection


def _taken() -> Conflict:
    return Conflict("Another process goes on with the flows.", remedy="Leave it to that one.", code="flows_taken")


def _answers(connection: sa.Connection) -> bool:
    try:
        return connection.scalar(sa.select(1)) == 1
    except sa.exc.SQLAlchemyError:
        return False
