"""The store of evidence: signed envelopes, each checked when it comes in and again whenever it is counted."""

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tandem.kit import clock
from tandem.kit.db import Database, upsert_ignore
from tandem.kit.errors import Forbidden, IntegrityError, InvalidRequest, NotFound, TandemError
from tandem.kit.signing import Envelope, decode, encode, merged, signers
from tandem.registry.charter import Charter
from tandem.registry.releases.book import CharterBook
from tandem.registry.releases.documents import Opened, opened, received
from tandem.registry.releases.walk import newest_first
from tandem.registry.tables import evidence as table
from tandem.spec import Evidence

_log = logging.getLogger(__name__)

_MOST = 1000  # pieces of evidence on one artifact that the gate looks at, the newest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Filed:
    """A piece of evidence: its digest, what it says, and who of the charter signed it."""

    digest: str
    evidence: Evidence
    envelope: Envelope
    signed_by: tuple[str, ...]
    """`member of party`; nobody where the signatures no longer count."""

    @property
    def counts(self) -> bool:
        """Whether the gate takes it."""
        return bool(self.signed_by)


class EvidenceStore:
    """The evidence in the database, of which nothing is believed unchecked. Its methods block."""

    def __init__(self, db: Database, charters: CharterBook) -> None:
        self._db = db
        self._charters = charters

    def add(self, envelope: Envelope) -> str:
        """Keep signed evidence; returns its digest. A second time changes nothing, more signatures are added.

        Raises:
            NotFound: there is no charter that says who may sign.
            InvalidRequest: it is no evidence, or contradicts itself.
            Forbidden: nobody signed it who may evaluate.
        """
        found = received(envelope, Evidence, what="The evidence")
        _check(found.document)
        charter = self._charters.current().charter
        if not charter.names_of(signers(envelope), "evaluate"):
            raise Forbidden(
                f"The evidence of {found.document.suite[:64]} on {found.document.version[:80]} is signed by nobody who "
                "may evaluate.",
                remedy="`tandem charter show` lists who may; `tandem evaluate` signs.",
            )
        self._db.run_sync(lambda connection: _store(connection, found))
        return envelope.digest

    def of(self, digest: str) -> Mapping[str, Evidence]:
        """All evidence on the bytes `digest` that counts now, by its own digest.

        Raises:
            NotFound: there is no charter that says who may sign.
        """
        charter = self._charters.current().charter
        query = sa.select(table).where(table.c.artifact == digest)
        rows = self._rows(query.order_by(table.c.added_at.desc(), table.c.digest).limit(_MOST))
        found = (_filed(row, charter) for row in rows)
        return {one.digest: one.evidence for one in found if one and one.counts and one.evidence.digest == digest}

    def get(self, digest: str) -> Filed:
        """One piece of evidence.

        Raises:
            NotFound: there is none with this digest.
            IntegrityError: the row was changed by hand.
        """
        rows = self._rows(sa.select(table).where(table.c.digest == digest))
        if not rows:
            raise NotFound(f"There is no evidence {digest[:80]!r}.", remedy="`tandem evaluate` makes evidence.")
        current = self._charters.chain().current
        return _read(rows[0], current.charter if current is not None else None)

    def page(self, *, version: str | None = None, limit: int = 100, after: str | None = None) -> list[Filed]:
        """Evidence, the newest first, from the one after `after` on; rows that were changed by hand are left out."""
        query = sa.select(table) if version is None else sa.select(table).where(table.c.version == version)
        current = self._charters.chain().current
        charter = current.charter if current is not None else None
        rows = newest_first(self._db, query, moment=table.c.added_at, key=table.c.digest, after=after)
        found = (_filed(row, charter) for row in rows)
        return list(itertools.islice((one for one in found if one is not None), limit))

    def _rows(self, query: sa.Select[Any]) -> list[sa.RowMapping]:
        return self._db.run_sync(lambda connection: list(connection.execute(query).mappings().all()))


def _store(connection: sa.Connection, found: Opened[Evidence]) -> None:
    envelope, document = found
    row = {
        "digest": envelope.digest,
        "version": document.version,
        "artifact": document.digest,
        "suite": document.suite,
        "added_at": clock.unix_milliseconds(),
        "envelope": encode(envelope).decode(),
    }
    # The insert comes first: it takes SQLite's write lock, so nobody signs between reading and writing.
    connection.execute(upsert_ignore(connection, table).values(**row))
    mine = table.c.digest == envelope.digest
    held = connection.execute(sa.select(table.c.envelope).where(mine).with_for_update()).scalar_one()
    try:
        known = decode(held, what="The row")
    except IntegrityError:
        known = envelope
    if known.digest != envelope.digest:
        known = envelope  # somebody changed the row by hand
    whole = encode(merged(known, envelope.signatures)).decode()
    if whole != held:
        connection.execute(sa.update(table).where(mine).values(envelope=whole))


def _filed(row: sa.RowMapping, charter: Charter | None) -> Filed | None:
    """The evidence in a row, or None where it is not what its digest says."""
    try:
        return _read(row, charter)
    except TandemError as error:
        _log.warning("evidence is left out: %s", error.message)
        return None


def _read(row: sa.RowMapping, charter: Charter | None) -> Filed:
    what = f"The row of evidence {row['digest']}"
    envelope, document = opened(row["envelope"], Evidence, what=what)
    if envelope.digest != row["digest"]:
        raise IntegrityError(f"{what} was changed: it holds {envelope.digest}.", remedy="Evaluate again.")
    names = charter.names_of(signers(envelope), "evaluate") if charter is not None else ()
    return Filed(digest=envelope.digest, evidence=document, envelope=envelope, signed_by=names)


def _check(document: Evidence) -> None:
    """Raises InvalidRequest where a reader could see two things in it, or a column cannot hold it."""
    names = [metric.name for metric in document.metrics]
    faults = {
        "version": not 3 <= len(document.version) <= 80 or "@" not in document.version,
        "suite": not 1 <= len(document.suite) <= 64,
        "metrics": len(set(names)) != len(names) or not all(0 < len(name) <= 64 for name in names),
        "measured_at": not 0 <= document.measured_at <= 2**53,
    }
    for key, wrong in faults.items():
        if wrong:
            raise InvalidRequest(
                f"The evidence has a wrong {key}.", remedy="Make it with `tandem evaluate`.", param=key
            )
