"""The page at `/`, the probes, and what is not there."""

import asyncio
import re
import threading

import pytest

from tandem.serve import State
from tandem.serve.engines.fake import FakeEngine
from tests.serving import Served, wait_until


def test_the_page_says_how_to_call(fake: Served) -> None:
    reply = fake.request("GET", "/", key="")
    page = reply.body.decode()
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert f'base_url="{fake.url}/v1"' in page
    assert f'azure_endpoint="{fake.url}"' in page
    assert '"model": "tiny"' in page
    assert "<td>tiny@1</td>" in page
    docs = fake.request("GET", "/api/v1/docs", key="").body.decode()
    offered = re.findall(r'href="/api/v1/docs#([a-z]+)"', page)
    assert {"keys", "deployments", "versions", "releases"} <= set(offered)
    assert all(f'<h2 id="{name}">' in docs for name in offered)
    for link in re.findall(r'href="(/[^"#]*)', page):
        assert fake.request("GET", link, key="").status == 200


def test_health_and_readiness(fake: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fake.request("GET", "/health", key="").json["status"] == "ok"
    assert fake.request("GET", "/ready", key="").json == {"status": "ready", "problems": []}
    start = FakeEngine.start
    go_on = threading.Event()

    async def held(engine: FakeEngine) -> asyncio.Future[str]:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return await start(engine)

    monkeypatch.setattr(FakeEngine, "start", held)
    fake.on_loop(fake.fakes["tiny"].crash())
    wait_until(lambda: fake.routes.get("tiny").state is State.RESTARTING)
    reply = fake.request("GET", "/ready", key="")
    assert (reply.status, reply.json["problems"]) == (503, ["deployment tiny is restarting"])
    go_on.set()
    wait_until(lambda: fake.request("GET", "/ready", key="").status == 200)


def test_metrics(fake: Served) -> None:
    fake.request("POST", "/v1/completions", {"model": "tiny", "prompt": "one two"})
    fake.request("POST", "/v1/completions", {"model": "nobody-knows", "prompt": "one two"})
    reply = fake.request("GET", "/metrics", key="")
    text = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/plain")
    assert 'tandem_requests_total{deployment="tiny",operation="completions",outcome="ok"}' in text
    assert 'tandem_tokens_total{deployment="tiny",kind="completion"}' in text
    assert 'tandem_refused_total{status="404",surface="openai"}' in text
    assert "nobody-knows" not in text, "clients do not choose labels"
    assert fake.key not in text


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/api/v2/keys", "/v2/models", "/favicon.ico"])
def test_an_unknown_path(fake: Served, path: str) -> None:
    reply = fake.request("GET", path)
    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("POST", "/nothing"), ("PATCH", "/api/v1/keys"), ("POST", "/health")])
def test_a_wrong_method(fake: Served, method: str, path: str) -> None:
    reply = fake.request(method, path)
    assert reply.status in {404, 405}
    assert reply.json["error"]["message"]
