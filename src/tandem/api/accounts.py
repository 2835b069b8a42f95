"""/api/v1/keys and /api/v1/usage: who may call, and what they used."""

import asyncio
from datetime import datetime, timedelta
from typing import TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import GroupBy, Key, Limits, Page, Principal, Role, UsageEvent, UsageRow, events, summarise
from tandem.api.edge import json_body, page, page_limit
from tandem.api.platform import Platform
from tandem.kit import clock
from tandem.kit.errors import InvalidRequest

_DEFAULT_SPAN = timedelta(days=30)


class KeyLimits(msgspec.Struct, forbid_unknown_fields=True):
    """How much the key may use at once and per minute; null is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key to make."""

    name: str
    role: Role = Role.USER
    limits: KeyLimits = msgspec.field(default_factory=KeyLimits)


class UsageAnswer(TypedDict):
    """Sums of the ledger over the requests that began in `since <= time < until`."""

    since: str
    until: str
    data: list[UsageRow]
    next: str | None


async def list_keys(platform: Platform, principal: Principal, request: Request) -> Response:
    """A page of keys, oldest first; never their secrets."""
    limit = page_limit(request)
    after = request.query_params.get("after")
    keys = await asyncio.to_thread(platform.keyring.keys, principal, limit=limit, after=after)
    return page([_fields(key) for key in keys], key=lambda row: str(row["id"]), limit=limit)


async def get_key(platform: Platform, principal: Principal, request: Request) -> Response:
    """An active key by name, or any key by id, of those in the caller's tenant; never its secret."""
    key = await asyncio.to_thread(platform.keyring.get, request.path_params["name"], principal=principal)
    return JSONResponse(_fields(key))


async def create_key(platform: Platform, principal: Principal, request: Request) -> Response:
    """Make a key in the caller's tenant; the answer is the one place where its secret is shown."""
    wanted = await json_body(request, NewKey)
    limits = Limits(**msgspec.structs.asdict(wanted.limits))
    key, secret = await asyncio.to_thread(
        platform.keyring.create, wanted.name, role=wanted.role, limits=limits, tenant=principal.tenant
    )
    return JSONResponse({**_fields(key), "key": secret}, status_code=201)


async def revoke_key(platform: Platform, principal: Principal, request: Request) -> Response:
    """Revoke a key of the caller's tenant."""
    name = request.path_params["name"]
    key = await asyncio.to_thread(platform.keyring.revoke, name, principal=principal)
    return JSONResponse(_fields(key))


async def usage(platform: Platform, principal: Principal, request: Request) -> Response:
    """A page of sums of the ledger over a span of time, everything settled until now included."""
    limit, since, until = page_limit(request), *_span(request)
    by, after = request.query_params.get("by", "none"), request.query_params.get("after")
    if by not in set(GroupBy):
        raise InvalidRequest(f"by is {by[:80]!r}.", remedy=f"Use {', '.join(GroupBy)}.", param="by")
    await platform.ledger.flush()
    rows = await asyncio.to_thread(
        summarise, platform.db, principal, since=since, until=until, group_by=GroupBy(by), page=Page(limit, after)
    )
    body: UsageAnswer = {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "data": rows,
        "next": rows[-1].id if len(rows) == limit else None,
    }
    return JSONResponse(msgspec.to_builtins(body))


async def usage_events(platform: Platform, principal: Principal, request: Request) -> Response:
    """A page of single ledger entries, newest first."""
    limit = page_limit(request)
    await platform.ledger.flush()
    after = request.query_params.get("after")
    rows = await asyncio.to_thread(events, platform.db, principal, limit=limit, after=after)
    return page([_fields(row) for row in rows], key=lambda row: str(row["id"]), limit=limit)


def _span(request: Request) -> tuple[datetime, datetime]:
    until = _time(request, "until", clock.now())
    since = _time(request, "since", until - _DEFAULT_SPAN)
    if since > until:
        raise InvalidRequest(f"since ({since.isoformat()}) is after until ({until.isoformat()}).", param="since")
    return since, until


def _time(request: Request, name: str, default: datetime) -> datetime:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{name} is {text[:80]!r}, which is no time.", remedy="Use ISO 8601: 2026-01-31T00:00:00Z.", param=name
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=default.tzinfo)


def _fields(row: Key | UsageEvent) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(row)
    return fields
