"""Which bytes serving needs: those of every deployment, of the bindings that it can go back to, and of rollouts."""

from dataclasses import dataclass

import sqlalchemy as sa

from tandem.kit.db import Database
from tandem.serve.tables import bindings, deployments, rollouts


@dataclass(frozen=True, slots=True)
class Use:
    """A deployment that needs these bytes; `current` where it serves them, or is on the way to it."""

    deployment: str
    version: str  # name@number
    digest: str
    current: bool


def uses(db: Database) -> list[Use]:
    """Every use of every version, now or before, as long as its deployment is there."""
    now = sa.select(deployments.c.name, deployments.c.version, deployments.c.digest)
    before = sa.select(bindings.c.deployment, bindings.c.version, bindings.c.digest)
    active = rollouts.c.active.is_not(None)
    candidate = sa.select(rollouts.c.deployment, rollouts.c.version, rollouts.c.digest).where(active)
    stable = sa.select(rollouts.c.deployment, rollouts.c.stable, rollouts.c.stable_digest).where(active)

    def work(connection: sa.Connection) -> list[Use]:
        current = {(row[0], row[1], row[2]) for query in (now, candidate, stable) for row in connection.execute(query)}
        past = {(row[0], row[1], row[2]) for row in connection.execute(before)} - current
        return [Use(*one, current=True) for one in sorted(current)] + [Use(*one, current=False) for one in sorted(past)]

    return db.run_sync(work)
