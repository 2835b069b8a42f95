"""The URL families: `/v1`, `/openai/deployments/...?api-version=`, `/openai/...?api-version=` and `/openai/v1`."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

import msgspec
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from tandem.accounts import Principal
from tandem.gateway.exchange import Exchange
from tandem.gateway.pipeline import Pipeline
from tandem.gateway.surfaces.channel import Channel, Headers
from tandem.gateway.surfaces.endpoints import (
    CHAT,
    COMPLETION,
    EmbeddingEndpoint,
    Endpoint,
    GenerationEndpoint,
    Limits,
    Surface,
)
from tandem.gateway.surfaces.errors import azure_error, openai_error
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.serve import Route as Deployed
from tandem.serve import State
from tandem.spec import Task

_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?|v1|preview|latest")


class _Route(Route):
    """A route over the path as it was sent, so that `a%2Fb` is one segment and a line end is no end."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette's, with the parameters decoded after the match."""
        if b"%" not in scope["raw_path"]:
            return super().matches(scope)
        match, found = super().matches({**scope, "path": scope["raw_path"].decode("ascii", "replace")})
        if params := found.get("path_params"):
            found["path_params"] = {name: unquote(value) for name, value in params.items()}
        return match, found


class ModelsEndpoint(Endpoint):
    """The deployments as models: the list, or one of them."""

    operation = "models"

    def __init__(
        self, pipeline: Pipeline, surface: Surface, limits: Limits, render: Callable[[Deployed], dict[str, object]]
    ) -> None:
        super().__init__(pipeline, surface, limits)
        self._render = render

    async def run(self, channel: Channel, exchange: Exchange, principal: Principal, _body: bytes) -> None:
        """Answer with what is deployed now, as this key sees it."""
        name = channel.scope["path_params"].get("model")
        if name is None:
            models = [self._render(route) for route in self.pipeline.routes.names(principal.key_id)]
            answer = msgspec.json.encode({"object": "list", "data": models})
        else:
            route = self.pipeline.routes.get(name, principal.key_id)
            exchange.development = route.owner != ""
            answer = msgspec.json.encode(self._render(route))
        await channel.respond(200, answer, self._headers(exchange))


class UnknownEndpoint(Endpoint):
    """Whatever this version does not have: 404 in the shape of the family."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, without reading a body or asking who it is."""
        channel = Channel(scope, receive, send, stall_s=self.limits.stall_s)
        error = NotFound(
            f"Unknown request URL: {scope['method']} {scope['path'][:200]}.",
            remedy="GET / lists what this server answers.",
            code="unknown_url",
        )
        await self._fail(channel, Exchange(self.surface.name, "unknown"), error)


def surface_routes(pipeline: Pipeline, limits: Limits, *, region: str) -> list[BaseRoute]:
    """All routes of all families, the busiest first."""

    def azure_headers(exchange: Exchange) -> Headers:
        headers = [(b"apim-request-id", exchange.id.encode()), (b"x-ms-region", region.encode())]
        # A client can write anything into a path, line ends too.
        if exchange.deployment.isascii() and exchange.deployment.isprintable():
            headers.append((b"x-ms-deployment-name", exchange.deployment[:128].encode()))
        if exchange.client_request_id:
            headers.append((b"x-ms-client-request-id", exchange.client_request_id.encode("latin-1")))
        return headers

    openai = Surface(name="openai", error=openai_error, headers=lambda _exchange: [])
    azure = Surface(name="azure", error=azure_error, headers=azure_headers, check_scope=_need_api_version)
    azure_v1 = Surface(name="azure-v1", error=azure_error, headers=azure_headers)

    def models(surface: Surface, prefix: str, render: Callable[[Deployed], dict[str, object]]) -> list[BaseRoute]:
        endpoint = ModelsEndpoint(pipeline, surface, limits, render)
        return [
            _Route(f"{prefix}/models", endpoint, methods=["GET"]),
            _Route(f"{prefix}/models/{{model:path}}", endpoint, methods=["GET"]),
        ]

    def operations(surface: Surface, prefix: str) -> list[BaseRoute]:
        chat = GenerationEndpoint(pipeline, surface, limits, CHAT)
        completion = GenerationEndpoint(pipeline, surface, limits, COMPLETION)
        embedding = EmbeddingEndpoint(pipeline, surface, limits)
        return [
            _Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
            _Route(f"{prefix}/completions", completion, methods=["POST"]),
            _Route(f"{prefix}/embeddings", embedding, methods=["POST"]),
        ]

    return [
        *operations(openai, "/v1"),
        *operations(azure, "/openai/deployments/{deployment}"),
        *operations(azure_v1, "/openai/v1"),
        *models(openai, "/v1", _openai_model),
        *models(azure_v1, "/openai/v1", _openai_model),
        *models(azure, "/openai", _azure_model),
        _Route("/v1/{rest:path}", UnknownEndpoint(pipeline, openai, limits)),
        _Route("/openai/v1/{rest:path}", UnknownEndpoint(pipeline, azure_v1, limits)),
        _Route("/openai/{rest:path}", UnknownEndpoint(pipeline, azure, limits)),
    ]


def _need_api_version(scope: Scope) -> None:
    given = parse_qs(scope["query_string"].decode("latin-1")).get("api-version", [""])[-1]
    if not given:
        raise NotFound("Resource not found: the query has no api-version.", remedy="Add ?api-version=2024-10-21.")
    if not _API_VERSION.fullmatch(given):
        raise InvalidRequest("API version not supported.", code="BadRequest", remedy="Use 2024-10-21 or newer.")


def _openai_model(route: Deployed) -> dict[str, object]:
    return {"id": route.name, "object": "model", "created": route.created, "owned_by": "tandem"}


def _azure_model(route: Deployed) -> dict[str, object]:
    generates = route.task is Task.GENERATE
    return {
        "id": route.name,
        "object": "model",
        "model": route.name,
        "created_at": route.created,
        "status": "succeeded" if route.state is State.READY else "running",
        "lifecycle_status": "generally-available",
        "capabilities": {
            "fine_tune": False,
            "inference": True,
            "completion": generates,
            "chat_completion": generates and bool(route.facts.get("chat_template")),
            "embeddings": not generates,
        },
        "deprecation": {},
    }
