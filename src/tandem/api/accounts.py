"""/api/v1/keys and /api/v1/usage: who may call, and what they used."""

import asyncio
from dataclasses import asdict
from datetime import datetime, timedelta

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import GroupBy, Key, Limits, Principal, Role, UsageEvent, events, summarise
from tandem.api.edge import json_body, page, page_limit
from tandem.api.platform import Platform
from tandem.kit import clock
from tandem.kit.errors import InvalidRequest

_DEFAULT_SPAN = timedelta(days=30)


class _Limits(msgspec.Struct, forbid_unknown_fields=True):
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


class _NewKey(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    role: Role = Role.USER
    limits: _Limits = msgspec.field(default_factory=_Limits)


async def list_keys(platform: Platform, principal: Principal, request: Request) -> Response:
    """A page of keys, oldest first; never their secrets."""
    limit = page_limit(request)
    after = request.query_params.get("after")
    keys = await asyncio.to_thread(platform.keyring.keys, principal, limit=limit, after=after)
    return page([_fields(key) for key in keys], key=lambda row: str(row["id"]), limit=limit)


async def create_key(platform: Platform, principal: Principal, request: Request) -> Response:
    """Make a key in the caller's tenant; the answer is the one place where its secret is shown."""
    wanted = await json_body(request, _NewKey)
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
    """Sums of the ledger over a span of time, everything settled until now included."""
    since, until = _span(request)
    by = request.query_params.get("by", "none")
    if by not in set(GroupBy):
        raise InvalidRequest(f"by is {by!r}.", remedy=f"Use {', '.join(GroupBy)}.", param="by")
    await platform.ledger.flush()
    rows = await asyncio.to_thread(summarise, platform.db, principal, since=since, until=until, group_by=GroupBy(by))
    body = {"since": since.isoformat(), "until": until.isoformat(), "data": [asdict(row) for row in rows]}
    return Response(msgspec.json.encode(body), media_type="application/json")


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
            f"{name} is {text!r}, which is no time.", remedy="Use ISO 8601: 2026-01-31T00:00:00Z.", param=name
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=default.tzinfo)


def _fields(row: Key | UsageEvent) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(row)
    return fields
