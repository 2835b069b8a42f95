"""/api/v1/versions, /runs, /datasets and /lineage: what the registry has, and what came from what."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import Principal
from tandem.api.edge import page, page_limit
from tandem.api.platform import Platform
from tandem.flows import lineage, model_card, remove_version
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.registry import Kind
from tandem.spec import Task, Version


class VersionAnswer(TypedDict):
    """A version of a model. `facts` is what its file, its source and its run say of it.

    `base` is the digest of the model that an adapter goes with.
    """

    ref: str
    name: str
    number: int
    task: Task
    digest: str
    size: int
    format: str
    base: str
    origin: str
    facts: Mapping[str, object]


class NodeAnswer(TypedDict):
    """One thing in a lineage; a `missing` one is not here any more."""

    key: str
    kind: Kind
    id: str
    title: str
    missing: bool
    facts: Mapping[str, object]


class EdgeAnswer(TypedDict):
    """`target` came from `source`, both by their keys; `word` says how."""

    source: str
    target: str
    word: str


class LineageAnswer(TypedDict):
    """What `start` came from and what came of it; `truncated` says that there is more."""

    start: str
    nodes: list[NodeAnswer]
    edges: list[EdgeAnswer]
    truncated: bool


_CARDS: Mapping[str, str] = {"markdown": "text/markdown", "html": "text/html"}
# A card holds texts of recipes and files, all escaped; and should that fail, nothing of it runs.
_INERT: Mapping[str, str] = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


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


async def delete_version(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Take a version out of the registry, if nothing refers to it."""
    await asyncio.to_thread(remove_version, request.path_params["ref"], house=platform)
    return Response(status_code=204)


async def get_card(platform: Platform, _principal: Principal, request: Request) -> Response:
    """The model card of a version, as Markdown, or as a page with `format=html`."""
    wanted = request.query_params.get("format", "markdown")
    if wanted not in _CARDS:
        raise InvalidRequest(f"format is {wanted[:80]!r}.", remedy=f"Use {' or '.join(_CARDS)}.", param="format")
    card = await asyncio.to_thread(model_card, request.path_params["ref"], house=platform)
    text = card.html() if wanted == "html" else card.markdown()
    return Response(text, media_type=_CARDS[wanted], headers=_INERT)


async def get_lineage(platform: Platform, principal: Principal, request: Request) -> Response:
    """What something came from and what came of it: a response's id, a version, a run, or a digest."""
    await platform.ledger.flush()
    found = await asyncio.to_thread(lineage, request.path_params["id"], house=platform, principal=principal)
    return JSONResponse(found.record())


async def list_runs(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A page of runs, the newest first."""
    limit, after = page_limit(request), request.query_params.get("after")
    found = await asyncio.to_thread(platform.runs.newest, limit=limit, after=after)
    return page([msgspec.to_builtins(run) for run in found], key=lambda row: str(row["run_id"]), limit=limit)


async def get_run(platform: Platform, _principal: Principal, request: Request) -> Response:
    """One run, as its log tells it now."""
    run = await asyncio.to_thread(platform.runs.read, request.path_params["id"])
    return JSONResponse(msgspec.to_builtins(run))


async def list_datasets(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A page of the datasets that runs have used, in the order of their digests."""
    limit, after = page_limit(request), request.query_params.get("after", "")
    found = await asyncio.to_thread(platform.datasets.datasets, limit=limit, after=after)
    return page([asdict(one) for one in found], key=lambda row: str(row["digest"]), limit=limit)


async def get_dataset(platform: Platform, _principal: Principal, request: Request) -> Response:
    """One dataset: where it came from, under which licence, and what was counted in it."""
    digest = request.path_params["digest"]
    found = await asyncio.to_thread(platform.datasets.find, digest)
    if found is None:
        raise NotFound(f"There is no dataset {digest[:80]!r}.", remedy="GET /api/v1/datasets lists them.")
    return JSONResponse(asdict(found))


def _fields(version: Version) -> VersionAnswer:
    return {
        "ref": version.ref,
        "name": version.name,
        "number": version.number,
        "task": version.task,
        "digest": version.artifact.digest,
        "size": version.artifact.size,
        "format": version.artifact.format,
        "base": version.artifact.base,
        "origin": version.origin,
        "facts": dict(version.facts),
    }
