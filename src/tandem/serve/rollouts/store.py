"""Rollouts in the database: one at a time for a deployment, and all that there were."""

from dataclasses import replace
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tandem.kit import clock, ids
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, NotFound
from tandem.serve import tables
from tandem.serve.deployments import Deployment, check_format, read_one, rebind, seen_by, selected
from tandem.serve.rollouts.plan import Finding, Mode, Plan, Progress, Rollout, RolloutState, check_plan, check_task
from tandem.serve.rollouts.window import Numbers
from tandem.serve.state import Wanted
from tandem.spec import Version

_rollouts = tables.rollouts.c
_RUNNING = _rollouts.state == RolloutState.RUNNING.value


class Rollouts:
    """The rollouts. All methods wait for the database: on an event loop, call them in a thread.

    What ends or advances a rollout does so only if it is still where the caller believes it to be.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def start(self, name: str, *, version: Version, plan: Plan) -> Rollout:
        """Put a version beside the one that the deployment serves. The release gate is asked by whoever loads it.

        Raises:
            NotFound: there is no such deployment.
            InvalidRequest: the plan, the kind of file or the version's task cannot be used.
            Conflict: it has a rollout already, is stopped, or serves this version.
        """
        if plan.mode is Mode.SHADOW:
            plan = msgspec.structs.replace(plan, steps=(100,))
        check_plan(plan)
        check_format(version)

        def work(connection: sa.Connection) -> Rollout:
            connection.execute(selected(name).with_for_update())
            deployment = read_one(connection, name)
            _check_start(connection, deployment, version)
            now = clock.unix_seconds()
            row = {
                "id": ids.new_id("roll"),
                "deployment": name,
                "active": name,
                "owner": deployment.owner,
                "state": RolloutState.RUNNING.value,
                "stable": deployment.version,
                "stable_digest": deployment.digest,
                "version": version.ref,
                "digest": version.artifact.digest,
                "size": version.artifact.size,
                "facts": dict(version.facts),
                "base": version.artifact.base,
                "plan": msgspec.to_builtins(plan),
                "step": 0,
                "progress": msgspec.to_builtins(Progress()),
                "findings": [],
                "reason": "",
                "created_at": now,
                "updated_at": now,
            }
            connection.execute(sa.insert(tables.rollouts).values(**row))
            return _read(connection, _rollouts.id == row["id"])

        try:
            return self._db.run_sync(work)
        except IntegrityError as error:
            raise _one_at_a_time(name) from error

    def get(self, name_or_id: str, *, key: str | None = None) -> Rollout:
        """A rollout by its id, or the newest of a deployment, as the key of this id sees it; None sees all.

        Raises:
            NotFound: there is none.
        """
        found = self.rollouts(name_or_id, key=key, limit=1)
        if not found:
            raise NotFound(f"There is no rollout {name_or_id!r}.", remedy="`tandem rollout list` shows all.")
        return found[0]

    def rollouts(
        self, name_or_id: str | None = None, *, limit: int = 100, after: str = "", key: str | None = None
    ) -> list[Rollout]:
        """Rollouts, newest first, from behind the id `after` on: all, those of a deployment, or the one of an id."""
        query = seen_by(sa.select(tables.rollouts), tables.rollouts, key)
        if name_or_id is not None:
            query = query.where(sa.or_(_rollouts.deployment == name_or_id, _rollouts.id == name_or_id))
        if after:
            query = query.where(_rollouts.id < after)
        page = query.order_by(_rollouts.id.desc()).limit(limit)
        return self._db.run_sync(lambda connection: [_rollout(row) for row in connection.execute(page).mappings()])

    def active(self) -> list[Rollout]:
        """Those that are under way."""
        query = sa.select(tables.rollouts).where(_rollouts.active.is_not(None)).order_by(_rollouts.id)
        return self._db.run_sync(lambda connection: [_rollout(row) for row in connection.execute(query).mappings()])

    def pause(self, name_or_id: str) -> Rollout:
        """Stay at this step.

        Raises:
            NotFound: it is not under way, or the deployment has none.
        """
        return self._turn(name_or_id, RolloutState.PAUSED)

    def resume(self, name_or_id: str) -> Rollout:
        """Go on with the next steps.

        Raises:
            NotFound: it is not under way, or the deployment has none.
        """
        return self._turn(name_or_id, RolloutState.RUNNING)

    def note(self, rollout: Rollout, progress: Progress, *, findings: tuple[Finding, ...] | None = None) -> None:
        """Record what the present step has seen, unless the rollout is over or at another step by now."""
        values: dict[str, Any] = {"progress": msgspec.to_builtins(progress)}
        if findings is not None:
            values["findings"] = msgspec.to_builtins(findings)
        self._db.run_sync(lambda connection: _change(connection, rollout, _rollouts.step == rollout.step, **values))

    def advance(self, rollout: Rollout, seen: Progress, *, findings: tuple[Finding, ...] | None = None) -> bool:
        """Go to the next step from one in which this was seen, unless a person was faster; says whether it did.

        Where no request is left to the stable version, it is measured by what it did in the step before.
        """
        step = rollout.step + 1
        kept = seen.stable if rollout.plan.steps[step] == 100 else Numbers()
        values = {"step": step, "progress": msgspec.to_builtins(Progress(stable=kept))}
        if findings is not None:
            values["findings"] = msgspec.to_builtins(findings)
        return self._db.run_sync(lambda connection: _change(connection, rollout, _RUNNING, **values))

    def promote(
        self, rollout: Rollout, reason: str, *, findings: tuple[Finding, ...] | None = None, by_itself: bool = False
    ) -> Deployment:
        """Bind the deployment to the candidate, and end the rollout.

        Raises:
            Conflict: it is over, or the deployment is bound to something else by now; or it was to go on `by_itself`
                and somebody has paused it.
        """
        unless_paused = (_RUNNING,) if by_itself else ()

        def work(connection: sa.Connection) -> Deployment:
            row = connection.execute(selected(rollout.deployment).with_for_update()).mappings().one_or_none()
            if row is None or (row["version"], row["digest"]) != (rollout.stable, rollout.stable_digest):
                raise Conflict(
                    f"The deployment {rollout.deployment!r} is not bound to {rollout.stable} any more.",
                    remedy="`tandem rollout list` shows what became of it.",
                )
            _end(connection, rollout, RolloutState.PROMOTED, reason, *unless_paused, findings=findings)
            bound = {key: row[key] for key in ("task", "engine", "options")}
            bound |= {key: getattr(rollout, key) for key in ("version", "digest", "size", "facts", "base")}
            rebind(connection, rollout.deployment, bound, revision=row["revision"] + 1)
            return read_one(connection, rollout.deployment)

        return self._db.run_sync(work)

    def roll_back(self, rollout: Rollout, reason: str, *, findings: tuple[Finding, ...] | None = None) -> Rollout:
        """End a rollout; the stable version answers everything again.

        Raises:
            Conflict: it is over.
        """
        return self._close(rollout, RolloutState.ROLLED_BACK, reason, findings)

    def finish(self, rollout: Rollout, reason: str, *, findings: tuple[Finding, ...] | None = None) -> Rollout:
        """End a shadow that has been measured.

        Raises:
            Conflict: it is over.
        """
        return self._close(rollout, RolloutState.DONE, reason, findings)

    def of(self, name_or_id: str) -> Rollout:
        """The rollout of a deployment, or of an id, that is under way.

        Raises:
            NotFound: there is none.
        """
        return self._db.run_sync(lambda connection: _active(connection, name_or_id))

    def _turn(self, name_or_id: str, state: RolloutState) -> Rollout:
        def work(connection: sa.Connection) -> Rollout:
            rollout = _active(connection, name_or_id)
            _change(connection, rollout, state=state.value)
            return _read(connection, _rollouts.id == rollout.id)

        return self._db.run_sync(work)

    def _close(
        self, rollout: Rollout, state: RolloutState, reason: str, findings: tuple[Finding, ...] | None
    ) -> Rollout:
        def work(connection: sa.Connection) -> Rollout:
            _end(connection, rollout, state, reason, findings=findings)
            return _read(connection, _rollouts.id == rollout.id)

        return self._db.run_sync(work)


def candidate_of(rollout: Rollout, deployment: Deployment) -> Deployment:
    """What the deployment will be once the rollout is promoted."""
    return replace(
        deployment,
        version=rollout.version,
        digest=rollout.digest,
        size=rollout.size,
        facts=rollout.facts,
        base=rollout.base,
        revision=deployment.revision + 1,
        replicas=(),
    )


def _check_start(connection: sa.Connection, deployment: Deployment, version: Version) -> None:
    name = deployment.name
    check_task(version.task, deployment=name, version=version.ref, wanted=deployment.task)
    if deployment.wanted is not Wanted.SERVING:
        raise Conflict(f"The deployment {name!r} is stopped.", remedy="`tandem deploy` starts it.")
    if (deployment.version, deployment.digest) == (version.ref, version.artifact.digest):
        raise Conflict(
            f"The deployment {name!r} serves {version.ref} already.",
            remedy="`tandem models list` shows the versions that could come in beside it.",
        )
    if connection.scalar(sa.select(_rollouts.id).where(_rollouts.active == name)) is not None:
        raise _one_at_a_time(name)


def _one_at_a_time(name: str) -> Conflict:
    return Conflict(
        f"A rollout of {name!r} is under way.",
        remedy=f"End it first: `tandem rollout promote {name}` or `tandem rollback {name}`.",
    )


def _active(connection: sa.Connection, name_or_id: str) -> Rollout:
    meant = sa.or_(_rollouts.active == name_or_id, sa.and_(_rollouts.id == name_or_id, _rollouts.active.is_not(None)))
    row = connection.execute(sa.select(tables.rollouts).where(meant)).mappings().one_or_none()
    if row is None:
        raise NotFound(
            f"No rollout of {name_or_id!r} is under way.", remedy="`tandem rollout start NAME --to REF` begins one."
        )
    return _rollout(row)


def _read(connection: sa.Connection, which: sa.ColumnElement[bool]) -> Rollout:
    return _rollout(connection.execute(sa.select(tables.rollouts).where(which)).mappings().one())


def _change(connection: sa.Connection, rollout: Rollout, *conditions: sa.ColumnElement[bool], **values: Any) -> bool:
    """Change the row of a rollout that is under way and meets the conditions; says whether it was so."""
    query = sa.update(tables.rollouts).where(_rollouts.id == rollout.id, _rollouts.active.is_not(None), *conditions)
    return connection.execute(query.values(**values, updated_at=clock.unix_seconds())).rowcount == 1


def _end(
    connection: sa.Connection,
    rollout: Rollout,
    state: RolloutState,
    reason: str,
    *conditions: sa.ColumnElement[bool],
    findings: tuple[Finding, ...] | None = None,
) -> None:
    values: dict[str, Any] = {
        "state": state.value,
        "reason": reason,
        "active": None,
        "ended_at": clock.unix_seconds(),
    }
    if findings is not None:
        values["findings"] = msgspec.to_builtins(findings)
    if not _change(connection, rollout, *conditions, **values):
        raise Conflict(
            f"The rollout {rollout.id} is over, or was paused meanwhile.", remedy="`tandem rollout show` tells."
        )


def _rollout(row: sa.RowMapping) -> Rollout:
    values = {key: value for key, value in row.items() if key != "active"}
    typed = {
        "state": RolloutState(row["state"]),
        "plan": msgspec.convert(row["plan"], Plan),
        "progress": msgspec.convert(row["progress"], Progress),
        "findings": msgspec.convert(row["findings"], tuple[Finding, ...]),
    }
    return Rollout(**{**values, **typed})
