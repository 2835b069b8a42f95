"""The register of versions: adding, listing, resolving, and the checked file behind each."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from tandem.kit.blobs import Blobs
from tandem.kit.clock import now
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from tandem.registry.tables import versions
from tandem.spec import Artifact, Task, Version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ATTEMPTS = 5  # at a number that others want too


class _Seen(NamedTuple):
    """What a file looked like when its digest was last right."""

    size: int
    mtime_ns: int
    ctime_ns: int  # which nobody can set back, as they can the time before
    inode: int


class Registry:
    """What models there are. Its methods block; an event loop calls them through a thread."""

    def __init__(self, db: Database, blobs: Blobs) -> None:
        self.blobs = blobs
        self._db = db
        self._seen: dict[str, _Seen] = {}

    def add(self, name: str, *, task: Task, artifact: Artifact, origin: str, facts: Mapping[str, object]) -> Version:
        """Register an artifact under `name` with the next free number; known bytes keep their version.

        Raises:
            InvalidRequest: the name has other characters than letters, digits, dot, dash and underscore.
            Conflict: others added versions of this name again and again at the same moment; or the bytes are known as
                an adapter of another base.
        """
        check_name(name)
        for _ in range(_ATTEMPTS):
            if (known := self.find(name, artifact.digest) or self._revived(name, artifact.digest)) is not None:
                if known.artifact.base != artifact.base:
                    raise Conflict(f"{known.ref} has the same bytes for another base.", remedy="Choose another name.")
                return known
            version = Version(
                name=name,
                number=self._last_number(name) + 1,
                task=task,
                artifact=artifact,
                origin=origin,
                facts=dict(facts),
            )
            if self._insert(version):
                return version
        raise Conflict(f"Others keep adding versions of {name}.", remedy="Try again.")

    def versions(self, *, limit: int = 100, after: str | None = None) -> list[Version]:
        """Versions by name and number, at most `limit` of those that come after the reference `after`."""
        query = _present().order_by(versions.c.name, versions.c.number).limit(limit)
        if after is not None:
            name, number = _split(after)
            query = query.where(
                sa.or_(
                    versions.c.name > name,
                    sa.and_(versions.c.name == name, versions.c.number > (number or 0)),
                )
            )
        return self._select(query)

    def resolve(self, ref: str) -> Version:
        """The version that `name@number` names, or the newest one of `name`.

        Raises:
            NotFound: there is none; the message names those that are spelt like it.
            InvalidRequest: the number is not one.
        """
        return self._resolve(ref, _present())

    def known(self, ref: str) -> Version:
        """As `resolve`, and also one that was removed: for telling what it was.

        Raises:
            NotFound: there never was one.
            InvalidRequest: the number is not one.
        """
        return self._resolve(ref, sa.select(versions))

    def remove(self, ref: str) -> Version:
        """Take a version out of the register; its number stays its own, and the same bytes bring it back.

        Who refers to it is for the caller to ask. The bytes stay until they are collected.

        Raises:
            NotFound: there is none.
        """
        version = self.resolve(ref)
        mine = sa.and_(versions.c.name == version.name, versions.c.number == version.number)
        self._db.run_sync(
            lambda connection: connection.execute(sa.update(versions).where(mine).values(removed_at=now()))
        )
        return version

    def _resolve(self, ref: str, query: sa.Select[Any]) -> Version:
        name, number = _split(ref)
        query = query.where(versions.c.name == name).order_by(versions.c.number.desc()).limit(1)
        if number is not None:
            query = query.where(versions.c.number == number)
        if found := self._select(query):
            return found[0]
        present = _present().with_only_columns(versions.c.name).distinct()
        names = self._db.run_sync(lambda connection: connection.scalars(present).all())
        near = difflib.get_close_matches(name, names, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise NotFound(
            f"There is no model {ref!r}.{hint}",
            remedy="`tandem models list` shows what is here, `tandem models pull` fetches more.",
        )

    def whole(self, ref: str) -> str:
        """The digest of the whole model that a reference means now, for who wants to train from it.

        Raises:
            NotFound: there is no such version.
            InvalidRequest: it is an adapter that nobody merged.
        """
        version = self.resolve(ref)
        if not version.whole:
            raise InvalidRequest(f"{version.ref} is an adapter alone.", remedy="Begin from a whole model.")
        return version.whole

    def find(self, name: str, digest: str) -> Version | None:
        """The version of `name` that has these bytes."""
        found = self._select(_present().where(versions.c.name == name, versions.c.digest == digest))
        return found[0] if found else None

    def pulled(self, name: str, origin: str) -> Version | None:
        """The newest version of `name` from this origin."""
        query = _present().where(versions.c.name == name, versions.c.origin == origin)
        found = self._select(query.order_by(versions.c.number.desc()).limit(1))
        return found[0] if found else None

    def with_digest(self, digest: str) -> list[Version]:
        """All versions that have these bytes, by name."""
        query = _present().where(versions.c.digest == digest)
        return self._select(query.order_by(versions.c.name, versions.c.number))

    def on_base(self, digest: str) -> list[Version]:
        """All versions that are adapters of the model with these bytes, by name."""
        query = _present().where(versions.c.base == digest)
        return self._select(query.order_by(versions.c.name, versions.c.number))

    def with_weights(self, digest: str, *, ever: bool = False) -> list[Version]:
        """All versions whose weights these bytes hold, by name: they are their own, or an adapter was merged there.

        With `ever` also those that were removed.
        """
        merged = sa.and_(versions.c.base != "", versions.c.facts["merged"].as_string() == digest)
        query = (sa.select(versions) if ever else _present()).where(sa.or_(versions.c.digest == digest, merged))
        return self._select(query.order_by(versions.c.name, versions.c.number))

    def from_origin(self, origin: str) -> list[Version]:
        """All versions from this origin, by name."""
        query = _present().where(versions.c.origin == origin)
        return self._select(query.order_by(versions.c.name, versions.c.number))

    def path(self, version: Version) -> Path:
        """The local file of a version's bytes; as `file`. An adapter's base is checked, too."""
        if version.artifact.base:
            self.file(version.artifact.base)
        return self.file(version.artifact.digest)

    def file(self, digest: str) -> Path:
        """The local file of registered bytes, read only. One that was not touched since is not read again.

        Raises:
            IntegrityError: the bytes are gone or are not what was registered; the remedy is the pull to repeat.
        """
        try:
            path = self.blobs.local(digest)
            state = path.stat()
            seen = _Seen(state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
            if self._seen.get(digest) != seen:
                self.blobs.verify(digest)
                self._seen[digest] = seen
        except (NotFound, FileNotFoundError) as error:
            raise self._unusable(digest, "gone") from error
        except IntegrityError as error:
            raise self._unusable(digest, "damaged") from error
        return path

    def _unusable(self, digest: str, state: str) -> IntegrityError:
        found = self._select(sa.select(versions).where(versions.c.digest == digest).limit(1))
        owner = f"The file of {found[0].ref}" if found else "A model's file"
        again = f"{found[0].origin} --name {found[0].name}" if found else "SOURCE"
        return IntegrityError(f"{owner} is {state} ({digest}).", remedy=f"Pull it again: tandem models pull {again}")

    def _insert(self, version: Version) -> bool:
        """Whether the version is in now; it is not where somebody took its number or added the same bytes."""
        try:
            self._db.run_sync(lambda connection: connection.execute(versions.insert(), _row(version)))
        except sa.exc.IntegrityError:
            return False
        return True

    def _revived(self, name: str, digest: str) -> Version | None:
        """The version with these bytes that was removed, back again."""
        mine = sa.and_(versions.c.name == name, versions.c.digest == digest)
        self._db.run_sync(
            lambda connection: connection.execute(sa.update(versions).where(mine).values(removed_at=None))
        )
        return self.find(name, digest)

    def _last_number(self, name: str) -> int:
        query = sa.select(sa.func.max(versions.c.number)).where(versions.c.name == name)
        return self._db.run_sync(lambda connection: connection.scalar(query)) or 0

    def _select(self, query: sa.Select[Any]) -> list[Version]:
        rows = self._db.run_sync(lambda connection: connection.execute(query).mappings().all())
        return [_version(row) for row in rows]


def check_name(name: str) -> str:
    """The name, if it may be one.

    Raises:
        InvalidRequest: it has other characters than letters, digits, dot, dash and underscore, or more than 64.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is not a name.",
            remedy="Use up to 64 letters, digits, dots, dashes and underscores.",
            param="name",
        )
    return name


def _split(ref: str) -> tuple[str, int | None]:
    name, at, number = ref.partition("@")
    if at and not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise InvalidRequest(
            f"{ref[:80]!r} is not a reference to a version.", remedy="Write it like starter@1.", param="model"
        )
    return name, int(number) if at else None


def _present() -> sa.Select[Any]:
    """All versions that were not removed."""
    return sa.select(versions).where(versions.c.removed_at.is_(None))


def _row(version: Version) -> dict[str, object]:
    return {
        "name": version.name,
        "number": version.number,
        "task": version.task.value,
        "digest": version.artifact.digest,
        "size": version.artifact.size,
        "format": version.artifact.format,
        "origin": version.origin,
        "facts": dict(version.facts),
        "created_at": now(),
        "base": version.artifact.base,
    }


def _version(row: Mapping[Any, Any]) -> Version:
    return Version(
        name=row["name"],
        number=row["number"],
        task=Task(row["task"]),
        artifact=Artifact(digest=row["digest"], size=row["size"], format=row["format"], base=row["base"]),
        origin=row["origin"],
        facts=row["facts"],
    )
