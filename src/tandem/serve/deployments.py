"""Deployments: the names that clients call, each bound to one version."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from tandem.kit import clock
from tandem.kit.db import Database, upsert_ignore
from tandem.kit.errors import InvalidRequest, NotFound
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

# The best state of a deployment's replicas is the deployment's own.
_BEST_FIRST = (State.READY, State.STARTING, State.RESTARTING, State.FAILED, State.STOPPED)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A name that clients call, what is wanted of it, and what runs. `revision` counts its bindings."""

    name: str
    version: str  # name@number
    digest: str
    size: int  # bytes of the model file
    task: Task
    engine: str
    options: DeployOptions
    facts: Mapping[str, object]
    wanted: Wanted
    revision: int
    created_at: int  # Unix seconds
    updated_at: int
    replicas: tuple[Observation, ...] = ()

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

    def bind(self, name: str, *, version: Version, options: DeployOptions, engine: str) -> Deployment:
        """Let the clients of `name` reach this version. The only function through which a version gets to them.

        The release gate guards this function, so nothing else may write a deployment's version. Binding what is
        bound already changes nothing; any difference makes a new revision, which takes over once it is ready.

        Raises:
            InvalidRequest: the name, an option or the kind of file cannot be used.
        """
        _check_name(name)
        _check_options(options)
        if version.artifact.format != "gguf":
            raise InvalidRequest(
                f"{version.ref} is a {version.artifact.format} file, which no engine here reads.",
                remedy="Deploy a GGUF version.",
            )
        now = clock.unix_seconds()
        binding = {
            "version": version.ref,
            "digest": version.artifact.digest,
            "size": version.artifact.size,
            "task": version.task.value,
            "engine": engine,
            "options": asdict(options),
            "facts": dict(version.facts),
        }

        def work(connection: sa.Connection) -> Deployment:
            # The insert comes first: it takes SQLite's write lock, so nobody binds between reading and writing.
            fresh = {**binding, "name": name, "wanted": Wanted.SERVING.value, "revision": 1}
            connection.execute(
                upsert_ignore(connection, tables.deployments).values(**fresh, created_at=now, updated_at=now)
            )
            row = connection.execute(_selected(name).with_for_update()).mappings().one()
            changes: dict[str, object] = {}
            if any(row[key] != value for key, value in binding.items()):
                changes = {**binding, "revision": row["revision"] + 1}
            if row["wanted"] != Wanted.SERVING:
                changes["wanted"] = Wanted.SERVING.value
            if changes:
                connection.execute(_updated(name).values(**changes, updated_at=now))
            return _read_one(connection, name)

        return self._db.run_sync(work)

    def stop(self, name: str) -> Deployment:
        """Keep the deployment and its version, and run nothing for it; `bind` starts it again.

        Raises:
            NotFound: there is no such deployment.
        """

        def work(connection: sa.Connection) -> Deployment:
            stopped = {"wanted": Wanted.STOPPED.value, "updated_at": clock.unix_seconds()}
            connection.execute(_updated(name).values(**stopped))
            return _read_one(connection, name)

        return self._db.run_sync(work)

    def remove(self, name: str) -> None:
        """Forget the deployment; its running requests are finished first.

        Raises:
            NotFound: there is no such deployment.
        """

        def work(connection: sa.Connection) -> None:
            _read_one(connection, name)
            connection.execute(sa.delete(tables.deployments).where(tables.deployments.c.name == name))
            # What was seen of them must not pass for replicas of a deployment that takes the name next.
            connection.execute(sa.delete(tables.replicas).where(tables.replicas.c.deployment == name))

        self._db.run_sync(work)

    def get(self, name: str) -> Deployment:
        """One deployment with its replicas.

        Raises:
            NotFound: there is no such deployment; names those that there are.
        """
        return self._db.run_sync(lambda connection: _read_one(connection, name))

    def deployments(self, *, limit: int = 1000, after: str = "") -> list[Deployment]:
        """Deployments with their replicas in the order of their names, from the one after `after` on."""
        page = sa.select(tables.deployments).where(tables.deployments.c.name > after)
        page = page.order_by(tables.deployments.c.name).limit(limit)

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


def _selected(name: str) -> sa.Select[Any]:
    return sa.select(tables.deployments).where(tables.deployments.c.name == name)


def _updated(name: str) -> sa.Update:
    return sa.update(tables.deployments).where(tables.deployments.c.name == name)


def _read_one(connection: sa.Connection, name: str) -> Deployment:
    rows = connection.execute(_selected(name)).mappings().all()
    if not rows:
        known = connection.scalars(sa.select(tables.deployments.c.name).order_by("name").limit(20)).all()
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
