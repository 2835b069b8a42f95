"""The fake engine: predictable words, and faults on demand."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.fake_script import Faults, embedding_of, instance_of, tokenize, without_knobs
from tandem.serve.engines.fake_wire import Dialect
from tandem.serve.engines.port import Address, Feature, Health
from tandem.spec import Task
from tests.serve.launches import CHAT, COMPLETIONS, authorization, post, stream, tiny_launch, until

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    """A running fake that can do everything."""
    engine = FakeEngine(tiny_launch(tmp_path), features=frozenset(Feature))
    await engine.start()
    yield engine
    await engine.stop()


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokenize(text)) == text


@given(st.text(alphabet="ab \n"))
def test_tokens_are_words_with_their_space(text: str) -> None:
    assert [token.split() for token in tokenize(text) if token.strip()] == [[word] for word in text.split()]


def test_knobs_are_taken_out() -> None:
    text, faults = without_knobs("say fake:delay=0.5 this fake:fail fake:drop=3", Faults(hang=True))
    assert text == "say this"
    assert faults == Faults(delay=0.5, fail=True, drop=3, hang=True)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {"a": "text"}),
        ({"type": "array", "items": {"type": "string"}}, []),
        ({"enum": ["b", "c"]}, "b"),
        ({"const": 7}, 7),
        ({}, {}),
    ],
)
def test_instances_fit_their_schema(schema: dict[str, object], value: object) -> None:
    assert instance_of(schema) == value


def test_vectors_have_length_one_and_follow_the_words() -> None:
    one, same, other = (embedding_of(text, 64) for text in ("red apple", "apple red", "blue sky"))
    assert sum(value * value for value in one) == pytest.approx(1)
    assert one == same
    assert one != other


async def test_says_the_last_message_again(engine: FakeEngine) -> None:
    _, answer = await post(engine.address, CHAT, messages=[*_user("never mind"), *_user("one two  three")])
    assert answer["choices"][0]["message"]["content"] == "one two  three"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3
    assert engine.requests[-1]["messages"][-1]["content"] == "one two  three"


async def test_streams_the_same_words(engine: FakeEngine) -> None:
    chunks = await stream(engine.address, CHAT, messages=_user("one two three"))
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert pieces == [None, "one", " two", " three", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_stop_strings_cut(engine: FakeEngine) -> None:
    _, answer = await post(engine.address, CHAT, messages=_user("one two three four"), stop=["hree", "four"])
    assert answer["choices"][0]["message"]["content"] == "one two t"
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_several_choices(engine: FakeEngine) -> None:
    _, answer = await post(engine.address, COMPLETIONS, prompt="one two", n=2)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, " one two"), (1, " one two")]
    chunks = await stream(engine.address, COMPLETIONS, prompt="one two", n=2)
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 0, 0, 1, 1, 1]


async def test_required_tool_is_called(engine: FakeEngine) -> None:
    body = {"messages": _user("add"), "tools": [TOOL], "tool_choice": "required"}
    _, answer = await post(engine.address, CHAT, **body)
    call = answer["choices"][0]["message"]["tool_calls"][0]
    assert (call["type"], call["function"]["name"]) == ("function", "add")
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    deltas = [chunk["choices"][0]["delta"] for chunk in await stream(engine.address, CHAT, **body)]
    calls = [delta["tool_calls"][0]["function"] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["name"] == "add"
    assert json.loads("".join(call["arguments"] for call in calls)) == {"a": 1}


async def test_schema_is_filled(engine: FakeEngine) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    _, answer = await post(engine.address, CHAT, messages=_user("go"), response_format=wanted)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"ok": True}


async def test_embeddings(tmp_path: Path) -> None:
    engine = FakeEngine(tiny_launch(tmp_path, task=Task.EMBED, facts={"embedding_length": 16}))
    await engine.start()
    status, answer = await post(engine.address, "/v1/embeddings", input=["one two", "three"])
    assert status == 200
    assert [len(item["embedding"]) for item in answer["data"]] == [16, 16]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    status, _ = await post(engine.address, "/v1/embeddings", input="word " * 1000)
    assert status == 400
    status, _ = await post(engine.address, COMPLETIONS, prompt="one")
    assert status == 501
    await engine.stop()


async def test_fails_before_the_first_byte(engine: FakeEngine) -> None:
    status, answer = await post(engine.address, CHAT, messages=_user("fake:fail one"), stream=True)
    assert status == 500
    assert answer["error"]["type"] == "server_error"
    engine.faults = Faults(fail=True)
    status, _ = await post(engine.address, COMPLETIONS, prompt="one")
    assert status == 500


@pytest.mark.parametrize(("after", "received"), [(0, []), (2, ["one", " two"]), (3, ["one", " two", " three"])])
async def test_drops_the_connection(engine: FakeEngine, after: int, received: list[str]) -> None:
    lines: list[bytes] = []

    async def read() -> None:
        body = {"messages": _user(f"fake:drop={after} one two three"), "stream": True}
        headers = authorization(engine.address)
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(engine.address.url + CHAT, json=body) as answer,
        ):
            async for line in answer.content:
                lines.append(line)

    with pytest.raises(aiohttp.ClientError):
        await read()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    # What the kernel had not sent yet is lost with the connection.
    assert [piece for piece in pieces if piece] == received[: len([piece for piece in pieces if piece])]
    assert not any(chunk["choices"][0]["finish_reason"] for chunk in chunks)


async def test_sends_a_malformed_chunk(engine: FakeEngine) -> None:
    with pytest.raises(json.JSONDecodeError):
        await stream(engine.address, CHAT, messages=_user("fake:malformed=1 one two"))


async def test_hangs_until_the_client_goes(engine: FakeEngine) -> None:
    asking = asyncio.create_task(post(engine.address, CHAT, messages=_user("fake:hang one")))
    await until(lambda: engine.active == 1)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled(), "it was not answered"
    await until(lambda: (engine.active, engine.cancelled) == (0, 1))
    assert (await engine.metrics())["fake:requests_cancelled_total"] == 1


async def test_more_requests_than_slots_wait(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = engine._perform
    go_on = asyncio.Event()
    active: list[int] = []

    async def held(request: web.Request, wire: Dialect) -> web.StreamResponse:
        active.append(engine.active)
        await go_on.wait()
        return await answering(request, wire)

    monkeypatch.setattr(engine, "_perform", held)
    asking = asyncio.gather(*(post(engine.address, COMPLETIONS, prompt="word") for _ in range(6)))
    await until(lambda: len(engine.requests) == 6)
    await until(lambda: len(active) == engine.launch.parallel)
    go_on.set()
    assert [status for status, _ in await asking] == [200] * 6
    assert len(active) == 6
    assert max(active) == engine.launch.parallel


async def test_ill_on_demand(engine: FakeEngine) -> None:
    engine.healthy = False
    assert await engine.health() is Health.FAILING


async def test_wrong_key(engine: FakeEngine) -> None:
    wrong = Address(url=engine.address.url, api_key="wrong")
    assert (await post(wrong, CHAT, messages=_user("one")))[0] == 401


@pytest.mark.parametrize("rounds", range(6))
async def test_a_stop_closes_what_was_accepted_just_before(tmp_path: Path, rounds: int) -> None:
    engine = FakeEngine(tiny_launch(tmp_path))
    await engine.start()
    host, _, port = engine.address.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        for _ in range(rounds):
            await asyncio.sleep(0)
        await engine.stop()
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass  # it was never accepted
