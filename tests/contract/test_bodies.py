"""Bodies that are too large, broken, or strange: refused in time, and never a 500."""

import http.client
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from tandem.kit.config import load_settings
from tests.contract.clients import API_VERSION, said
from tests.serving import DEADLINE_S, Served, served, tiny_model

LIMIT = 32 * 1024 * 1024  # the default of max_body_bytes
PATHS = (
    "/v1/{}",
    f"/openai/deployments/{{model}}/{{}}?api-version={API_VERSION}",
    "/openai/v1/{}",
)


def _answered(
    served_one: Served, head: str, body: bytes = b"", *, key: str | None = None
) -> tuple[int, dict[str, str]]:
    """The status and the error that come when a head, and perhaps some of its body, was sent, and no more."""
    address = urlsplit(served_one.url)
    text = f"{head}\r\nHost: x\r\nAuthorization: Bearer {key or served_one.key}\r\n\r\n"
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=DEADLINE_S) as connection:
        connection.sendall(text.encode() + body)
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            return answer.status, json.loads(answer.read())["error"]


@pytest.mark.parametrize("path", [path.format("chat/completions", model="tiny") for path in PATHS])
def test_a_body_that_announces_its_size_is_refused_before_it_is_sent(fake: Served, path: str) -> None:
    status, error = _answered(fake, f"POST {path} HTTP/1.1\r\nContent-Length: {LIMIT + 1}")
    assert (status, error["code"]) == (413, "request_too_large")
    assert "max_body_bytes" in error["message"]


def test_a_client_that_asks_first_is_not_told_to_go_on(fake: Served) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {10**15}"
    assert _answered(fake, head)[0] == 413


def test_a_wrong_key_is_told_before_its_body_is_read(fake: Served) -> None:
    assert _answered(fake, "POST /v1/completions HTTP/1.1\r\nContent-Length: 1000", key="x")[0] == 401


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A platform that takes bodies of 1,000 bytes."""
    folder = tmp_path_factory.mktemp("narrow")
    settings = load_settings({}, home=folder / "home", port=0, max_body_bytes=1000)
    with served(settings, models={"tiny": tiny_model(folder)}) as running_one:
        yield running_one


def test_a_body_of_unknown_size_is_refused_as_soon_as_it_is_too_large(narrow: Served) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked"
    # The last chunk is missing: whoever waits for the whole body waits for ever.
    body = b"1f4\r\n" + b" " * 500 + b"\r\n1f5\r\n" + b" " * 501 + b"\r\n"
    assert _answered(narrow, head, body)[0] == 413


def test_the_largest_body_is_taken(narrow: Served) -> None:
    body = json.dumps({"model": "tiny", "messages": said("x")}).encode()
    assert narrow.request("POST", "/v1/chat/completions", body.ljust(1000)).status == 200
    assert narrow.request("POST", "/v1/chat/completions", body.ljust(1001)).status == 413
    chunks = iter([body, b" " * (1000 - len(body))])
    assert narrow.request("POST", "/v1/chat/completions", chunks).status == 200


def test_a_large_body_of_one_image_is_refused_quickly_and_by_name(fake: Served) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000_000}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": [image]}]}
    reply = fake.request("POST", "/v1/chat/completions", body)
    assert (reply.status, reply.json["error"]["code"]) == (400, "unsupported_feature")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"messages": "\xff"}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    ],
    ids=range(11),
)
def test_a_broken_body(fake: Served, path: str, body: bytes) -> None:
    reply = fake.request("POST", path.format("chat/completions", model="tiny"), body)
    assert reply.status == 400
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}


def test_a_text_that_no_ledger_takes(fake: Served) -> None:
    reply = fake.request("POST", "/v1/completions", {"model": "a\x00b", "prompt": "x"})
    assert reply.status == 404
    assert fake.request("POST", "/v1/completions", {"model": "tiny", "prompt": "a\x00b"}).status == 200


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["user", "text", "json_schema", "json_object", "function", "required", "float", "base64"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "n",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "logit_bias",
    "stream",
    "stream_options",
    "user",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "modalities",
    "echo",
    "best_of",
    "suffix",
    "encoding_format",
    "dimensions",
    "metadata",
    "brand_new",
)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | json_values},
        optional={
            "content": st.text(max_size=8) | json_values,
            "tool_calls": json_values,
            "tool_call_id": json_values,
            "name": json_values,
        },
    ),
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {"model": st.sampled_from(["tiny", "tools", "fim", "embedder"]) | json_values},
    optional={
        "messages": turns | json_values,
        "prompt": st.text(max_size=8) | json_values,
        "input": st.text(max_size=8) | json_values,
        **dict.fromkeys(FIELDS, json_values),
    },
)
requests = st.tuples(
    st.sampled_from(["chat/completions", "completions", "embeddings"]),
    st.sampled_from(PATHS),
    st.sampled_from(["tiny", "tools", "fim", "embedder", "nobody"]),
)


@bounds(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, bodies)
@example(("chat/completions", PATHS[0], "tiny"), {"model": "tiny", "messages": said("x"), "max_tokens": 2**32})
@example(("completions", PATHS[0], "tiny"), {"model": "tiny", "prompt": [[]]})
def test_no_json_gets_a_500(fake: Served, request_line: tuple[str, str, str], body: dict[str, object]) -> None:
    operation, path, model = request_line
    reply = fake.request("POST", path.format(operation, model=model), body)
    assert reply.status in {200, 400, 404}, (reply.status, reply.body)
    if reply.status != 200:
        assert reply.json["error"]["message"]


@bounds(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3))
def test_no_field_of_a_valid_request_gets_a_500(
    fake: Served, request_line: tuple[str, str, str], fields: dict[str, object]
) -> None:
    operation, path, model = request_line
    valid = {"model": model, "messages": said("one two"), "prompt": "one two", "input": "one two"}
    reply = fake.request("POST", path.format(operation, model=model), {**valid, **fields})
    assert reply.status in {200, 400, 404}, (reply.status, reply.body)
