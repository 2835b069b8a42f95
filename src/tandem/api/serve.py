"""/api/v1/deployments and /api/v1/rollouts: the names that clients call, and the versions that come to them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import Principal, Role
from tandem.api.edge import json_body, page, page_limit
from tandem.api.platform import Platform
from tandem.flows import deploy_version, promote, roll_back, start_rollout
from tandem.kit.errors import NotFound
from tandem.serve import Deployment, DeployOptions, Mode, Plan, Rollout, check_engine, rollout_facts

_DEFAULTS = DeployOptions()
_PLAN = Plan()


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """How a deployment runs: tokens of one request, requests at once, threads, and engines that share the load."""

    context_tokens: int = _DEFAULTS.context_tokens
    parallel: int = _DEFAULTS.parallel
    threads: int = _DEFAULTS.threads
    replicas: int = _DEFAULTS.replicas


class NewBinding(msgspec.Struct, forbid_unknown_fields=True):
    """What a name shall mean. With `development` it needs no release, and only the caller's key sees it."""

    model: str
    engine: str = "llamacpp"
    options: Options = msgspec.field(default_factory=Options)
    development: bool = False


class NewRollout(msgspec.Struct, forbid_unknown_fields=True):
    """A version to put beside the one that serves: by shares of the requests, or in its shadow."""

    model: str
    mode: Mode = _PLAN.mode
    steps: tuple[int, ...] = _PLAN.steps
    hold_s: float = _PLAN.hold_s
    least: int = _PLAN.least
    sticky: bool = _PLAN.sticky
    alpha: float = _PLAN.alpha
    slower: float = _PLAN.slower


async def list_deployments(platform: Platform, principal: Principal, request: Request) -> Response:
    """A page of deployments in the order of their names."""
    limit = page_limit(request)
    after = request.query_params.get("after", "")
    found = await asyncio.to_thread(platform.deployments.deployments, limit=limit, after=after, key=_eyes(principal))
    return page([_fields(deployment) for deployment in found], key=lambda row: str(row["name"]), limit=limit)


async def get_deployment(platform: Platform, principal: Principal, request: Request) -> Response:
    """One deployment."""
    found = await asyncio.to_thread(platform.deployments.get, request.path_params["name"], key=_eyes(principal))
    return JSONResponse(_fields(found))


async def put_deployment(platform: Platform, principal: Principal, request: Request) -> Response:
    """Bind a name to a version: `{"model": "starter@1", "engine": "llamacpp", "options": {...}}`."""
    wanted = await json_body(request, NewBinding)
    check_engine(wanted.engine, platform.engines)
    deployment = await asyncio.to_thread(
        deploy_version,
        platform,
        request.path_params["name"],
        ref=wanted.model,
        engine=wanted.engine,
        options=DeployOptions(**msgspec.structs.asdict(wanted.options)),
        owner=principal.key_id if wanted.development else "",
    )
    platform.poke()
    return JSONResponse(_fields(deployment))


async def delete_deployment(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Take a name away from clients."""
    await asyncio.to_thread(platform.deployments.remove, request.path_params["name"])
    platform.poke()
    return Response(status_code=204)


async def roll_back_deployment(platform: Platform, _principal: Principal, request: Request) -> Response:
    """End the deployment's rollout; where none is under way, bind it to its version before."""
    done = await asyncio.to_thread(roll_back, platform, request.path_params["name"])
    platform.poke()
    return JSONResponse(_fields(done.deployment))


async def list_rollouts(platform: Platform, principal: Principal, request: Request) -> Response:
    """A page of rollouts, the newest first; `deployment` asks for those of one deployment."""
    limit, asked = page_limit(request), request.query_params
    found = await asyncio.to_thread(
        platform.rollouts.rollouts,
        asked.get("deployment"),
        limit=limit,
        after=asked.get("after", ""),
        key=_eyes(principal),
    )
    return page([_facts(rollout) for rollout in found], key=lambda row: str(row["id"]), limit=limit)


async def start_a_rollout(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Begin a rollout: `{"model": "coder@4", "steps": [5, 25, 50, 100], "hold_s": 60, "least": 50}`."""
    wanted = await json_body(request, NewRollout)
    settings = msgspec.structs.asdict(wanted)
    ref, name = settings.pop("model"), request.path_params["name"]
    rollout = await asyncio.to_thread(start_rollout, platform, name, ref=ref, plan=Plan(**settings))
    platform.poke()
    return JSONResponse(_facts(rollout), status_code=201)


async def get_rollout(platform: Platform, principal: Principal, request: Request) -> Response:
    """One rollout with the numbers of both sides."""
    found = await asyncio.to_thread(platform.rollouts.get, request.path_params["id"], key=_eyes(principal))
    return JSONResponse(_facts(found))


async def act_on_rollout(platform: Platform, _principal: Principal, request: Request) -> Response:
    """`pause`, `resume`, `promote` or `rollback` a rollout that is under way."""
    action, rollout_id = request.path_params["action"], request.path_params["id"]
    rollouts = platform.rollouts
    actions: Mapping[str, Callable[[str], object]] = {
        "pause": rollouts.pause,
        "resume": rollouts.resume,
        "promote": partial(promote, platform),
        "rollback": lambda found: rollouts.roll_back(rollouts.of(found), "Rolled back by hand."),
    }
    if action not in actions:
        raise NotFound(f"A rollout has no {action[:80]!r}.", remedy=f"It has {', '.join(actions)}.")
    await asyncio.to_thread(actions[action], rollout_id)
    platform.poke()
    return JSONResponse(_facts(await asyncio.to_thread(rollouts.get, rollout_id)))


def _eyes(principal: Principal) -> str | None:
    """Whose development deployments the caller sees: its own, and all if it is an administrator."""
    return None if principal.role is Role.ADMIN else principal.key_id


def _fields(deployment: Deployment) -> dict[str, object]:
    return {**asdict(deployment), "state": deployment.state, "development": deployment.owner != ""}


def _facts(rollout: Rollout) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(rollout_facts(rollout))
    return facts
