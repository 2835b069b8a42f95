"""/api/v1/deployments: the names that clients call."""

import asyncio
from dataclasses import asdict

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import Principal
from tandem.api.edge import json_body, page, page_limit
from tandem.api.platform import Platform
from tandem.flows import deploy_version
from tandem.serve import Deployment, DeployOptions

_DEFAULTS = DeployOptions()


class _Options(msgspec.Struct, forbid_unknown_fields=True):
    context_tokens: int = _DEFAULTS.context_tokens
    parallel: int = _DEFAULTS.parallel
    threads: int = _DEFAULTS.threads
    replicas: int = _DEFAULTS.replicas


class _Binding(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    engine: str = "llamacpp"
    options: _Options = msgspec.field(default_factory=_Options)


async def list_deployments(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A page of deployments in the order of their names."""
    limit = page_limit(request)
    after = request.query_params.get("after", "")
    found = await asyncio.to_thread(platform.deployments.deployments, limit=limit, after=after)
    return page([_fields(deployment) for deployment in found], key=lambda row: str(row["name"]), limit=limit)


async def get_deployment(platform: Platform, _principal: Principal, request: Request) -> Response:
    """One deployment."""
    found = await asyncio.to_thread(platform.deployments.get, request.path_params["name"])
    return JSONResponse(_fields(found))


async def put_deployment(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Bind a name to a version: `{"model": "starter@1", "engine": "llamacpp", "options": {...}}`."""
    wanted = await json_body(request, _Binding)
    deployment = await asyncio.to_thread(
        deploy_version,
        platform.registry,
        platform.deployments,
        request.path_params["name"],
        ref=wanted.model,
        engine=wanted.engine,
        options=DeployOptions(**msgspec.structs.asdict(wanted.options)),
    )
    platform.poke()
    return JSONResponse(_fields(deployment))


async def delete_deployment(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Take a name away from clients."""
    await asyncio.to_thread(platform.deployments.remove, request.path_params["name"])
    platform.poke()
    return Response(status_code=204)


def _fields(deployment: Deployment) -> dict[str, object]:
    return {**asdict(deployment), "state": deployment.state}
