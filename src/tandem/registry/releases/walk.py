"""Rows from the newest to the oldest, read in steps, for lists that leave some of them out."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from tandem.kit.db import Database

_STEP = 100


def newest_first(
    db: Database, query: sa.Select[Any], *, moment: sa.Column[Any], key: sa.Column[Any], after: str | None = None
) -> Iterator[sa.RowMapping]:
    """The rows of a query by falling `moment`, from the one whose `key` is `after` on; none where that is unknown."""
    place: tuple[Any, Any] | None = None
    if after is not None:
        since = _read(db, sa.select(moment).where(key == after))
        if not since:
            return
        place = (since[0][moment.name], after)
    while True:
        step = query.order_by(moment.desc(), key).limit(_STEP)
        if place is not None:
            step = step.where(sa.or_(moment < place[0], sa.and_(moment == place[0], key > place[1])))
        rows = _read(db, step)
        yield from rows
        if len(rows) < _STEP:
            return
        place = (rows[-1][moment.name], rows[-1][key.name])


def _read(db: Database, query: sa.Select[Any]) -> list[sa.RowMapping]:
    return db.run_sync(lambda connection: list(connection.execute(query).mappings().all()))
