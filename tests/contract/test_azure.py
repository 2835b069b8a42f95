"""What is particular to the Azure families: paths, api-version, headers, error bodies."""

import re
from urllib.parse import quote

import openai
import pytest

from tests.contract.clients import API_VERSION, said, sync_client
from tests.serving import Served

# Each is one path segment for the client, and none is a deployment: slashes, dots, what is encoded already, what ends
# a path or a header, what looks like an operation or a family.
AWKWARD = (
    "my-deployment_1.2",
    ".hidden",
    "...",
    "a/b",
    "../deployments/tiny",
    "tiny/../../v1",
    "%2e%2e%2ftiny",
    "%252ftiny",
    "a?api-version=1&x=y",
    "a#fragment",
    "a\\b",
    "a\r\nx-evil: 1",
    "two words ",
    "имя-🦊",
    "chat/completions",
    "tiny/chat",
)
# All that the official client sends with the deployment in the path.
OPERATIONS = ("chat/completions", "completions", "embeddings")
NOT_OURS = (
    "audio/transcriptions",
    "audio/translations",
    "audio/speech",
    "images/generations",
    "images/edits",
)
BODIES = {
    "chat/completions": {"messages": said("x")},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_name_is_one_segment_and_no_deployment(fake: Served, name: str, operation: str) -> None:
    path = f"/openai/deployments/{quote(name, safe='')}/{operation}?api-version={API_VERSION}"
    reply = fake.request("POST", path, BODIES[operation])
    assert (reply.status, reply.json["error"]["code"]) == (404, "DeploymentNotFound")
    assert repr(name) in reply.json["error"]["message"]
    assert reply.headers["x-evil"] is None
    assert reply.headers["apim-request-id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("name", AWKWARD)
def test_the_client_sends_awkward_names(fake: Served, name: str) -> None:
    with sync_client(fake, "azure") as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=name, messages=said("x"))
    assert caught.value.code == "DeploymentNotFound"


@pytest.mark.parametrize("operation", NOT_OURS)
@pytest.mark.parametrize("name", [*AWKWARD, "tiny"])
def test_other_operations_are_not_there(fake: Served, name: str, operation: str) -> None:
    path = f"/openai/deployments/{quote(name, safe='')}/{operation}?api-version={API_VERSION}"
    reply = fake.request("POST", path, {})
    assert reply.status == 404
    assert set(reply.json["error"]) == {"code", "message"}


def test_the_path_wins_over_the_body(fake: Served) -> None:
    path = f"/openai/deployments/tiny/chat/completions?api-version={API_VERSION}"
    for model in ({"model": "nobody"}, {"model": None}, {"model": ""}, {}):
        reply = fake.request("POST", path, {**model, "messages": said("one")})
        assert (reply.status, reply.json["model"]) == (200, "tiny")
    with sync_client(fake, "azure", azure_deployment="tiny") as client:
        answer = client.chat.completions.create(model="nobody", messages=said("one"))
    assert answer.model == "tiny"


@pytest.mark.parametrize("version", ["2022-12-01", "2024-10-21", "2025-04-01-preview", "v1", "preview", "latest"])
def test_versions_that_are_taken(fake: Served, version: str) -> None:
    path = f"/openai/deployments/tiny/completions?api-version={version}"
    assert fake.request("POST", path, {"prompt": "one"}).status == 200
    assert fake.request("GET", f"/openai/models?api-version={version}").status == 200


@pytest.mark.parametrize("query", ["", "?", "?api-version=", "?version=2024-10-21"])
def test_a_missing_version(fake: Served, query: str) -> None:
    for method, path, body in (
        ("POST", "/openai/deployments/tiny/completions", {"prompt": "x"}),
        ("GET", "/openai/models", None),
        ("GET", "/openai/models/tiny", None),
    ):
        reply = fake.request(method, path + query, body)
        assert (reply.status, reply.json["error"]["code"]) == (404, "404")
        assert "api-version" in reply.json["error"]["message"]


@pytest.mark.parametrize("version", ["yesterday", "2024-10", "2024-10-21-beta", "%00"])
def test_a_version_that_is_none(fake: Served, version: str) -> None:
    reply = fake.request("POST", f"/openai/deployments/tiny/completions?api-version={version}", {"prompt": "x"})
    assert (reply.status, reply.json["error"]["code"]) == (400, "BadRequest")


def test_the_v1_family_needs_no_version(fake: Served) -> None:
    for query in ("", "?api-version=preview", "?api-version=v1"):
        reply = fake.request("POST", f"/openai/v1/chat/completions{query}", {"model": "tiny", "messages": said("x")})
        assert reply.status == 200


def test_models_in_azures_shape(fake: Served) -> None:
    reply = fake.request("GET", f"/openai/models/tools?api-version={API_VERSION}")
    created = fake.routes.get("tools").created
    assert reply.json == {
        "id": "tools",
        "object": "model",
        "model": "tools",
        "created_at": created,
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {
            "fine_tune": False,
            "inference": True,
            "completion": True,
            "chat_completion": True,
            "embeddings": False,
        },
        "deprecation": {},
    }
    models = {
        model["id"]: model for model in fake.request("GET", f"/openai/models?api-version={API_VERSION}").json["data"]
    }
    assert models["embedder"]["capabilities"]["embeddings"] is True
    assert models["plain"]["capabilities"]["chat_completion"] is False
    assert fake.request("GET", "/v1/models/tools").json == {
        "id": "tools",
        "object": "model",
        "created": created,
        "owned_by": "tandem",
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "path", [f"/openai/deployments/tiny/completions?api-version={API_VERSION}", "/openai/v1/completions"]
)
def test_headers_of_an_answer(fake: Served, path: str, stream: bool) -> None:
    body = {"model": "tiny", "prompt": "x", "stream": stream}
    reply = fake.request("POST", path, body, x_ms_client_request_id="mine-1")
    assert reply.status == 200
    assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["apim-request-id"])
    assert reply.headers["apim-request-id"] == reply.headers["x-request-id"]
    assert reply.headers["x-ms-client-request-id"] == "mine-1"
    assert reply.headers["x-ms-region"] == "local"
    assert reply.headers["x-ms-deployment-name"] == "tiny"


