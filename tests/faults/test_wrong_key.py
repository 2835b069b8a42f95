"""Wrong, weak and revoked keys: refused on every surface in its own shape, and never called an outage."""

import pytest

from tests.faults.program import Home, Prepared, Server
from tests.faults.traffic import asked, chat, fetched
from tests.serving import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

ASK = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/openai/v1/chat/completions",
    "/openai/v1/embeddings",
    "/openai/deployments/quick/chat/completions?api-version=2024-10-21",
    "/openai/deployments/quick/completions?api-version=2024-10-21",
    "/openai/deployments/quick/embeddings?api-version=2024-10-21",
]
READ = [
    "/v1/models",
    "/v1/models/quick",
    "/openai/v1/models",
    "/openai/models?api-version=2024-10-21",
    "/api/v1/usage",
    "/api/v1/usage/events",
    "/api/v1/deployments",
    "/api/v1/deployments/quick",
    "/api/v1/versions",
    "/api/v1/versions/quick",
    "/api/v1/keys",
]
ADMIN_ONLY = [
    ("GET", "/api/v1/keys", None),
    ("POST", "/api/v1/keys", {"name": "more"}),
    ("DELETE", "/api/v1/keys/app", None),
    ("PUT", "/api/v1/deployments/quick", {"model": "slow"}),
    ("DELETE", "/api/v1/deployments/quick", None),
]


def refusals(server: Server, key: str) -> dict[str, int]:
    """The status of every endpoint for a key."""
    body = chat("quick", tokens=1)
    return {path: asked(server.url, path, body, key=key).status for path in ASK} | {
        path: asked(server.url, path, key=key, method="GET").status for path in READ
    }


def test_keys(tandem: Home, prepared: Prepared) -> None:
    with tandem.serving(key_cache_s=0.5) as server:
        server.wait_until_ready()
        for wrong in ("", "tk-wrong", prepared.key[:-1], prepared.key + "x", "ключ".encode().decode("latin-1")):
            assert set(refusals(server, wrong).values()) == {401}, wrong
        for method, path, body in ADMIN_ONLY:
            assert asked(server.url, path, body, method=method).status == 401
            weak = asked(server.url, path, body, key=prepared.key, method=method)
            assert weak.status == 403, (method, path)
            assert "--role admin" in weak.json()["error"]["remedy"]
        assert len(fetched(server.url, "/api/v1/keys", key=prepared.admin_key)["data"]) == 2, "nothing was changed"

        said = asked(server.url, ASK[0], chat("quick", tokens=1), key="tk-wrong").json()["error"]
        assert said["code"] == "invalid_api_key"
        assert "tk-wrong" not in said["message"]
        said = asked(server.url, ASK[5], chat("quick", tokens=1), key="tk-wrong").json()["error"]
        assert said["code"] == "401"
        assert "invalid subscription key" in said["message"]

        assert asked(server.url, ASK[0], chat("quick", tokens=1), key=prepared.key).status == 200
        tandem.run("keys", "revoke", "app")
        wait_until(lambda: set(refusals(server, prepared.key).values()) == {401})
        assert asked(server.url, "/v1/models", key=prepared.admin_key, method="GET").status == 200
    assert prepared.key not in server.said()
