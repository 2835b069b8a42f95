"""Deployments: the names that clients call, each bound to one version."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from tandem.kit import clock
from tandem.kit.db import Database, upsert_ignore
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.serve import tables
from tandem.serve.state import State, Wanted
from tandem.spec import Task, Version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Smallest and largest of each option. 16 tokens hold no chat template; 256 slots or 64 replicas on one machine
# are a slip of the finger.
_BOUNDS: Mapping[str, tuple[int, int]] = {
    "context_tokens": (16, 2**24),
    "parallel": (1, 256),
    "threads": (0, 1024),
    "replicas": (1, 64),
}

# What a binding is made of, in `deployments` and in `bindings` alike.
_BOUND = ("version", "digest", "size", "task", "engine", "options", "facts", "base")

# The best state of a deployment's replicas is the deployment's own.
_BEST_FIRST = (State.READY, State.STARTING, State.RESTARTING, State.FAILED, State.UNRELEASED, State.STOPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """How a deployment runs."""

    context_tokens: int = 4096
    """Tokens that one request may use, prompt and answer together; at most what the model was made for."""
    parallel: int = 4
    """Requests that one replica answers at once; each reserves memory for `context_tokens`."""
    threads: int = 0
    """Threads of one replica; 0 takes all cores."""
    replicas: int = 1
    """Engines that share the load."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What is about to be served: a version, the digest of its bytes, and the one key that may see it.

    `owner` is the id of that key; it is empty where all clients see it, which takes a release. Where the bytes are an
    adapter, `base` is the digest of the model that it goes with.
    """

    version: str  # name@number
    digest: str
    owner: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One replica as the controller saw it last."""

    id: str
    deployment: str
    revision: int
    state: State
    pid: int | None = None
    address: str = ""
    restarts: int = 0
    last_error: str = ""
    sharing: int = 1
    """Replicas, itself included, that its engine answers for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A name that clients call, what is wanted of it, and what runs. `revision` counts its bindings."""

    name: str
    version: str  # name@number
    digest: str
    size: int  # bytes of the model file, or of the adapter
    task: Task
    engine: str
    options: DeployOptions
    facts: Mapping[str, object]
    wanted: Wanted
    revision: int
    created_at: int  # Unix seconds
    updated_at: int
    owner: str = ""  # the id of the one key that sees a development deployment
    base: str = ""  # the digest of the model that the bytes, an adapter, go with
    replicas: tuple[Observation, ...] = ()

    @property
    def binding(self) -> Binding:
        """What the gate is asked about."""
        return Binding(self.version, self.digest, self.owner, self.base)

    @property
    def state(self) -> State:
        """The best state among its replicas; stopped or pending where there are none."""
        if not self.replicas:
            return State.STOPPED if self.wanted is Wanted.STOPPED else State.PENDING
        return best_state(replica.state for replica in self.replicas)

    @property
    def last_error(self) -> str:
        """What the newest replica that has a complaint says, or nothing."""
        return next((replica.last_error for replica in reversed(self.replicas) if replica.last_error), "")


