"""Which errors the official clients raise, what these say, and when the clients try again."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import openai
import pytest
from openai import _base_client
from openai.types.chat import ChatCompletionChunk

from tandem.serve import State
from tandem.serve.engines.fake_script import Faults
from tests.contract.clients import FAMILIES, async_client, said, sync_client
from tests.serving import Served, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have slept before each further try, in seconds; it does not."""
    slept: list[float] = []
    monkeypatch.setattr(_base_client, "time", SimpleNamespace(sleep=slept.append, time=_base_client.time.time))
    return slept


@pytest.fixture
def failing(fake: Served) -> Iterator[Served]:
    """The deployment `fragile` answers every request with 500."""
    fake.fakes["fragile"].faults = Faults(fail=True)
    yield fake
    fake.fakes["fragile"].faults = Faults()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("key", ["tk-" + "0" * 43, "x", "x" * 2000], ids=["ours", "short", "long"])
def test_a_wrong_key(fake: Served, family: str, key: str) -> None:
    with sync_client(fake, family, api_key=key) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="tiny", messages=said("x"))
    assert caught.value.response.headers["x-request-id"].startswith("req_")
    if family == "openai":
        assert caught.value.code == "invalid_api_key"
        assert key not in caught.value.message
    else:
        assert caught.value.code == "401"
        assert "invalid subscription key" in caught.value.message


def test_a_revoked_key_dies_within_the_time_that_the_cache_keeps_it(fake: Served) -> None:
    key, secret = fake.house.keyring.create("short-lived")
    with sync_client(fake, api_key=secret) as client:
        client.models.list()
        fake.house.keyring.revoke(key.id)

        def refused() -> bool:
            try:
                client.models.list()
            except openai.AuthenticationError:
                return True
            return False

        wait_until(refused)


def test_either_header_carries_the_key(fake: Served) -> None:
    for path in ("/v1/models", "/openai/v1/models", "/openai/models?api-version=2024-10-21"):
        assert fake.request("GET", path, authorization="", api_key=fake.key).status == 200
        assert fake.request("GET", path, authorization=f"bearer {fake.key}").status == 200
        assert fake.request("GET", path, authorization="").status == 401
        assert fake.request("GET", path, authorization=f"Basic {fake.key}").status == 401
        assert fake.request("GET", path, authorization="Bearer \xe9\xff").status == 401


def test_an_unknown_model(client: openai.OpenAI) -> None:
    for call in (
        lambda: client.chat.completions.create(model="nobody", messages=said("x")),
        lambda: client.completions.create(model="nobody", prompt="x"),
        lambda: client.embeddings.create(model="nobody", input="x"),
    ):
        with pytest.raises(
            openai.NotFoundError, match="There is no deployment 'nobody'. Deployed are: embedder"
        ) as caught:
            call()
        azure = isinstance(client, openai.AzureOpenAI) or "/openai/v1" in str(client.base_url)
        assert caught.value.code == ("DeploymentNotFound" if azure else "model_not_found")


