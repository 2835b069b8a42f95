"""/api/v1/lineage and model cards: every answer traced back, for those who may see it."""

import xml.etree.ElementTree as ET

import pytest

from tests.api.conftest import Keys
from tests.serving import Served

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
DATED = "api-version=2024-10-21"


def kinds(answer: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {node["kind"]: node["id"] for node in answer["nodes"]}


def test_a_chat_leads_to_its_version_at_once(fake: Served, keys: Keys) -> None:
    reply = fake.request("POST", "/v1/chat/completions", CHAT, key=keys.user)
    found = fake.request("GET", f"/api/v1/lineage/{reply.json['id']}", key=keys.user)
    assert found.status == 200
    assert kinds(found.json)["version"] == "tiny@1"
    assert kinds(found.json)["deployment"] == "tiny=tiny@1"
    start = found.json["nodes"][0]
    assert found.json["start"] == start["key"] == f"response:{reply.headers['x-request-id']}"
    assert (start["facts"]["operation"], start["facts"]["outcome"]) == ("chat", "ok")
    assert "key_id" not in start["facts"]
    nodes = {node["key"] for node in found.json["nodes"]}
    assert all({edge["source"], edge["target"]} <= nodes for edge in found.json["edges"])
    assert found.json["truncated"] is False


@pytest.mark.parametrize(
    ("path", "body", "header"),
    [
        ("/v1/embeddings", {"model": "embedder", "input": "x"}, "x-request-id"),
        (f"/openai/deployments/embedder/embeddings?{DATED}", {"input": "x"}, "apim-request-id"),
        (f"/openai/deployments/tiny/chat/completions?{DATED}", CHAT, "apim-request-id"),
        ("/openai/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1}, "apim-request-id"),
    ],
)
def test_each_surface_names_its_answers(
    fake: Served, keys: Keys, path: str, body: dict[str, object], header: str
) -> None:
    reply = fake.request("POST", path, body, key=keys.user)
    assert reply.status == 200
    found = fake.request("GET", f"/api/v1/lineage/{reply.headers[header]}", key=keys.user).json
    assert kinds(found)["version"] in {"embedder@1", "tiny@1"}
    if "id" in reply.json:
        same = fake.request("GET", f"/api/v1/lineage/{reply.json['id']}", key=keys.user).json
        assert same["start"] == found["start"]


def test_a_stream_and_a_refusal_are_traced_too(fake: Served, keys: Keys) -> None:
    stream = fake.request("POST", "/v1/chat/completions", {**CHAT, "stream": True}, key=keys.user)
    found = fake.request("GET", f"/api/v1/lineage/{stream.headers['x-request-id']}", key=keys.user)
    assert kinds(found.json)["version"] == "tiny@1"


def test_a_foreign_answer_is_none(fake: Served, keys: Keys) -> None:
    own = fake.request("POST", "/v1/chat/completions", CHAT, key=keys.user).json["id"]
    statuses = {
        name: fake.request("GET", f"/api/v1/lineage/{own}", key=getattr(keys, name)).status
        for name in ("user", "admin", "other_user", "other_admin")
    }
    assert statuses == {"user": 200, "admin": 200, "other_user": 404, "other_admin": 404}
    unknown = fake.request("GET", f"/api/v1/lineage/chatcmpl-{'0' * 32}", key=keys.other_admin)
    foreign = fake.request("GET", f"/api/v1/lineage/{own}", key=keys.other_admin)
    digits = own.removeprefix("chatcmpl-")
    assert foreign.body.decode().replace(digits, "0" * 32) == unknown.body.decode(), "nobody can tell them apart"
    assert fake.request("GET", f"/api/v1/lineage/{own}", key="nobody").status == 401


def test_a_version_leads_forward_to_its_deployment(fake: Served, keys: Keys) -> None:
    for ref in ("tiny", "tiny@1", "deployment:tiny"):
        found = fake.request("GET", f"/api/v1/lineage/{ref}", key=keys.user).json
        assert kinds(found)["version"] == "tiny@1"
        assert kinds(found)["deployment"] == "tiny=tiny@1"


@pytest.mark.parametrize("ref", ["nothing", "run_9", f"sha256:{'0' * 64}", "deployment:nothing", "%2e%2e", "x%00y"])
def test_what_is_not_there(fake: Served, keys: Keys, ref: str) -> None:
    reply = fake.request("GET", f"/api/v1/lineage/{ref}", key=keys.user)
    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
    assert str(fake.house.settings.home) not in reply.body.decode()


def test_cards_are_markdown_and_pages(fake: Served, keys: Keys) -> None:
    plain = fake.request("GET", "/api/v1/versions/tiny/card", key=keys.user)
    assert plain.headers["content-type"] == "text/markdown; charset=utf-8"
    assert plain.body.decode().startswith("# tiny@1\n\n")
    page = fake.request("GET", "/api/v1/versions/tiny@1/card?format=html", key=keys.user)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert ET.fromstring(page.body.decode().removeprefix("<!DOCTYPE html>\n")).tag.endswith("}html")
    assert str(fake.house.settings.home) not in page.body.decode()


def test_a_version_goes_when_nobody_needs_it(fake: Served, keys: Keys) -> None:
    version = fake.house.registry.resolve("tiny")
    copy = fake.house.registry.add("copy", task=version.task, artifact=version.artifact, origin="file:x", facts={})
    assert fake.request("DELETE", f"/api/v1/versions/{copy.ref}", key=keys.user).status == 403
    assert fake.request("DELETE", f"/api/v1/versions/{copy.ref}", key=keys.admin).status == 204
    assert fake.request("GET", f"/api/v1/versions/{copy.ref}", key=keys.user).status == 404
    refused = fake.request("DELETE", "/api/v1/versions/tiny@1", key=keys.admin)
    assert (refused.status, refused.json["error"]["code"]) == (409, "conflict")
    assert "the deployment tiny has it" in refused.json["error"]["message"]


@pytest.mark.parametrize(("path", "status"), [("nothing/card", 404), ("tiny/card?format=pdf", 400)])
def test_cards_that_cannot_be_had(fake: Served, keys: Keys, path: str, status: int) -> None:
    assert fake.request("GET", f"/api/v1/versions/{path}", key=keys.user).status == status
