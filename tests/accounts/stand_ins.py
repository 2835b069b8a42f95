"""Stand-ins for accounts' tests: a database that can go down, a clock that stands still, and principals."""

import threading
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from tandem.accounts import NO_LIMITS, Limits, Principal, Role
from tandem.kit.db import Database
from tandem.kit.errors import Unavailable

T = TypeVar("T")


class FailingDatabase(Database):
    """A real database that counts its transactions, and that a test can take down or hold up."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.is_down = False
        self.transactions = 0
        self.open = threading.Event()
        self.open.set()

    def run_sync(self, work: Callable[[sa.Connection], T]) -> T:
        self.transactions += 1
        assert self.open.wait(timeout=30), "a test forgot to let the database go on"
        if self.is_down:
            raise Unavailable("The database does not answer: taken down by a test.")
        return super().run_sync(work)


class StoppedClock:
    """A clock that only the test moves."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def principal(
    key_id: str = "key_1", *, tenant: str = "default", role: Role = Role.USER, limits: Limits = NO_LIMITS
) -> Principal:
    """A caller."""
    return Principal(key_id=key_id, name=f"name of {key_id}", tenant=tenant, role=role, limits=limits)