def test_headers_of_an_error(fake: Served) -> None:
    reply = fake.request("POST", "/openai/v1/completions", {"model": "nobody"}, x_ms_client_request_id="é" * 200)
    assert reply.status == 404
    assert reply.headers["x-ms-client-request-id"] == "é" * 128
    assert reply.headers["apim-request-id"] == reply.headers["x-request-id"]
    plain = fake.request("POST", "/v1/completions", {"model": "nobody"}, x_ms_client_request_id="mine-1")
    assert not [name for name in plain.headers if name.startswith(("x-ms-", "apim-"))]


@pytest.mark.parametrize("prefix", [f"/openai/deployments/tiny/{{}}?api-version={API_VERSION}", "/openai/v1/{}"])
def test_error_bodies(fake: Served, prefix: str) -> None:
    chat = prefix.format("chat/completions")
    denied = fake.request("POST", chat, {}, key="x")
    assert denied.status == 401
    assert denied.json == {
        "error": {
            "code": "401",
            "message": "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a "
            "valid key for an active subscription and use a correct regional API endpoint for your resource.",
        }
    }
    wrong = fake.request("POST", chat, {"model": "tiny", "messages": said("x"), "n": "two"})
    assert wrong.status == 400
    assert wrong.json["error"] == {
        "message": "Invalid value for 'n': Expected `int | null`, got `str`.",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_type",
    }
    unknown = fake.request("POST", prefix.format("images/generations"), {})
    assert unknown.status == 404
    assert set(unknown.json["error"]) == {"code", "message"}
    assert unknown.json["error"]["code"] == "404"
    broken = fake.request("POST", chat, {"model": "tiny", "messages": said("fake:fail x")})
    assert broken.status == 503
    assert broken.headers["retry-after-ms"] == "1000"
    assert broken.json["error"]["code"] == "engine_failed"


def test_a_token_of_entras_kind_goes_as_bearer(fake: Served) -> None:
    client = openai.AzureOpenAI(
        azure_endpoint=fake.url, azure_ad_token=fake.key, api_version=API_VERSION, max_retries=0
    )
    with client:
        assert client.completions.create(model="tiny", prompt="one").choices[0].text == " one"
