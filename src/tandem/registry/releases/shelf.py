"""The shelf of releases: their rows and the decisions on them, opened and judged anew whenever they are read."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from tandem.kit.db import Database, upsert_ignore
from tandem.kit.errors import IntegrityError, NotFound
from tandem.kit.lines import write_whole
from tandem.kit.signing import MOST_BYTES, Signature, encode, merged
from tandem.registry.releases.book import Chain, CharterBook
from tandem.registry.releases.documents import Decision, Opened, Release, opened
from tandem.registry.releases.standing import Standing, stand
from tandem.registry.releases.walk import newest_first
from tandem.registry.tables import decisions, releases

_log = logging.getLogger(__name__)

_MOST_KNOWN = 4096  # standings; a controller asks for few, again and again
_MOST_ROWS = 1000  # of one version or one name
_PREFIX = "sha256:"
_RESTORE = "Restore the folder `charter` of the home folder from a copy; until then nothing is served by this release."


class _Kept(NamedTuple):
    """The decisions on one release as they are kept: in its file, if there is one, and in rows."""

    file: str | None
    rows: tuple[str, ...]


class Shelf:
    """Releases and decisions. Rows are for finding: what counts are the documents in them.

    Decisions lie as files beside the charter as well, since deleting a row would bring back what was withdrawn.
    """

    def __init__(self, db: Database, charters: CharterBook) -> None:
        self._db = db
        self._charters = charters
        self._folder = charters.folder / "decisions"
        self._known: dict[tuple[str, str, _Kept, str], Standing | None] = {}

    def get(self, digest: str) -> Standing:
        """One release.

        Raises:
            NotFound: there is none with this digest.
            IntegrityError: its row was changed by hand.
        """
        rows = self._rows(sa.select(releases).where(releases.c.digest == digest))
        if not rows:
            raise NotFound(f"There is no release {digest[:80]!r}.", remedy="`tandem release list` shows what there is.")
        if (found := self._standing(rows[0])) is None:
            raise IntegrityError(
                f"The row of the release {digest} was changed by hand.", remedy="Request the release again."
            )
        return found

    def beginning(self, prefix: str) -> list[str]:
        """The digests that begin so, two at most."""
        query = sa.select(releases.c.digest).where(releases.c.digest.startswith(prefix, autoescape=True)).limit(2)
        return [row["digest"] for row in self._rows(query)]

    def of_version(self, ref: str) -> list[Standing]:
        """The releases of a version, the newest first."""
        found = self._all(sa.select(releases).where(releases.c.version == ref))
        return [one for one in found if one.release.version == ref]

    def of_name(self, name: str) -> list[Standing]:
        """The releases of a model's versions, the newest first."""
        found = self._all(sa.select(releases).where(releases.c.name == name))
        return [one for one in found if one.release.as_version().name == name]

    def walk(self, *, after: str | None = None, name: str | None = None) -> Iterator[Standing]:
        """All releases, the newest first; rows that were changed by hand are left out."""
        query = sa.select(releases) if name is None else sa.select(releases).where(releases.c.name == name)
        rows = newest_first(self._db, query, moment=releases.c.requested_at, key=releases.c.digest, after=after)
        return (found for row in rows if (found := self._standing(row)) is not None)

    def put(self, release: Opened[Release]) -> Standing:
        """Keep a release; one that is here already gets the signatures that it lacks."""
        envelope, document = release
        row = {
            "digest": envelope.digest,
            "name": document.as_version().name,
            "version": document.version,
            "requested_at": document.requested_at,
            "envelope": encode(envelope).decode(),
        }
        self._db.run_sync(lambda connection: connection.execute(upsert_ignore(connection, releases).values(**row)))
        return self.add_signatures(envelope.digest, envelope.signatures)

    def add_signatures(self, digest: str, signatures: Sequence[Signature]) -> Standing:
        """Add signatures to a release; none of those that others add at the same moment is lost."""
        mine = releases.c.digest == digest

        def work(connection: sa.Connection) -> None:
            held = connection.execute(sa.select(releases.c.envelope).where(mine).with_for_update()).scalar_one()
            envelope = opened(held, Release, what=f"The row of the release {digest}").envelope
            whole = merged(envelope, signatures)
            if whole is not envelope and envelope.digest == digest:
                connection.execute(sa.update(releases).where(mine).values(envelope=encode(whole).decode()))

        self._db.run_sync(work)
        return self.get(digest)

    def end(self, decision: Opened[Decision]) -> Standing:
        """Keep a decision on a release: the file first, since it is what nobody takes back by a row."""
        digest = decision.document.release
        data = encode(decision.envelope)
        path = self._file(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, data)
        row = {"digest": decision.envelope.digest, "release_digest": digest, "envelope": data.decode()}
        self._db.run_sync(lambda connection: connection.execute(upsert_ignore(connection, decisions).values(**row)))
        return self.get(digest)

    def decided(self, digest: str) -> list[Opened[Decision]]:
        """The decisions on a release, whoever signed them.

        Raises:
            IntegrityError: the file is broken: what it said may have been a withdrawal.
        """
        return _opened(digest, self._kept(digest))

    def _all(self, query: sa.Select[Any]) -> list[Standing]:
        rows = self._rows(query.order_by(releases.c.requested_at.desc(), releases.c.digest).limit(_MOST_ROWS))
        return [found for row in rows if (found := self._standing(row)) is not None]

    def _standing(self, row: sa.RowMapping) -> Standing | None:
        """How the release in a row stands, or None where it is not what its digest says."""
        chain, kept = self._charters.chain(), self._kept(row["digest"])
        key = (row["digest"], row["envelope"], kept, chain.current.digest if chain.current is not None else "")
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = _judged(row, kept, chain)
        return self._known[key]

    def _kept(self, digest: str) -> _Kept:
        path = self._file(digest)
        query = sa.select(decisions.c.envelope).where(decisions.c.release_digest == digest)
        rows = tuple(row["envelope"] for row in self._rows(query.order_by(decisions.c.digest)))
        return _Kept(_whole(path) if path.exists() else None, rows)

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix(_PREFIX)}.json"

    def _rows(self, query: sa.Select[Any]) -> list[sa.RowMapping]:
        return self._db.run_sync(lambda connection: list(connection.execute(query).mappings().all()))