@pytest.mark.parametrize("family", ["/v1", "/openai/v1"])
@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}])
def test_a_missing_model(fake: Served, family: str, model: dict[str, str]) -> None:
    for path, body in (
        ("chat/completions", {"messages": said("x")}),
        ("completions", {"prompt": "x"}),
        ("embeddings", {"input": "x"}),
    ):
        error = fake.request("POST", f"{family}/{path}", {**body, **model}).json["error"]
        assert (error["param"], error["code"]) == ("model", "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_type"),
        ({"temperature": "warm"}, "temperature", "invalid_type"),
        ({"n": 0}, "n", "invalid_type"),
        ({"n": 129}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_type"),
        ({"stop": ""}, "stop", "invalid_type"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"logit_bias": {"hello": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"9" * 30: 1}}, "logit_bias", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_feature"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}},
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_feature"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_feature"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_feature"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options", "unsupported_feature"),
    ],
)
def test_a_chat_that_cannot_be_meant_or_done(
    client: openai.OpenAI, fields: dict[str, object], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=said("x"), extra_body=fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "length >= 1"),
        ([{"role": "robot", "content": "x"}], "robot"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], "images"),
        ([{"role": "user", "content": [{"type": "video", "video": {}}]}], "video"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{"}}]}],
            "The arguments of the tool call 'c1' are not valid JSON",
        ),
    ],
)
def test_turns_that_cannot_be_meant_or_done(client: openai.OpenAI, turns: list[object], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(model="tiny", messages=turns)
    assert (caught.value.param or "").startswith("messages")


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        ("tiny", {"suffix": "x"}, "suffix"),
        ("fim", {"suffix": "x", "logprobs": 1}, "suffix"),
        ("fim", {"suffix": "x", "echo": True}, "echo"),
        ("fim", {"prompt": [1, 2], "suffix": "x"}, "suffix"),
        ("tiny", {"prompt": [1, 2], "echo": True}, "echo"),
        ("tiny", {"echo": True, "logprobs": 1}, "echo"),
        ("tiny", {"best_of": 3}, "best_of"),
        ("tiny", {"prompt": []}, "prompt"),
        ("tiny", {"prompt": ["a", 1]}, "prompt"),
        ("tiny", {"prompt": ["a", "b"], "n": 65}, "n"),
        ("embedder", {}, "model"),
    ],
)
def test_a_completion_that_cannot_be_meant_or_done(
    client: openai.OpenAI, model: str, fields: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": model, "prompt": "x", **fields})
    assert caught.value.param == param


def test_chat_needs_a_template_and_embeddings_an_encoder(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template") as caught:
        client.chat.completions.create(model="plain", messages=said("x"))
    assert caught.value.code == "unsupported_feature"
    with pytest.raises(openai.BadRequestError, match="It answers /chat/completions") as caught:
        client.embeddings.create(model="tiny", input="x")
    assert (caught.value.code, caught.value.param) == ("operation_not_supported", "model")
    for empty in ("", ["a", ""], []):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="embedder", input=empty)
        assert caught.value.param == "input"


def test_a_prompt_beyond_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens") as caught:
        client.chat.completions.create(model="tiny", messages=said("word " * 600))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_requests_per_minute(fake: Served) -> None:
    key = fake.limited_key("one a minute", requests_per_minute=1)
    with sync_client(fake, api_key=key) as client:
        raw = client.chat.completions.with_raw_response.create(model="tiny", messages=said("x"))
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError, match="requests per minute") as caught:
            client.chat.completions.create(model="tiny", messages=said("x"))
    headers = caught.value.response.headers
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.type == "rate_limit_error"
    assert headers["x-should-retry"] == "true"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(headers["retry-after-ms"]) <= 61_001
    assert int(headers["retry-after"]) == -(-int(headers["retry-after-ms"]) // 1000)
    assert headers["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.parametrize("family", ["azure", "azure-v1"])
def test_requests_per_minute_in_azures_shape(fake: Served, family: str) -> None:
    key = fake.limited_key(f"one a minute, {family}", requests_per_minute=1)
    with sync_client(fake, family, api_key=key) as client:
        client.chat.completions.create(model="tiny", messages=said("x"))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="tiny", messages=said("x"))
    assert caught.value.code == "429"
    assert caught.value.response.headers["x-ratelimit-limit-requests"] == "1"


def test_tokens_per_minute_count_the_estimate_before_and_the_truth_after(fake: Served) -> None:
    key = fake.limited_key("some tokens", tokens_per_minute=200)
    with sync_client(fake, api_key=key) as client:
        with pytest.raises(openai.RateLimitError, match="lower max_tokens") as caught:
            client.chat.completions.create(model="tiny", messages=said("x"), max_tokens=300)
        assert caught.value.response.headers["x-ratelimit-remaining-tokens"] == "200"
        for _ in range(5):  # by their estimates, two of these would be all
            raw = client.chat.completions.with_raw_response.create(model="tiny", messages=said("x"), max_tokens=60)
        left = client.chat.completions.with_raw_response.create(model="tiny", messages=said("x"), max_tokens=60)
        assert int(left.headers["x-ratelimit-remaining-tokens"]) < int(raw.headers["x-ratelimit-remaining-tokens"])
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="tiny", prompt=["a"] * 20, max_tokens=10)


