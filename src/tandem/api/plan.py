"""/api/v1/plan: questions to the planner, answered by arithmetic, and what it rests on and has learnt."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem import flows
from tandem.accounts import Principal
from tandem.api.edge import json_body
from tandem.api.platform import Platform
from tandem.flows.planning import (
    FailuresAsk,
    FundingAsk,
    LayoutAsk,
    QuoteAsk,
    RunAsk,
    ServingAsk,
    SimulationAsk,
    SystemsAsk,
    answer_failures,
    answer_layout,
    answer_serving,
    answer_simulation,
    answer_systems,
    pinned,
    rules_of,
    size_of_version,
)
from tandem.plan import Accelerator, Host, Price
from tandem.plan.catalogue import SystemRow
from tandem.plan.plain import plain
from tandem.plan.workshop import Factor

T = TypeVar("T")


class CatalogueAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that plans rest on, by their names."""

    accelerators: dict[str, Accelerator]
    hosts: dict[str, Host]
    prices: dict[str, Price]
    systems: dict[str, SystemRow]
    allowed: tuple[str, ...]
    """Systems that the charter lets train."""


class FactorsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How far predictions were from own runs, by system."""

    factors: dict[str, Factor]


async def plan_quote(platform: Platform, _principal: Principal, request: Request) -> Response:
    """From money, devices for a time, or a loss to a model, its tokens, a layout, days and dollars."""
    ask = await json_body(request, QuoteAsk)
    # The story waits for a probe and in between reckons for seconds, so all of it goes to the thread.
    found = await _reckoned(lambda: asyncio.run(flows.quoted(ask, house=platform)))
    return JSONResponse(plain(found.quote))


async def plan_layout(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Memory of a device and time of a step by layout: the best, the next ones and why they lose."""
    ask = await json_body(request, LayoutAsk)

    def work() -> object:
        found = msgspec.structs.replace(ask, recipe=pinned(ask.recipe, platform)) if ask.recipe else ask
        return answer_layout(found, flows.ground_of(platform), file=platform.registry.file)

    return JSONResponse(plain(await _reckoned(work)))


async def plan_failures(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Interruptions of a job, the best time between saves, goodput, wall time with intervals, spare hosts."""
    ask = await json_body(request, FailuresAsk)
    return JSONResponse(plain(await _reckoned(lambda: answer_failures(ask, flows.ground_of(platform)))))


async def plan_serving(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Replicas, hosts, latency and cost a million tokens for traffic, and when another host is due."""
    ask = await json_body(request, ServingAsk)

    def work() -> object:
        size = size_of_version(platform, ask.version, context=ask.context) if ask.version else None
        return answer_serving(ask, flows.ground_of(platform), model=size)

    return JSONResponse(plain(await _reckoned(work)))


async def plan_systems(platform: Platform, _principal: Principal, request: Request) -> Response:
    """What each of several systems makes of one ask, which should have it, and what a second tranche buys."""
    ask = await json_body(request, SystemsAsk)

    def work() -> object:
        return answer_systems(ask, flows.ground_of(platform), rules=rules_of(platform.charters, platform.runs))

    return JSONResponse(plain(await _reckoned(work)))


async def plan_funding(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Where the money stands: tranches, spending against plan, revenue by a price list, returns up to the caps."""
    ask = await json_body(request, FundingAsk)
    return JSONResponse(plain(await _reckoned(partial(flows.funding_of, ask, house=platform))))


async def plan_simulation(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Fleets of thousands of devices over weeks under several designs: goodput by size, and where each breaks."""
    ask = await json_body(request, SimulationAsk)
    return JSONResponse(plain(await _reckoned(lambda: answer_simulation(ask, flows.ground_of(platform)))))


async def plan_run(platform: Platform, _principal: Principal, request: Request) -> Response:
    """How long a recipe will take, stage by stage, by the measured speed of its system and own runs."""
    ask = await json_body(request, RunAsk)
    return JSONResponse(plain(await flows.predicted(ask.recipe, ask.placement, house=platform)))


async def plan_against(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A finished run next to what is predicted without it."""
    found = await _reckoned(partial(flows.against, request.path_params["id"], house=platform))
    return JSONResponse(plain(found))


async def plan_catalogue(platform: Platform, _principal: Principal, _request: Request) -> Response:
    """Accelerators, hosts, prices and systems that plans rest on, with date and source."""
    ground = await asyncio.to_thread(flows.ground_of, platform)
    return JSONResponse({**plain(ground.catalogue), "allowed": list(ground.allowed)})


async def plan_factors(platform: Platform, _principal: Principal, _request: Request) -> Response:
    """How far predictions were from own runs, by system: what plans are multiplied with."""
    return JSONResponse(plain({"factors": dict(await asyncio.to_thread(flows.calibration, platform))}))


async def _reckoned(work: Callable[[], T]) -> T:
    """Do arithmetic on the one thread that there is for it: plans wait for each other, and nothing waits for plans."""
    return await asyncio.get_running_loop().run_in_executor(_thread(), work)


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="plan")
