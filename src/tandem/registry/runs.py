"""Runs: their folders and logs, which are the truth, and an index of them that can be made again from those."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from tandem.kit import clock
from tandem.kit.db import Database, upsert_ignore
from tandem.kit.errors import InvalidRequest, NotFound, Unavailable
from tandem.kit.ids import new_id
from tandem.kit.lines import append_line, read_lines, write_whole
from tandem.registry.tables import runs
from tandem.spec import Event, Happened, Placement, Recipe, Run, RunFolder, RunState, fold, recipe_id

_PREFIX = "run_"
_MAX_ID = 64  # characters; the database has no room for more, and a file's name not for many more


class Runs:
    """What runs there are. Its methods block; an event loop calls them through a thread."""

    def __init__(self, db: Database, home: Path) -> None:
        self._db = db
        self._home = home
        self._digests: dict[str, frozenset[str]] = {}  # that recipes name, which never change

    def create(self, recipe: Recipe, placement: Placement, *, run_id: str = "") -> Run:
        """Make a run of a pinned recipe: its folder appears whole or not at all.

        With a `run_id` of the caller's choosing, a second time changes nothing, whatever happened to the first.

        Raises:
            ValueError: the recipe is not pinned.
        """
        if run_id and self.folder(run_id).events.exists():
            run = self.read(run_id)
            self._note(run)
            return run
        run_id, identity = run_id or new_id("run"), recipe_id(recipe)
        told = {"run_id": run_id, "recipe_id": identity, "name": recipe.name, "steps": recipe.budget.steps}
        part = RunFolder(self._home / "runs" / f".{run_id}.part")
        shutil.rmtree(part.path, ignore_errors=True)  # of a process that was killed here
        part.path.mkdir(parents=True)
        try:
            write_whole(part.recipe, msgspec.json.format(msgspec.json.encode(recipe)))
            write_whole(part.placement, msgspec.json.format(msgspec.json.encode(placement)))
            created = Event(kind=Happened.CREATED, at=clock.unix_milliseconds(), fields=told)
            append_line(part.events, created)
            part.path.rename(self.folder(run_id).path)
        except BaseException:
            shutil.rmtree(part.path)
            raise
        _sync(self._home / "runs")
        run = fold([created])
        self._note(run)
        return run

    def folder(self, run_id: str) -> RunFolder:
        """Where the files of a run are."""
        return RunFolder.of(self._home, run_id)

    def read(self, run_id: str) -> Run:
        """The run as its log tells it now.

        Raises:
            NotFound: there is no such run.
        """
        return fold(self.events(run_id))

    def events(self, run_id: str) -> Iterator[Event]:
        """The log of a run.

        Raises:
            NotFound: there is no such run.
            IntegrityError: a line of it is none.
        """
        path = self.folder(run_id).events
        if "/" in run_id or len(run_id) > _MAX_ID or not path.exists():
            raise _unknown(run_id)
        return read_lines(path, Event)

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        """What the run's workers measured, in order; of a step that was taken again only the last time."""
        by_step = {line["step"]: line for line in read_lines(self.folder(run_id).metrics, dict[str, Any])}
        return [by_step[step] for step in sorted(by_step)]

    def append(self, run_id: str, event: Event) -> None:
        """Add an event to a run's log; it is on the disk when this returns."""
        append_line(self.folder(run_id).events, event)
        with contextlib.suppress(Unavailable):  # the index can be made again
            self._note(self.read(run_id))

    def log(self, run_id: str) -> "RunLog":
        """The log of a run, for its supervisor."""
        return RunLog(self, run_id)

    def recipe(self, run_id: str) -> Recipe:
        """The pinned recipe of a run."""
        return msgspec.json.decode(self.folder(run_id).recipe.read_bytes(), type=Recipe)

    def placement(self, run_id: str) -> Placement:
        """The placement of a run's next attempt."""
        return msgspec.json.decode(self.folder(run_id).placement.read_bytes(), type=Placement)

    def place(self, run_id: str, placement: Placement) -> None:
        """Give a run another placement for its next attempt; the result stays the same."""
        write_whole(self.folder(run_id).placement, msgspec.json.format(msgspec.json.encode(placement)))

    def newest(self, *, limit: int = 100, after: str | None = None) -> list[Run]:
        """Runs, the newest first, at most `limit` of those that come after the id `after`."""
        found: list[Run] = []
        while len(found) < limit:  # the folders of some may be gone; a page is full all the same
            query = sa.select(runs.c.run_id).order_by(runs.c.run_id.desc()).limit(limit - len(found))
            if after is not None:
                query = query.where(runs.c.run_id < after)
            if not (ids := self._ids(query)):
                break
            found += self._present(ids)
            after = ids[-1]
        return found

    def resolve(self, ref: str) -> Run:
        """The run with this id, the only one whose id begins so, or the newest one of the recipe with this name.

        Raises:
            NotFound: there is none.
            InvalidRequest: several ids begin so.
        """
        for _ in range(2):
            found = self._named(ref)
            if len(found) > 1:
                raise InvalidRequest(
                    f"{len(found)} runs begin with {ref[:80]!r}.", remedy="Write more of the id.", param="run"
                )
            if found:
                return self.read(found[0])
            self.reindex()  # the index may have been lost
        raise _unknown(ref)

    def succeeded(self, identity: str) -> Run | None:
        """The newest run of the recipe with this id that has made a version."""
        done = sa.and_(runs.c.recipe_id == identity, runs.c.state == RunState.SUCCEEDED.value)
        found = self._present(self._ids(sa.select(runs.c.run_id).where(done).order_by(runs.c.run_id.desc())))
        return found[0] if found else None

    def ids(self) -> list[str]:
        """The ids of all runs whose folders are here, in the order in which they began."""
        return sorted(path.parent.name for path in self._home.glob("runs/run_*/recipe.json"))

    def of_recipe(self, identity: str) -> list[Run]:
        """The runs of the recipe with this id, in the order in which they began."""
        return self._present(self._ids(sa.select(runs.c.run_id).where(runs.c.recipe_id == identity).order_by("run_id")))

    def naming(self, digest: str) -> list[str]:
        """The ids of the runs whose recipe names this digest: as the parent, the tokenizer or data."""
        return [run_id for run_id in self.ids() if digest in self._named_digests(run_id)]

    def _named_digests(self, run_id: str) -> frozenset[str]:
        if (known := self._digests.get(run_id)) is None:
            recipe = self.recipe(run_id)
            named = {recipe.model.parent_sha256, recipe.tokenizer.sha256, *(data.sha256 for data in recipe.data)}
            known = self._digests[run_id] = frozenset(named - {""})
        return known

    def reindex(self) -> int:
        """Make the index again from the logs; returns how many runs there are."""
        found = [self.read(path.parent.name) for path in sorted(self._home.glob("runs/run_*/events.jsonl"))]
        for run in found:
            self._note(run)
        return len(found)

    def _named(self, ref: str) -> Sequence[str]:
        named = sa.select(runs.c.run_id).where(runs.c.name == ref).order_by(runs.c.run_id.desc()).limit(1)
        full = ref if ref.startswith(_PREFIX) else _PREFIX + ref
        begins = runs.c.run_id.startswith(full, autoescape=True)
        return self._ids(named) or self._ids(sa.select(runs.c.run_id).where(begins).limit(9))

    def _ids(self, query: sa.Select[Any]) -> Sequence[str]:
        return self._db.run_sync(lambda connection: connection.scalars(query).all())

    def _present(self, ids: Sequence[str]) -> list[Run]:
        return [self.read(run_id) for run_id in ids if self.folder(run_id).events.exists()]

    def _note(self, run: Run) -> None:
        row = {
            "run_id": run.run_id,
            "recipe_id": run.recipe_id,
            "name": run.name,
            "state": run.state.value,
            "created_at": run.created_at,
        }
        update = runs.update().where(runs.c.run_id == run.run_id).values(state=row["state"])

        def work(connection: sa.Connection) -> None:
            connection.execute(upsert_ignore(connection, runs).values(row))
            connection.execute(update)

        self._db.run_sync(work)


@dataclass(frozen=True, slots=True)
class RunLog:
    """The log of one run."""

    runs: Runs
    run_id: str

    def append(self, event: Event) -> None:
        """Add an event; it is on the disk when this returns."""
        self.runs.append(self.run_id, event)

    def events(self) -> Iterator[Event]:
        """All events in order."""
        return self.runs.events(self.run_id)


def _unknown(ref: str) -> NotFound:
    return NotFound(f"There is no run {ref[:80]!r}.", remedy="`tandem runs list` shows what runs there are.")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