async def test_requests_at_once(fake: Served) -> None:
    key = fake.limited_key("one at once", concurrency=1)
    async with async_client(fake, api_key=key) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=said("fake:delay=0.05 fake:tokens=1000 x"), stream=True
        )
        await anext(stream)
        with pytest.raises(openai.RateLimitError, match="concurrent requests"):
            await client.chat.completions.create(model="tiny", messages=said("x"))
        await stream.close()
    wait_until(lambda: fake.request("POST", "/v1/completions", {"model": "tiny", "prompt": "x"}, key=key).status == 200)


def test_a_failing_engine_is_tried_again_and_then_reported(failing: Served, waits: list[float]) -> None:
    before = len(failing.fakes["fragile"].requests)
    with sync_client(failing, max_retries=2) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="fragile", messages=said("x"))
    assert (caught.value.status_code, caught.value.code) == (503, "engine_failed")
    headers = caught.value.response.headers
    assert (headers["x-should-retry"], headers["retry-after"], headers["retry-after-ms"]) == ("true", "1", "1000")
    assert waits == [1.0, 1.0]
    assert len(failing.fakes["fragile"].requests) - before == 3
    assert failing.settled(headers["x-request-id"]).outcome == "engine_failed"


def test_a_client_that_tries_again_does_not_notice_a_short_failure(failing: Served, waits: list[float]) -> None:
    engine = failing.fakes["fragile"]

    def mend(seconds: float) -> None:
        waits.append(seconds)
        engine.faults = replace(engine.faults, fail=False)

    _base_client.time.sleep = mend
    with sync_client(failing, max_retries=2) as client:
        answer = client.chat.completions.create(model="fragile", messages=said("still here"))
    assert answer.choices[0].message.content == "still here"
    assert waits == [1.0]


def test_a_refused_request_is_not_tried_again(fake: Served, waits: list[float]) -> None:
    with sync_client(fake, max_retries=2) as client, pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=said("x"), temperature=3)
    assert waits == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", ["drop", "malformed"])
def test_an_engine_that_breaks_in_the_middle_of_a_stream(fake: Served, family: str, fault: str) -> None:
    heard = []

    def listen(stream: openai.Stream[ChatCompletionChunk]) -> None:
        for chunk in stream:
            heard.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)

    with sync_client(fake, family) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=said(f"fake:{fault}=2 one two three"), stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            listen(raw.parse())
    assert heard == ["one", " two"]
    assert "engine" in caught.value.message
    event = fake.settled(raw.headers["x-request-id"])
    assert (event.outcome, event.completion_tokens) == ("engine_failed", 2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"model": "tiny", "messages": said("fake:drop=0 x"), "n": 3}),
        ("chat/completions", {"model": "tiny", "messages": said("fake:fail x"), "stream": True}),
        ("completions", {"model": "tiny", "prompt": "fake:drop=0 x", "stream": True}),
        ("completions", {"model": "tiny", "prompt": "fake:fail x", "stream": True, "echo": True}),
        ("completions", {"model": "fim", "prompt": "fake:fail x", "suffix": "y"}),
    ],
)
def test_an_engine_that_breaks_before_its_answer(fake: Served, path: str, body: dict[str, object]) -> None:
    reply = fake.request("POST", f"/v1/{path}", body)
    assert (reply.status, reply.json["error"]["code"]) == (503, "engine_failed")
    assert fake.settled(reply.headers["x-request-id"]).outcome == "engine_failed"


async def test_a_killed_engine_fails_what_runs_and_comes_back(fake: Served) -> None:
    engine = fake.fakes["fragile"]
    async with async_client(fake) as client:
        stream = await client.chat.completions.create(
            model="fragile", messages=said("fake:delay=0.02 fake:tokens=5000 x"), stream=True
        )
        await anext(stream)
        fake.on_loop(engine.crash())
        with pytest.raises(openai.APIError, match="engine"):
            async for _ in stream:
                pass
        wait_until(lambda: fake.fakes["fragile"] is not engine and fake.routes.get("fragile").state is State.READY)
        answer = await client.chat.completions.create(model="fragile", messages=said("back again"))
        assert answer.choices[0].message.content == "back again"
