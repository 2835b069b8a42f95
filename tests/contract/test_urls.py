"""Unknown URLs and wrong methods: 404 in the shape of the family, whatever stands in the path."""

import pytest

from tests.serving import Served

PREFIXES = {"/v1": "openai", "/openai/v1": "azure", "/openai": "azure", "/openai/deployments/tiny": "azure"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE"])
@pytest.mark.parametrize("path", ["/nothing", "/", "/a%0ab", "/a%00b", "/%ff%fe", "/responses", "/threads/x/runs"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_unknown_url(fake: Served, prefix: str, path: str, method: str) -> None:
    reply = fake.request(method, prefix + path, key="nobody")
    error = reply.json["error"]
    assert reply.status == 404
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.headers["x-should-retry"] == "false"
    assert f"Unknown request URL: {method} {prefix}" in error["message"]
    if PREFIXES[prefix] == "openai":
        assert error == {
            "message": error["message"],
            "type": "invalid_request_error",
            "param": None,
            "code": "unknown_url",
        }
    else:
        assert error == {"code": "404", "message": error["message"]}


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/openai/v1/embeddings", "/openai/deployments/tiny/completions"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_wrong_method_is_an_unknown_url(fake: Served, path: str, method: str) -> None:
    assert fake.request(method, path).status == 404
    assert fake.request("POST", "/v1/models").status == 404


def test_head_has_no_body(fake: Served) -> None:
    reply = fake.request("HEAD", "/v1/models")
    assert (reply.status, reply.body) == (200, b"")
