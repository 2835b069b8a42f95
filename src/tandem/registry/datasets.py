"""Datasets: what runs were trained on, under which licence, and which runs that were; the lineage of data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from tandem.kit.db import Database, upsert_ignore
from tandem.registry.tables import datasets, run_datasets
from tandem.spec import Data, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Prepared data by digest. `counts` are those of its manifest: records, and what was dropped and why."""

    digest: str
    source: str
    format: str
    license: str
    counts: Mapping[str, int] = field(default_factory=dict)


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is read here of a dataset's manifest."""

    counts: dict[str, int] = {}
    licenses: tuple[str, ...] = ()


class Datasets:
    """What data there is. Its methods block; an event loop calls them through a thread."""

    def __init__(self, db: Database, home: Path) -> None:
        self._db = db
        self._home = home

    def record(self, run_id: str, recipe: Recipe) -> None:
        """Note that a run uses the datasets of its pinned recipe; once more changes nothing."""

        def work(connection: sa.Connection) -> None:
            for data in recipe.data:
                connection.execute(upsert_ignore(connection, datasets).values(self._row(data)))
                used = {"run_id": run_id, "digest": data.sha256}
                connection.execute(upsert_ignore(connection, run_datasets).values(used))

        self._db.run_sync(work)

    def of_run(self, run_id: str) -> list[Dataset]:
        """The datasets that a run uses."""
        query = (
            sa.select(datasets)
            .join(run_datasets, run_datasets.c.digest == datasets.c.digest)
            .where(run_datasets.c.run_id == run_id)
            .order_by(datasets.c.digest)
        )
        rows = self._db.run_sync(lambda connection: connection.execute(query).mappings().all())
        return [Dataset(**{str(key): value for key, value in row.items()}) for row in rows]

    def datasets(self, *, limit: int = 100, after: str = "") -> list[Dataset]:
        """Datasets by digest, at most `limit` of those that come after the digest `after`."""
        query = sa.select(datasets).where(datasets.c.digest > after).order_by(datasets.c.digest).limit(limit)
        rows = self._db.run_sync(lambda connection: connection.execute(query).mappings().all())
        return [Dataset(**{str(key): value for key, value in row.items()}) for row in rows]

    def find(self, digest: str) -> Dataset | None:
        """The dataset with this digest, if a run has used it."""
        query = sa.select(datasets).where(datasets.c.digest == digest)
        row = self._db.run_sync(lambda connection: connection.execute(query).mappings().one_or_none())
        return Dataset(**{str(key): value for key, value in row.items()}) if row is not None else None

    def runs_of(self, digest: str) -> list[str]:
        """The ids of the runs that use a dataset, in the order in which they began."""
        query = sa.select(run_datasets.c.run_id).where(run_datasets.c.digest == digest).order_by(run_datasets.c.run_id)
        return list(self._db.run_sync(lambda connection: connection.scalars(query).all()))

    def _row(self, data: Data) -> dict[str, Any]:
        manifest = self._manifest(data.sha256)
        return {
            "digest": data.sha256,
            "source": data.source,
            "format": data.format,
            "license": data.license or ", ".join(manifest.licenses),
            "counts": manifest.counts,
        }

    def _manifest(self, digest: str) -> _Manifest:
        path = self._home / "datasets" / digest.removeprefix("sha256:") / "manifest.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Manifest)
        except FileNotFoundError:
            return _Manifest()  # made on another machine
