"""Which bytes serving needs: those of every deployment, of the bindings that it can go back to, and of rollouts."""

from dataclasses import dataclass

import sqlalchemy as sa

from tandem.kit.db import Database
from tandem.serve.tables import bindings, deployments, rollouts


@dataclass(frozen=True, slots=True)
class Use:
    """A deployment that needs these bytes; `current` where it serves them, or is on the way to it.

    An adapter needs those of its `base`, too.
    """

    deployment: str
    version: str  # name@number
    digest: str
    current: bool
    base: str = ""


def uses(db: Database) -> list[Use]:
    """Every use of every version, now or before, as long as its deployment is there."""
    now = sa.select(deployments.c.name, deployments.c.version, deployments.c.digest, deployments.c.base)
    before = sa.select(bindings.c.deployment, bindings.c.version, bindings.c.digest, bindings.c.base)
    active = rollouts.c.active.is_not(None)
    candidate = sa.select(rollouts.c.deployment, rollouts.c.version, rollouts.c.digest, rollouts.c.base).where(active)

    def work(connection: sa.Connection) -> list[Use]:
        current = {tuple(row) for query in (now, candidate) for row in connection.execute(query)}
        past = {tuple(row) for row in connection.execute(before)} - current
        return [_use(row, current=True) for row in sorted(current)] + [_use(row, current=False) for row in sorted(past)]

    return db.run_sync(work)


def _use(row: tuple[str, ...], *, current: bool) -> Use:
    deployment, version, digest, base = row
    return Use(deployment, version, digest, current, base)
