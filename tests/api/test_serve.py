"""/api/v1/deployments and /api/v1/versions: what clients can call, and what it is made of."""

from typing import Any

import pytest

from tests.api.conftest import Keys
from tests.serving import Served, wait_until


def test_versions(fake: Served, keys: Keys) -> None:
    listed = fake.request("GET", "/api/v1/versions", key=keys.user).json
    assert [version["ref"] for version in listed["data"]] == ["embedder@1", "tiny@1"]
    assert listed["next"] is None
    [_, tiny] = listed["data"]
    for ref in ("tiny", "tiny@1"):
        assert fake.request("GET", f"/api/v1/versions/{ref}", key=keys.user).json == tiny
    assert tiny["digest"].startswith("sha256:")
    assert (tiny["task"], tiny["format"], tiny["origin"]) == ("generate", "gguf", "file:tiny.gguf")
    assert tiny["facts"]["chat_template"] is True
    first = fake.request("GET", "/api/v1/versions?limit=1", key=keys.user).json
    second = fake.request("GET", f"/api/v1/versions?limit=1&after={first['next']}", key=keys.user).json
    assert [first["data"][0]["ref"], second["data"][0]["ref"]] == ["embedder@1", "tiny@1"]


@pytest.mark.parametrize("path", ["versions/nobody", "versions/tiny@9", "deployments/nobody"])
def test_what_is_not_there(fake: Served, keys: Keys, path: str) -> None:
    reply = fake.request("GET", f"/api/v1/{path}", key=keys.user)
    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
    assert reply.json["error"]["remedy"]


def test_deployments(fake: Served, keys: Keys) -> None:
    listed = fake.request("GET", "/api/v1/deployments", key=keys.user).json["data"]
    assert [(one["name"], one["version"], one["state"], one["engine"]) for one in listed] == [
        ("embedder", "embedder@1", "ready", "fake"),
        ("tiny", "tiny@1", "ready", "fake"),
    ]
    assert fake.request("GET", "/api/v1/deployments/tiny", key=keys.user).json == listed[1]
    first = fake.request("GET", "/api/v1/deployments?limit=1", key=keys.user).json
    assert first["next"] == "embedder"
    rest = fake.request("GET", "/api/v1/deployments?after=embedder", key=keys.user).json
    assert [one["name"] for one in rest["data"]] == ["tiny"]


def test_a_deployment_comes_and_goes(fake: Served, keys: Keys) -> None:
    wanted = {"model": "tiny", "engine": "fake", "options": {"context_tokens": 256, "parallel": 2}}
    made = fake.request("PUT", "/api/v1/deployments/second", wanted, key=keys.admin)
    assert made.status == 200
    assert (made.json["name"], made.json["version"], made.json["revision"]) == ("second", "tiny@1", 1)
    assert made.json["options"] == {"context_tokens": 256, "parallel": 2, "threads": 0, "replicas": 1}

    def status() -> int:
        return fake.request("POST", "/v1/completions", {"model": "second", "prompt": "x"}).status

    wait_until(lambda: status() == 200)
    again = fake.request("PUT", "/api/v1/deployments/second", wanted, key=keys.admin)
    assert again.json["revision"] == 1, "the same binding is no new revision"
    gone = fake.request("DELETE", "/api/v1/deployments/second", key=keys.admin)
    assert (gone.status, gone.body) == (204, b"")
    wait_until(lambda: status() == 404)
    assert fake.request("DELETE", "/api/v1/deployments/second", key=keys.admin).status == 404


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("x", {}, 400),
        ("x", {"model": 3}, 400),
        ("x", {"model": "tiny", "modle": "tiny"}, 400),
        ("x", {"model": "tiny", "options": {"parallel": 0}}, 400),
        ("x", {"model": "tiny", "engine": "abacus"}, 400),
        ("x", {"model": "nobody", "engine": "fake"}, 404),
        ("-x", {"model": "tiny", "engine": "fake"}, 400),
        ("a%20b", {"model": "tiny", "engine": "fake"}, 400),
    ],
)
def test_a_deployment_that_cannot_be_made(fake: Served, keys: Keys, name: str, body: Any, status: int) -> None:
    before = fake.request("GET", "/api/v1/deployments", key=keys.admin).json
    reply = fake.request("PUT", f"/api/v1/deployments/{name}", body, key=keys.admin)
    assert reply.status == status
    assert reply.json["error"]["message"]
    assert fake.request("GET", "/api/v1/deployments", key=keys.admin).json == before


def test_an_unknown_option_is_refused(fake: Served, keys: Keys) -> None:
    body = {"model": "tiny", "engine": "fake", "options": {"paralel": 1}}
    assert fake.request("PUT", "/api/v1/deployments/tiny", body, key=keys.admin).status == 400