def _whole(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(2 * MOST_BYTES).decode(errors="replace")
    except OSError as error:
        raise IntegrityError(
            f"charter/decisions/{path.name} cannot be read: {error.strerror}.", remedy="Check who owns it."
        ) from error


def _judged(row: sa.RowMapping, kept: _Kept, chain: Chain) -> Standing | None:
    what = f"The row of the release {row['digest']}"
    try:
        release = opened(row["envelope"], Release, what=what)
    except IntegrityError as error:
        _log.warning("a release is left out: %s", error.message)
        return None
    if release.envelope.digest != row["digest"]:
        _log.warning("a release is left out: %s was changed by hand", what)
        return None
    return stand(release, chain, _opened(row["digest"], kept))


def _opened(digest: str, kept: _Kept) -> list[Opened[Decision]]:
    what = f"The decision on {digest}"
    found = []
    if kept.file is not None:
        place = f"charter/decisions/{digest.removeprefix(_PREFIX)}.json"
        try:
            found.append(opened(kept.file, Decision, what=place))
        except IntegrityError as error:
            raise IntegrityError(error.message, remedy=_RESTORE) from error
        if found[0].document.release != digest:
            raise IntegrityError(f"{place} holds the decision on another release.", remedy=_RESTORE)
    for text in kept.rows:
        try:
            found.append(opened(text, Decision, what=what))
        except IntegrityError as error:
            _log.warning("a decision is left out: %s", error.message)
    return found
