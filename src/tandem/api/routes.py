"""All routes of the control plane, in one table."""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tandem.accounts import Role
from tandem.api import accounts, home, registry, serve
from tandem.api.edge import Handler, error_response, guarded
from tandem.api.platform import Platform
from tandem.kit.errors import NotFound

_TABLE: tuple[tuple[str, str, Handler, Role], ...] = (
    ("GET", "/usage", accounts.usage, Role.USER),
    ("GET", "/usage/events", accounts.usage_events, Role.USER),
    ("GET", "/keys", accounts.list_keys, Role.ADMIN),
    ("POST", "/keys", accounts.create_key, Role.ADMIN),
    ("DELETE", "/keys/{name}", accounts.revoke_key, Role.ADMIN),
    ("GET", "/deployments", serve.list_deployments, Role.USER),
    ("GET", "/deployments/{name}", serve.get_deployment, Role.USER),
    ("PUT", "/deployments/{name}", serve.put_deployment, Role.ADMIN),
    ("DELETE", "/deployments/{name}", serve.delete_deployment, Role.ADMIN),
    ("GET", "/versions", registry.list_versions, Role.USER),
    ("GET", "/versions/{ref}", registry.get_version, Role.USER),
)


def api_routes(platform: Platform) -> list[BaseRoute]:
    """The routes of `/api/v1`, the page at `/`, and those of probes."""
    open_to_all: dict[str, Callable[[Platform, Request], Awaitable[Response]]] = {
        "/": home.home_page,
        "/health": home.health,
        "/ready": home.ready,
        "/metrics": home.metrics,
    }
    return [
        *(
            Route(f"/api/v1{path}", guarded(platform, handler, role=role), methods=[method])
            for method, path, handler, role in _TABLE
        ),
        *(Route(path, partial(handler, platform), methods=["GET"]) for path, handler in open_to_all.items()),
        Route("/{rest:path}", _unknown),
    ]


async def wrong_method(request: Request, _error: Exception) -> Response:
    """The answer to a method that a path does not take."""
    error = NotFound(
        f"{request.url.path[:200]} does not take {request.method}.",
        remedy="docs/reference/api.md lists what it takes.",
        code="method_not_allowed",
    )
    return error_response(error, status=405)


async def _unknown(request: Request) -> Response:
    return error_response(
        NotFound(f"There is nothing at {request.url.path[:200]}.", remedy="GET / says what there is.")
    )