class Deployments:
    """The deployments in the database. All methods wait for it: on an event loop, call them in a thread."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def bind(self, name: str, *, version: Version, options: DeployOptions, engine: str, owner: str = "") -> Deployment:
        """Let the clients of `name`, or the one key `owner`, reach this version.

        It grants nothing: whoever loads the weights asks the release gate, whatever is written here. Binding what is
        bound already changes nothing; any difference makes a new revision, which takes over once it is ready.

        Raises:
            InvalidRequest: the name, an option or the kind of file cannot be used.
            Conflict: a rollout of the deployment is under way, or other clients have the name.
        """
        check_wanted(name, options)
        check_format(version)
        now = clock.unix_seconds()
        bound = {
            "version": version.ref,
            "digest": version.artifact.digest,
            "size": version.artifact.size,
            "task": version.task.value,
            "engine": engine,
            "options": asdict(options),
            "facts": dict(version.facts),
            "base": version.artifact.base,
        }

        def work(connection: sa.Connection) -> Deployment:
            # The insert comes first: it takes SQLite's write lock, so nobody binds between reading and writing.
            fresh = {**bound, "name": name, "owner": owner, "wanted": Wanted.SERVING.value, "revision": 0}
            connection.execute(
                upsert_ignore(connection, tables.deployments).values(**fresh, created_at=now, updated_at=now)
            )
            row = connection.execute(selected(name).with_for_update()).mappings().one()
            if row["owner"] != owner:
                raise _not_yours(name, row["owner"])
            if row["revision"] == 0 or any(row[key] != value for key, value in bound.items()):
                _check_no_rollout(connection, name)
                rebind(connection, name, bound, revision=row["revision"] + 1)
            elif row["wanted"] != Wanted.SERVING:
                connection.execute(_updated(name).values(wanted=Wanted.SERVING.value, updated_at=now))
            return read_one(connection, name)

        return self._db.run_sync(work)

    def previous(self, name: str) -> tuple[int, Binding]:
        """The newest earlier binding of the name to another version, with its revision.

        Raises:
            NotFound: there is no such deployment, or it never had another version.
        """

        def work(connection: sa.Connection) -> tuple[int, Binding]:
            now = read_one(connection, name)
            past = tables.bindings.c
            other = sa.or_(past.version != now.version, past.digest != now.digest, past.base != now.base)
            query = sa.select(past.revision, past.version, past.digest, past.base).where(
                past.deployment == name, past.revision < now.revision, other
            )
            row = connection.execute(query.order_by(past.revision.desc()).limit(1)).one_or_none()
            if row is None:
                raise NotFound(
                    f"The deployment {name!r} never had another version than {now.version}.",
                    remedy="`tandem deploy` binds one.",
                )
            return row.revision, Binding(row.version, row.digest, now.owner, row.base)

        return self._db.run_sync(work)

    def restore(self, name: str, revision: int) -> Deployment:
        """Bind the name again as it was in an earlier revision; makes a new one.

        Raises:
            NotFound: there is no such deployment or revision.
            Conflict: a rollout of the deployment is under way.
        """

        def work(connection: sa.Connection) -> Deployment:
            now = connection.execute(selected(name).with_for_update()).mappings().one_or_none()
            past = tables.bindings
            query = sa.select(past).where(past.c.deployment == name, past.c.revision == revision)
            row = connection.execute(query).mappings().one_or_none()
            if now is None or row is None:
                raise NotFound(f"The deployment {name!r} has no revision {revision}.")
            _check_no_rollout(connection, name)
            rebind(connection, name, {key: row[key] for key in _BOUND}, revision=now["revision"] + 1)
            return read_one(connection, name)

        return self._db.run_sync(work)

    def stop(self, name: str) -> Deployment:
        """Keep the deployment and its version, and run nothing for it; `bind` starts it again.

        Raises:
            NotFound: there is no such deployment.
        """

        def work(connection: sa.Connection) -> Deployment:
            stopped = {"wanted": Wanted.STOPPED.value, "updated_at": clock.unix_seconds()}
            connection.execute(_updated(name).values(**stopped))
            return read_one(connection, name)

        return self._db.run_sync(work)

    def remove(self, name: str) -> None:
        """Forget the deployment; its running requests are finished first.

        Raises:
            NotFound: there is no such deployment.
        """

        def work(connection: sa.Connection) -> None:
            read_one(connection, name)
            connection.execute(sa.delete(tables.deployments).where(tables.deployments.c.name == name))
            connection.execute(sa.delete(tables.bindings).where(tables.bindings.c.deployment == name))
            now = clock.unix_seconds()
            ended = {"active": None, "state": "rolled_back", "reason": "The deployment was removed.", "ended_at": now}
            connection.execute(sa.update(tables.rollouts).where(tables.rollouts.c.active == name).values(**ended))
            # What was seen of them must not pass for replicas of a deployment that takes the name next.
            connection.execute(sa.delete(tables.replicas).where(tables.replicas.c.deployment == name))

        self._db.run_sync(work)

    def get(self, name: str, *, key: str | None = None) -> Deployment:
        """One deployment with its replicas, as the key of this id sees it; None sees all.

        Raises:
            NotFound: there is no such deployment, or not for this key; names those that there are.
        """
        return self._db.run_sync(lambda connection: read_one(connection, name, key=key))

    def deployments(self, *, limit: int = 1000, after: str = "", key: str | None = None) -> list[Deployment]:
        """Deployments with their replicas in the order of their names, from the one after `after` on.

        Only those that the key of this id sees; None sees all.
        """
        page = seen_by(sa.select(tables.deployments), tables.deployments, key)
        page = page.where(tables.deployments.c.name > after).order_by(tables.deployments.c.name).limit(limit)

        def work(connection: sa.Connection) -> list[Deployment]:
            return _with_replicas(connection, connection.execute(page).mappings().all())

        return self._db.run_sync(work)

    def observe(self, observations: Sequence[Observation]) -> None:
        """Replace all that was known of replicas; for the controller alone."""
        now = clock.unix_seconds()
        rows = [{**asdict(seen), "state": seen.state.value, "updated_at": now} for seen in observations]

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(tables.replicas))
            if rows:
                connection.execute(sa.insert(tables.replicas), rows)

        self._db.run_sync(work)


def best_state(states: Iterable[State]) -> State:
    """The state of a deployment whose replicas have these."""
    return min(states, key=_BEST_FIRST.index)


def seen_by(query: sa.Select[Any], table: sa.Table, key: str | None) -> sa.Select[Any]:
    """The query without the rows of development deployments of other keys; None sees all."""
    return query if key is None else query.where(table.c.owner.in_(("", key)))


def check_wanted(name: str, options: DeployOptions) -> None:
    """Refuse a name and options that `bind` would refuse, for who asks long before it is time to bind.

    Raises:
        InvalidRequest: the name or an option cannot be used.
    """
    _check_name(name)
    _check_options(options)


def check_format(version: Version) -> None:
    """Refuse a file that no engine reads.

    Raises:
        InvalidRequest: it is no GGUF file.
    """
    if version.artifact.format != "gguf":
        raise InvalidRequest(
            f"{version.ref} is a {version.artifact.format} file, which no engine here reads.",
            remedy="Deploy a GGUF version.",
        )


def rebind(connection: sa.Connection, name: str, bound: Mapping[str, Any], *, revision: int) -> None:
    """Write what a deployment is bound to, as this revision, here and in its history; only this function does."""
    now = clock.unix_seconds()
    serving = {"wanted": Wanted.SERVING.value, "revision": revision, "updated_at": now}
    connection.execute(_updated(name).values(**bound, **serving))
    connection.execute(sa.insert(tables.bindings).values(**bound, deployment=name, revision=revision, bound_at=now))


def _check_no_rollout(connection: sa.Connection, name: str) -> None:
    query = sa.select(tables.rollouts.c.version).where(tables.rollouts.c.active == name)
    if (version := connection.scalar(query)) is not None:
        raise Conflict(
            f"A rollout of {name!r} to {version} is under way.",
            remedy=f"End it first: `tandem rollout promote {name}` or `tandem rollback {name}`.",
        )


def _not_yours(name: str, owner: str) -> Conflict:
    if owner:
        return Conflict(f"{name!r} is taken by a development deployment.", remedy="Choose another name.")
    return Conflict(
        f"{name!r} is a deployment that all clients see.",
        remedy="Choose another name for development; this one stays as it is.",
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot name a deployment.",
            remedy="Use 1 to 64 letters, digits, dots, hyphens and underscores; begin with a letter or a digit.",
            param="name",
        )


def _check_options(options: DeployOptions) -> None:
    for name, (least, most) in _BOUNDS.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise InvalidRequest(f"{name} is {value}.", remedy=f"Use {least} to {most}.", param=name)


def selected(name: str) -> sa.Select[Any]:
    """The row of a deployment."""
    return sa.select(tables.deployments).where(tables.deployments.c.name == name)


def _updated(name: str) -> sa.Update:
    return sa.update(tables.deployments).where(tables.deployments.c.name == name)


def read_one(connection: sa.Connection, name: str, *, key: str | None = None) -> Deployment:
    """As `Deployments.get`, inside a transaction."""
    rows = connection.execute(seen_by(selected(name), tables.deployments, key)).mappings().all()
    if not rows:
        names = seen_by(sa.select(tables.deployments.c.name), tables.deployments, key or "")
        known = connection.scalars(names.order_by("name").limit(20)).all()
        remedy = f"Deployed are: {', '.join(known)}." if known else "`tandem deploy` makes one."
        raise NotFound(f"There is no deployment {name!r}.", remedy=remedy)
    return _with_replicas(connection, rows)[0]


def _with_replicas(connection: sa.Connection, rows: Sequence[sa.RowMapping]) -> list[Deployment]:
    names = [row["name"] for row in rows]
    query = sa.select(tables.replicas).where(tables.replicas.c.deployment.in_(names)).order_by("revision", "id")
    seen: dict[str, list[Observation]] = {name: [] for name in names}
    for row in connection.execute(query).mappings():
        seen[row["deployment"]].append(_observation(row))
    return [_deployment(row, tuple(seen[row["name"]])) for row in rows]


def _observation(row: sa.RowMapping) -> Observation:
    values = {key: value for key, value in row.items() if key != "updated_at"}
    return Observation(**{**values, "state": State(row["state"])})


def _deployment(row: sa.RowMapping, replicas: tuple[Observation, ...]) -> Deployment:
    typed = {
        "task": Task(row["task"]),
        "options": DeployOptions(**row["options"]),
        "wanted": Wanted(row["wanted"]),
        "replicas": replicas,
    }
    return Deployment(**{**row, **typed})
