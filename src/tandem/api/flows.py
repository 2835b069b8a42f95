"""/api/v1/flows: durable stories, asked for and looked at; whoever is the executor goes on with them."""

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import Principal
from tandem.api.edge import json_body, page, page_limit
from tandem.api.platform import Platform
from tandem.flows import Flow, FlowState, Order, cancel_flow, parse_order
from tandem.kit.errors import Forbidden, InvalidRequest
from tandem.serve import check_engine

_LOCAL = ("file:", "folder:")


class NewFlow(msgspec.Struct, forbid_unknown_fields=True):
    """A story (train, evaluate, release, deploy or ship) and its arguments: recipe, model, name and what they need."""

    story: str
    arguments: dict[str, Any] = {}


async def list_flows(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A page of flows, the newest first; `state` asks for some of them."""
    limit, asked = page_limit(request), request.query_params
    found = await asyncio.to_thread(
        platform.flows.page, limit=limit, after=asked.get("after"), state=_state(asked.get("state"))
    )
    return page([_fields(one) for one in found], key=lambda row: str(row["id"]), limit=limit)


async def get_flow(platform: Platform, _principal: Principal, request: Request) -> Response:
    """One flow: its steps with their times, where it is, why it waits, and what it has made."""
    return JSONResponse(_fields(await asyncio.to_thread(platform.flows.get, request.path_params["id"])))


async def start_flow(platform: Platform, principal: Principal, request: Request) -> Response:
    """Begin a flow: `{"story": "ship", "arguments": {"model": "coder@3", "name": "code"}}`."""
    wanted = await json_body(request, NewFlow)
    order = parse_order(wanted.arguments)
    _refuse_local_files(order)
    if order.name:
        check_engine(order.engine, platform.engines)
    flow = await asyncio.to_thread(platform.flows.start, wanted.story, order, by=principal.name)
    return JSONResponse(_fields(flow), status_code=201)


async def cancel_a_flow(platform: Platform, _principal: Principal, request: Request) -> Response:
    """End a flow: its run is paused, saved, and its rollout goes back."""
    flow = await asyncio.to_thread(cancel_flow, platform, request.path_params["id"])
    platform.poke()
    return JSONResponse(_fields(flow))


async def retry_a_flow(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Go on with a flow that failed, at the step that did, or with one that was cancelled."""
    return JSONResponse(_fields(await asyncio.to_thread(platform.flows.retry, request.path_params["id"])))


def _refuse_local_files(order: Order) -> None:
    """Raises Forbidden where the data lie in files of this machine: those are not a client's to name."""
    for data in order.recipe.data if order.recipe is not None else ():
        if data.source.startswith(_LOCAL):
            raise Forbidden(
                f"A client may not name files of the server, such as {data.source[:80]}.",
                remedy="Start this flow on the server: `tandem flows start`.",
            )


def _state(text: str | None) -> FlowState | None:
    try:
        return FlowState(text) if text is not None else None
    except ValueError as error:
        known = ", ".join(FlowState)
        raise InvalidRequest(f"state is {str(text)[:80]!r}.", remedy=f"Use {known}.", param="state") from error


def _fields(flow: Flow) -> dict[str, Any]:
    return asdict(flow)
