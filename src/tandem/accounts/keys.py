"""Keys: made once, stored as digests, believed for a moment, and still working while the database is down."""

import asyncio
import difflib
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from tandem.accounts import tables
from tandem.accounts.principals import NO_LIMITS, Limits, Principal, Role
from tandem.kit import clock, ids
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, InvalidRequest, NotFound, Unauthenticated, Unavailable

MAX_TOKEN_CHARS = 512
"""Longer tokens are refused before they are hashed; ours have 46, an Entra token never comes here."""
MAX_NAME_CHARS = 100

# About 1 kB each: 10 MB when every one of 10,000 keys is in use.
_MAX_KNOWN = 10_000
_MAX_UNKNOWN = 1024
# A client that hammers with a wrong key costs one query a second.
_UNKNOWN_S = 1.0
# How long a caller waits for the database before its key is judged without it.
_PATIENCE_S = 2.0
# While the database is down it is asked once a second and not once a request.
_RETRY_S = 1.0
_NEAR_NAMES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as people see it; its secret is shown once, at its making, and is nowhere."""

    id: str
    tenant: str
    name: str
    prefix: str
    role: Role
    limits: Limits
    created_at: datetime
    revoked_at: datetime | None

    @property
    def is_active(self) -> bool:
        """Whether it has not been revoked."""
        return self.revoked_at is None


class Issued(NamedTuple):
    """A new key, and its secret for the one who asked for it."""

    key: Key
    secret: str


class _Known(NamedTuple):
    principal: Principal
    checked_s: float


class Keyring:
    """Makes, lists and revokes keys, and says whose key a request carries.

    A key is believed for `cache_s` seconds after the database confirmed it, so a revoked one dies within that time.
    While the database is down, a key that it confirmed less than `grace_s` seconds ago keeps working.

    `cached` and `authenticate` belong to one event loop; the rest may be called from any thread.
    """

    def __init__(self, db: Database, *, cache_s: float, grace_s: float) -> None:
        self._db = db
        self._cache_s = cache_s
        self._grace_s = grace_s
        self._known: dict[bytes, _Known] = {}  # the oldest check first
        self._unknown: dict[bytes, float] = {}  # digest to the second until which it stays refused
        self._lookups: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._failing = False
        self._asleep_until_s = 0.0

    def cached(self, token: str) -> Principal | None:
        """Whose key this is, if that was confirmed less than `cache_s` seconds ago; never waits."""
        if len(token) > MAX_TOKEN_CHARS:
            return None
        known = self._known.get(_digest(token))
        if known is None or clock.monotonic_seconds() - known.checked_s >= self._cache_s:
            return None
        return known.principal

    async def authenticate(self, token: str) -> Principal:
        """Whose key this is, by the database where the cache is not fresh.

        Raises:
            Unauthenticated: there is no such key, or it was revoked.
            Unavailable: the database is down and this key was not confirmed within the grace time.
        """
        if (principal := self.cached(token)) is not None:
            return principal
        if not token:
            raise Unauthenticated("No API key was provided.", remedy="Send it as `Authorization: Bearer KEY`.")
        if len(token) > MAX_TOKEN_CHARS:
            raise _incorrect(token)
        digest = _digest(token)
        if self._unknown.get(digest, 0.0) > clock.monotonic_seconds():
            raise _incorrect(token)
        try:
            principal = await self._confirmed(digest)
        except Unavailable as error:
            principal = self._within_grace(digest)
            if principal is None:
                raise Unavailable(
                    "The key cannot be checked: the database does not answer.",
                    remedy="Try again in a moment; the key may well be right.",
                ) from error
        if principal is None:
            raise _incorrect(token)
        return principal

    def create(
        self, name: str, *, role: Role = Role.USER, limits: Limits = NO_LIMITS, tenant: str = "default"
    ) -> Issued:
        """Make a key. Its secret is in the answer and nowhere else.

        Raises:
            InvalidRequest: the name is empty, too long, or has characters that cannot be printed.
            NotFound: there is no such tenant.
            Conflict: an active key of this tenant has the name.
        """
        if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise InvalidRequest(
                f"{name[:MAX_NAME_CHARS]!r} is no name for a key.",
                remedy=f"Use 1 to {MAX_NAME_CHARS} printable characters.",
                param="name",
            )
        secret = ids.new_secret("tk")
        key = Key(
            id=ids.new_id("key"),
            tenant=tenant,
            name=name,
            prefix=f"{secret[:7]}…",
            role=role,
            limits=limits,
            created_at=tables.moment(clock.unix_milliseconds()),
            revoked_at=None,
        )
        try:
            self._db.run_sync(partial(_insert, key=key, digest=ids.sha256_hex(secret)))
        except IntegrityError as error:
            raise Conflict(
                f"There is an active key named {name!r} already.",
                remedy=f"Choose another name, or `tandem keys revoke {name}` first.",
            ) from error
        return Issued(key, secret)

    def keys(self, principal: Principal | None = None, *, limit: int = 100, after: str | None = None) -> list[Key]:
        """Keys that the caller may see, oldest first to the millisecond, `limit` at most, from behind the id `after`.

        The last id of a page is the `after` of the next; the cost of a page does not grow with its distance.
        """
        query = tables.keys_readable_by(principal).order_by(tables.keys.c.id).limit(limit)
        if after is not None:
            query = query.where(tables.keys.c.id > after)
        return [_key(row) for row in self._db.run_sync(lambda connection: connection.execute(query).all())]

    def get(self, name_or_id: str, *, principal: Principal | None = None) -> Key:
        """An active key by name, or any key by id.

        Raises:
            NotFound, Conflict: as `revoke`.
        """
        return _key(self._db.run_sync(partial(_find, name_or_id=name_or_id, principal=principal)))

    def revoke(self, name_or_id: str, *, principal: Principal | None = None) -> Key:
        """Revoke an active key by name, or any key by id; a revoked one stays as it is.

        Raises:
            NotFound: no active key has this name and no key this id, among those that the caller may see.
            Conflict: keys of several tenants have this name.
        """
        row, digest = self._db.run_sync(partial(_revoke, name_or_id=name_or_id, principal=principal))
        self._known.pop(digest, None)
        return _key(row)

    async def _confirmed(self, digest: bytes) -> Principal | None:
        """What the database says; requests with the same key at the same time share one query."""
        now_s = clock.monotonic_seconds()
        if self._failing:
            if now_s < self._asleep_until_s:
                raise Unavailable("The database did not answer a moment ago.")
            self._asleep_until_s = now_s + _RETRY_S
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest))
            lookup.add_done_callback(partial(self._looked_up, digest))
        try:
            # Shielded: a client that leaves must not take down the query that others wait for.
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.shield(lookup)
        except TimeoutError as error:
            self._fail()
            raise Unavailable(f"The database did not answer within {_PATIENCE_S:g} s.") from error

    async def _look_up(self, digest: bytes) -> Principal | None:
        asked_s = clock.monotonic_seconds()
        query = sa.select(tables.keys).where(tables.keys.c.digest == digest.hex(), tables.keys.c.revoked_at.is_(None))
        try:
            row = await self._db.run(lambda connection: connection.execute(query).one_or_none())
        except Unavailable:
            self._fail()
            raise
        except SQLAlchemyError as error:  # a damaged database says nothing about the key either
            self._fail()
            raise Unavailable(f"The database failed: {error}.") from error
        self._failing = False
        self._known.pop(digest, None)
        if row is None:
            self._unknown[digest] = clock.monotonic_seconds() + _UNKNOWN_S
            _trim(self._unknown, _MAX_UNKNOWN)
            return None
        # The moment of asking and not of the answer: a revocation in between is noticed in time.
        known = self._known[digest] = _Known(_principal(row), asked_s)
        _trim(self._known, _MAX_KNOWN)
        return known.principal

    def _looked_up(self, digest: bytes, lookup: asyncio.Task[Principal | None]) -> None:
        del self._lookups[digest]
        if not lookup.cancelled():
            lookup.exception()  # all who asked may have left; then nobody else would take it

    def _fail(self) -> None:
        self._failing = True
        self._asleep_until_s = clock.monotonic_seconds() + _RETRY_S

    def _within_grace(self, digest: bytes) -> Principal | None:
        known = self._known.get(digest)
        if known is None or clock.monotonic_seconds() - known.checked_s >= self._grace_s:
            return None
        return known.principal


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _trim(cache: dict[bytes, Any], size: int) -> None:
    while len(cache) > size:
        del cache[next(iter(cache))]


def _incorrect(token: str) -> Unauthenticated:
    # Enough to tell which key was sent, too little to use it; a short or odd token shows nothing.
    shown = token[:5] if len(token) >= 20 and token.isascii() and token[:5].isprintable() else ""
    return Unauthenticated(
        f"Incorrect API key provided: {shown}***.", remedy="`tandem keys create --name NAME` makes one."
    )


def _insert(connection: sa.Connection, *, key: Key, digest: str) -> None:
    if connection.execute(sa.select(tables.tenants.c.id).where(tables.tenants.c.id == key.tenant)).first() is None:
        raise NotFound(f"There is no tenant {key.tenant!r}.", remedy="The tenant that always exists is 'default'.")
    connection.execute(
        tables.keys.insert().values(
            id=key.id,
            tenant_id=key.tenant,
            name=key.name,
            digest=digest,
            prefix=key.prefix,
            role=key.role.value,
            created_at=key.created_at,
            **asdict(key.limits),
        )
    )


def _find(connection: sa.Connection, *, name_or_id: str, principal: Principal | None) -> sa.Row[Any]:
    keys = tables.keys.c
    readable = tables.keys_readable_by(principal)
    wanted = sa.or_(keys.id == name_or_id, sa.and_(keys.name == name_or_id, keys.revoked_at.is_(None)))
    rows = connection.execute(readable.where(wanted)).all()
    if not rows:
        raise _no_such_key(connection, readable, name_or_id)
    if len(rows) > 1:
        raise Conflict(
            f"{len(rows)} keys are named {name_or_id!r}.",
            remedy=f"Give the id of one: {', '.join(row.id for row in rows[:5])}.",
        )
    return rows[0]


def _revoke(connection: sa.Connection, *, name_or_id: str, principal: Principal | None) -> tuple[sa.Row[Any], bytes]:
    keys = tables.keys.c
    found = _find(connection, name_or_id=name_or_id, principal=principal)
    connection.execute(
        tables.keys.update().where(keys.id == found.id, keys.revoked_at.is_(None)).values(revoked_at=clock.now())
    )
    row = connection.execute(tables.keys_readable_by(principal).where(keys.id == found.id)).one()
    return row, bytes.fromhex(row.digest)


def _no_such_key(connection: sa.Connection, readable: sa.Select[Any], name: str) -> NotFound:
    active = readable.where(tables.keys.c.revoked_at.is_(None)).order_by(tables.keys.c.id.desc()).limit(_NEAR_NAMES)
    near = difflib.get_close_matches(name, [row.name for row in connection.execute(active)], n=3)
    remedy = f"Did you mean {' or '.join(map(repr, near))}?" if near else "`tandem keys list` shows those there are."
    return NotFound(f"There is no active key {name!r}.", remedy=remedy)


def _limits(row: sa.Row[Any]) -> Limits:
    return Limits(
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        concurrency=row.concurrency,
    )


def _principal(row: sa.Row[Any]) -> Principal:
    return Principal(key_id=row.id, name=row.name, tenant=row.tenant_id, role=Role(row.role), limits=_limits(row))


def _key(row: sa.Row[Any]) -> Key:
    return Key(
        id=row.id,
        tenant=row.tenant_id,
        name=row.name,
        prefix=row.prefix,
        role=Role(row.role),
        limits=_limits(row),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
