"""/api/v1/versions: what the registry has."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import Principal
from tandem.api.edge import page, page_limit
from tandem.api.platform import Platform
from tandem.spec import Version


async def list_versions(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A page of versions."""
    limit = page_limit(request)
    after = request.query_params.get("after")
    found = await asyncio.to_thread(platform.registry.versions, limit=limit, after=after)
    return page([_fields(version) for version in found], key=lambda row: str(row["ref"]), limit=limit)


async def get_version(platform: Platform, _principal: Principal, request: Request) -> Response:
    """The version that a reference (`starter`, `starter@2`) means now."""
    version = await asyncio.to_thread(platform.registry.resolve, request.path_params["ref"])
    return JSONResponse(_fields(version))


def _fields(version: Version) -> dict[str, object]:
    return {
        "ref": version.ref,
        "name": version.name,
        "number": version.number,
        "task": version.task,
        "digest": version.artifact.digest,
        "size": version.artifact.size,
        "format": version.artifact.format,
        "origin": version.origin,
        "facts": dict(version.facts),
    }
