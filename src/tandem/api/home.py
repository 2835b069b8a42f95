"""The page at `/`, and what probes ask: /health, /ready, /metrics."""

import html
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

import tandem
from tandem.accounts import Ledger
from tandem.api.platform import Platform
from tandem.kit.errors import Unavailable
from tandem.serve import Routes, State

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tandem</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}}
pre{{overflow-x:auto;padding:.75rem 1rem;border:1px solid #8886;border-radius:.5rem;font-size:.85rem}}
table{{border-collapse:collapse;width:100%}}
th,td{{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884}}
th:last-child,td:last-child{{padding-right:0}}
.wide{{overflow-x:auto}} code{{font-size:.9em}}
</style></head><body>
<h1>Tandem {version}</h1>
<p>This server answers the OpenAI API and the Azure OpenAI API for the models below.</p>
<div class="wide"><table><tr><th>deployment</th><th>version</th><th>for</th><th>state</th></tr>{rows}</table></div>
<h2>Call it</h2>
<p>Make a key with <code>tandem keys create --name me</code>, then:</p>
<pre>curl {base}/v1/chat/completions \\
  -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'</pre>
<pre>from openai import OpenAI, AzureOpenAI

OpenAI(base_url="{base}/v1", api_key=KEY)
AzureOpenAI(azure_endpoint="{base}", api_version="2024-10-21", api_key=KEY)</pre>
<h2>What else is here</h2>
<ul>
<li>The control plane under <code>/api/v1</code>, with the same keys: {offers}.
<a href="/api/v1/docs">All its routes</a>, and <a href="/api/v1/openapi.json">openapi.json</a> for programs.</li>
<li>For probes: <a href="/health">health</a>, <a href="/ready">readiness</a>, <a href="/metrics">metrics</a>.</li>
</ul>
</body></html>
"""


async def home_page(platform: Platform, request: Request, *, offers: Sequence[str] = ()) -> Response:
    """What runs here and how to call it; `offers` are the parts of the control plane."""
    routes = platform.routes.names()
    rows = "".join(
        f"<tr><td>{html.escape(route.name)}</td><td>{html.escape(route.version)}</td>"
        f"<td>{route.task}</td><td>{route.state}</td></tr>"
        for route in routes
    )
    rows = rows or "<tr><td colspan=4>Nothing yet. <code>tandem deploy starter</code> changes that.</td></tr>"
    base = str(request.base_url).rstrip("/")
    model = next((route.name for route in routes if route.task == "generate"), "NAME")
    page = _PAGE.format(
        version=tandem.__version__,
        rows=rows,
        base=html.escape(base, quote=True),
        model=html.escape(model),
        offers=", ".join(
            f'<a href="/api/v1/docs#{html.escape(name, quote=True)}">{html.escape(name)}</a>' for name in offers
        ),
    )
    return HTMLResponse(page, headers={"cache-control": "no-store"})


async def health(_platform: Platform, _request: Request) -> Response:
    """200 as long as the process answers at all."""
    return JSONResponse({"status": "ok", "version": tandem.__version__})


async def ready(platform: Platform, _request: Request) -> Response:
    """200 when requests can be served: the database answers and each wanted deployment has a ready replica.

    With the database down this is 503 although known keys still work from the cache: whoever balances the load
    should send new callers elsewhere.
    """
    problems = [
        f"deployment {route.name} is {route.state}"
        for route in platform.routes.names()
        if route.state is not State.READY
    ]
    try:
        await platform.db.run(lambda connection: connection.execute(text("SELECT 1")).scalar())
    except Unavailable as error:
        problems.append(str(error))
    body = {"status": "ready" if not problems else "not ready", "problems": problems}
    return JSONResponse(body, status_code=503 if problems else 200)


async def metrics(platform: Platform, _request: Request) -> Response:
    """The counters of this process, in Prometheus' text format."""
    return Response(generate_latest(platform.meters.registry), media_type=CONTENT_TYPE_LATEST)


class StateCollector(Collector):
    """What Prometheus sees beside the gateway's own counters, read at the moment of a scrape."""

    def __init__(self, routes: Routes, ledger: Ledger) -> None:
        self._routes = routes
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """One sample for each deployment, and the ledger's backlog."""
        ready = GaugeMetricFamily("tandem_deployment_ready", "Whether a replica answers", labels=("deployment",))
        for route in self._routes.names():
            ready.add_metric((route.name,), float(route.state is State.READY))
        yield ready
        yield GaugeMetricFamily(
            "tandem_ledger_unfolded", "Settled requests that are in the journal alone", value=self._ledger.unfolded
        )
