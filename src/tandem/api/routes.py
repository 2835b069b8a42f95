"""All routes of the control plane, in one table."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from tandem.accounts import Key, Role, UsageEvent
from tandem.api import accounts, flows, home, plan, registry, releases, serve
from tandem.api.edge import MAX_PAGE, Handler, Seen, Turns, error_response, guarded
from tandem.api.openapi import PREFIX, Endpoint, OpenHandler, Says, describe, docs_page
from tandem.api.platform import Platform
from tandem.flows import Against, Flow
from tandem.flows.planning import (
    FailuresAnswer,
    FailuresAsk,
    FundingAsk,
    LayoutAnswer,
    LayoutAsk,
    QuoteAsk,
    RunAsk,
    ServingAsk,
    SimulationAsk,
    SystemsAnswer,
    SystemsAsk,
)
from tandem.kit.errors import NotFound
from tandem.kit.signing import Envelope
from tandem.plan import ModelSize
from tandem.plan.funding import FundingView
from tandem.plan.quote import Quote
from tandem.plan.serving import ServingPlan
from tandem.plan.simulation import Sweep
from tandem.plan.workshop import Forecast
from tandem.registry import Dataset
from tandem.serve import Deployment, RolloutFacts, State
from tandem.spec import Run


def _made(says: Says, takes: Any) -> Says:
    """What a route says that makes the object of another one."""
    return replace(says, takes=takes, status=201)


_SPAN = {
    "since": "The first moment in ISO 8601; 30 days before `until` where it is not given.",
    "until": "The moment after the last, in ISO 8601; now where it is not given.",
    "by": "What to sum by: none, key, deployment or day.",
    "limit": f"How many rows at most, 1 to {MAX_PAGE}.",
    "after": "The `next` of the page before; the first page has none.",
}
_SIGNED = {"envelope": Envelope}
_STATE = {"state": State, "development": bool}
_DEPLOYMENT = Says(answer=Deployment, also=_STATE, observed=frozenset({"replicas", "state"}))
_ROLLOUT = Says(
    answer=RolloutFacts,
    observed=frozenset({"looks", "elapsed_s", "numbers", "findings", "share", "updated_at"}),
)
_ROLLOUTS = Says(answer=RolloutFacts, page=True, query={"deployment": "Only those of this deployment."})
_EVIDENCE = Says(answer=releases.EvidenceAnswer, page=True, query={"version": "Only that on this version."})
_RELEASE = Says(answer=releases.ReleaseAnswer, also=_SIGNED)
_RELEASES = Says(
    answer=releases.ReleaseAnswer,
    page=True,
    query={"state": "Only those in this state.", "name": "Only those of this name's versions."},
)
_CARD = Says(media="text/markdown", query={"format": "markdown or html; markdown where it is not given."})

_FLOW = Says(
    answer=Flow, observed=frozenset({"state", "step", "why", "tries", "retried_at", "updated_at", "facts", "steps"})
)
_FLOWS = Says(answer=Flow, page=True, query={"state": "Only those in this state."})

# Method, path below /api/v1, handler, role, and what the description says beside the handler's docstring.
_TABLE: tuple[tuple[str, str, Handler, Role] | tuple[str, str, Handler, Role, Says], ...] = (
    ("GET", "/usage", accounts.usage, Role.USER, Says(answer=accounts.UsageAnswer, query=_SPAN)),
    ("GET", "/usage/events", accounts.usage_events, Role.USER, Says(answer=UsageEvent, page=True)),
    ("GET", "/keys", accounts.list_keys, Role.ADMIN, Says(answer=Key, page=True)),
    (
        "POST",
        "/keys",
        accounts.create_key,
        Role.ADMIN,
        Says(takes=accounts.NewKey, answer=Key, also={"key": str}, status=201),
    ),
    ("GET", "/keys/{name}", accounts.get_key, Role.ADMIN, Says(answer=Key)),
    ("DELETE", "/keys/{name}", accounts.revoke_key, Role.ADMIN, Says(answer=Key)),
    ("GET", "/deployments", serve.list_deployments, Role.USER, Says(answer=Deployment, also=_STATE, page=True)),
    ("GET", "/deployments/{name}", serve.get_deployment, Role.USER, _DEPLOYMENT),
    ("PUT", "/deployments/{name}", serve.put_deployment, Role.ADMIN, replace(_DEPLOYMENT, takes=serve.NewBinding)),
    ("DELETE", "/deployments/{name}", serve.delete_deployment, Role.ADMIN, Says(status=204)),
    ("POST", "/deployments/{name}/rollouts", serve.start_a_rollout, Role.ADMIN, _made(_ROLLOUT, serve.NewRollout)),
    ("POST", "/deployments/{name}/rollback", serve.roll_back_deployment, Role.ADMIN, _DEPLOYMENT),
    ("GET", "/rollouts", serve.list_rollouts, Role.USER, _ROLLOUTS),
    ("GET", "/rollouts/{id}", serve.get_rollout, Role.USER, _ROLLOUT),
    ("POST", "/rollouts/{id}/{action}", serve.act_on_rollout, Role.ADMIN, _ROLLOUT),
    ("GET", "/versions", registry.list_versions, Role.USER, Says(answer=registry.VersionAnswer, page=True)),
    ("GET", "/versions/{ref}", registry.get_version, Role.USER, Says(answer=registry.VersionAnswer)),
    ("DELETE", "/versions/{ref}", registry.delete_version, Role.ADMIN, Says(status=204)),
    ("GET", "/versions/{ref}/card", registry.get_card, Role.USER, _CARD),
    ("GET", "/lineage/{id}", registry.get_lineage, Role.USER, Says(answer=registry.LineageAnswer)),
    # Only for admins: the reason of a failure and the source of data may name files of this machine.
    ("GET", "/runs", registry.list_runs, Role.ADMIN, Says(answer=Run, page=True)),
    ("GET", "/runs/{id}", registry.get_run, Role.ADMIN, Says(answer=Run)),
    ("GET", "/datasets", registry.list_datasets, Role.ADMIN, Says(answer=Dataset, page=True)),
    ("GET", "/datasets/{digest}", registry.get_dataset, Role.ADMIN, Says(answer=Dataset)),
    # Only for admins: an order may name files of this machine, and so may the reason of a failure.
    ("GET", "/flows", flows.list_flows, Role.ADMIN, _FLOWS),
    ("POST", "/flows", flows.start_flow, Role.ADMIN, _made(_FLOW, flows.NewFlow)),
    ("GET", "/flows/{id}", flows.get_flow, Role.ADMIN, _FLOW),
    ("POST", "/flows/{id}/cancel", flows.cancel_a_flow, Role.ADMIN, _FLOW),
    ("POST", "/flows/{id}/retry", flows.retry_a_flow, Role.ADMIN, _FLOW),
    # Only for admins: plans cost seconds of a processor, and tell of the runs and the money of the house.
    ("POST", "/plan/quote", plan.plan_quote, Role.ADMIN, Says(answer=Quote, takes=QuoteAsk)),
    ("POST", "/plan/layout", plan.plan_layout, Role.ADMIN, Says(answer=LayoutAnswer, takes=LayoutAsk)),
    ("POST", "/plan/failures", plan.plan_failures, Role.ADMIN, Says(answer=FailuresAnswer, takes=FailuresAsk)),
    ("POST", "/plan/serving", plan.plan_serving, Role.ADMIN, Says(answer=ServingPlan, takes=ServingAsk)),
    ("POST", "/plan/systems", plan.plan_systems, Role.ADMIN, Says(answer=SystemsAnswer, takes=SystemsAsk)),
    ("POST", "/plan/funding", plan.plan_funding, Role.ADMIN, Says(answer=FundingView, takes=FundingAsk)),
    ("POST", "/plan/simulation", plan.plan_simulation, Role.ADMIN, Says(answer=Sweep, takes=SimulationAsk)),
    ("POST", "/plan/run", plan.plan_run, Role.ADMIN, Says(answer=Forecast, takes=RunAsk)),
    ("GET", "/plan/run/{id}", plan.plan_against, Role.ADMIN, Says(answer=Against)),
    ("GET", "/plan/catalogue", plan.plan_catalogue, Role.USER, Says(answer=plan.CatalogueAnswer)),
    ("GET", "/plan/factors", plan.plan_factors, Role.ADMIN, Says(answer=plan.FactorsAnswer)),
    ("GET", "/charter", releases.get_charter, Role.USER, Says(answer=releases.RevisionAnswer)),
    ("GET", "/charter/{revision}", releases.get_revision, Role.USER, Says(answer=releases.RevisionAnswer)),
    ("GET", "/evidence", releases.list_evidence, Role.USER, _EVIDENCE),
    ("POST", "/evidence", releases.add_evidence, Role.ADMIN, _made(Says(answer=releases.EvidenceAnswer), Envelope)),
    ("GET", "/evidence/{digest}", releases.get_evidence, Role.USER, Says(answer=releases.EvidenceAnswer, also=_SIGNED)),
    ("GET", "/releases", releases.list_releases, Role.USER, _RELEASES),
    ("POST", "/releases", releases.request_release, Role.ADMIN, _made(_RELEASE, releases.NewRelease)),
    ("GET", "/releases/{digest}", releases.get_release, Role.USER, _RELEASE),
    (
        "POST",
        "/releases/{digest}/signatures",
        releases.sign_release,
        Role.ADMIN,
        Says(answer=releases.ReleaseAnswer, takes=releases.Signed),
    ),
    (
        "POST",
        "/releases/{digest}/decisions",
        releases.decide_release,
        Role.ADMIN,
        Says(answer=releases.ReleaseAnswer, takes=Envelope, status=201),
    ),
)


async def front_page(platform: Platform, request: Request) -> Response:
    """What runs here, how to call it, and what else there is, for people."""
    offers = dict.fromkeys(row.path.split("/")[1] for row in endpoints())
    return await home.home_page(platform, request, offers=list(offers))


_OPEN: Mapping[str, OpenHandler] = {
    "/": front_page,
    "/health": home.health,
    "/ready": home.ready,
    "/metrics": home.metrics,
}


_RECKONED: Mapping[type, Mapping[str, Any]] = {
    ModelSize: {"parameters": {"type": "integer", "description": "All weights."}}
}
"""As `tandem.plan.plain` writes them."""


def endpoints() -> list[Endpoint]:
    """All routes below /api/v1 that take a key, in the order in which they are tried."""
    return [Endpoint(*row) for row in _TABLE]


def description() -> dict[str, Any]:
    """The OpenAPI document of all routes."""
    return describe(endpoints(), _OPEN, reckoned=_RECKONED)


def api_routes(platform: Platform) -> list[BaseRoute]:
    """The routes of `/api/v1`, its description, the page at `/`, and those of probes."""
    document = description()
    pages: dict[str, Response] = {
        f"{PREFIX}/openapi.json": Response(json.dumps(document), media_type="application/json"),
        f"{PREFIX}/docs": HTMLResponse(docs_page(document)),
    }
    return [
        *_guarded(platform, endpoints()),
        *(Route(path, partial(handler, platform), methods=["GET"]) for path, handler in _OPEN.items()),
        *(Route(path, _answering(page), methods=["GET"]) for path, page in pages.items()),
        Route("/{rest:path}", _unknown),
    ]


def _guarded(platform: Platform, rows: list[Endpoint]) -> Iterator[Route]:
    """Each route behind the edge, which learns how to look at the object that the route is about."""
    turns = Turns()
    shown = {row.path: row for row in rows if row.method == "GET" and not row.says.page}
    for method, path, handler, role, _ in rows:
        seen = _object_of(path, shown) if method != "GET" or path in shown else None
        yield Route(f"{PREFIX}{path}", guarded(platform, handler, role=role, seen=seen, turns=turns), methods=[method])


def _object_of(path: str, shown: dict[str, Endpoint]) -> Seen | None:
    """The object at a path, or the nearest one above it: `/releases/{digest}/signatures` changes a release."""
    parts = path.split("/")
    for depth in range(len(parts), 1, -1):
        if (row := shown.get("/".join(parts[:depth]))) is not None:
            return Seen(row.handler, row.says.observed, depth=depth + len(PREFIX.split("/")) - 1)
    return None


def _answering(answer: Response) -> Callable[[Request], Awaitable[Response]]:
    async def give(_request: Request) -> Response:
        return answer

    return give


async def wrong_method(request: Request, _error: Exception) -> Response:
    """The answer to a method that a path does not take."""
    error = NotFound(
        f"{request.url.path[:200]} does not take {request.method}.",
        remedy="GET /api/v1/docs lists what it takes.",
        code="method_not_allowed",
    )
    return error_response(error, status=405)


async def _unknown(request: Request) -> Response:
    return error_response(
        NotFound(f"There is nothing at {request.url.path[:200]}.", remedy="GET / says what there is.")
    )
