"""Every way out of a request settles its ledger entry exactly once and gives back all that it held."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from starlette.routing import Router

from tandem.accounts import Keyring, Ledger, Limiter, UsageEvent, events
from tandem.accounts import Limits as KeyLimits
from tandem.gateway import Limits, Meters, Pipeline, surface_routes
from tandem.gateway.surfaces import endpoints
from tandem.gateway.surfaces.render import ChatRenderer
from tandem.kit.config import Settings
from tandem.kit.db import Database
from tandem.kit.errors import StorageFull, Unavailable
from tandem.serve import Route, Routes, State
from tandem.spec import Task
from tests.gateway.stand_ins import EVERYTHING, Answer, Session, arriving, fake_session, upstream

pytestmark = pytest.mark.anyio

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "one two three"}]}
STREAM = {**CHAT, "stream": True}


@dataclass
class Client:
    """An ASGI client that sends one request; it leaves when it has got so many parts of the answer's body."""

    body: bytes
    leave_after: int | None = None
    stall_after: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    got: list[Any] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    asked: bool = False

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.got.append(message)
        if self.leave_after is not None and len(self.parts) >= self.leave_after:
            self.left.set()
            await asyncio.Event().wait()
        if self.stall_after is not None and len(self.parts) >= self.stall_after:
            await asyncio.Event().wait()

    @property
    def parts(self) -> list[bytes]:
        return [message["body"] for message in self.got if message["type"] == "http.response.body"]

    @property
    def status(self) -> int:
        return int(self.got[0]["status"])

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.parts[-1].removeprefix(b"data: "))["error"]

    def header(self, name: bytes) -> str | None:
        return dict(self.got[0]["headers"]).get(name, b"").decode() or None


class Spy(Ledger):
    """A ledger that counts settlements."""

    settlements = 0

    def settled(self, *args: Any, **kwargs: Any) -> None:
        self.settlements += 1
        super().settled(*args, **kwargs)


class House:
    """A gateway with real accounts, in front of an engine that says what a test wants."""

    def __init__(self, db: Database, ledger: Spy, key: str) -> None:
        self.db = db
        self.ledger = ledger
        self.key = key
        self.limiter = Limiter()
        self.upstream = upstream()
        self.routes = Routes()
        self.publish(Task.GENERATE)
        self.registry = CollectorRegistry()
        self.pipeline = Pipeline(
            keyring=Keyring(db, cache_s=60, grace_s=60),
            limiter=self.limiter,
            ledger=ledger,
            routes=self.routes,
            meters=Meters(self.registry),
            timeout_s=5,
        )
        limits = Limits(body_bytes=10_000, stall_s=0.1)
        self.app = Router(surface_routes(self.pipeline, limits, region="here"))

    def publish(self, task: Task) -> None:
        self.routes.publish(
            Route(
                name="tiny",
                version="tiny@1",
                task=task,
                created=1,
                facts={},
                capabilities=EVERYTHING,
                state=State.READY,
            )
        )
        self.routes.attach("tiny", (self.upstream,))

    async def ask(self, body: Any, session: Any = None, *, operation: str = "chat/completions", **ways: Any) -> Client:
        self.pipeline._session = session or fake_session()
        client = Client(body if isinstance(body, bytes) else json.dumps(body).encode(), **ways)
        path = f"/v1/{operation}"
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {self.key}".encode()), *client.headers],
        }
        await self.app(scope, client.receive, client.send)
        self.at_rest()
        return client

    def at_rest(self) -> None:
        """Nothing is held any more."""
        assert self.upstream.inflight == 0
        assert all(gauge.running == 0 for gauge in self.limiter._gauges.values())
        assert self.registry.get_sample_value("tandem_requests_in_flight") == 0

    async def only_event(self) -> UsageEvent:
        """The one entry that there is, settled once."""
        await self.ledger.flush()
        assert self.ledger.settlements == 1
        [event] = events(self.db)
        return event

    async def no_event(self) -> None:
        await self.ledger.flush()
        assert (self.ledger.settlements, events(self.db)) == (0, [])


@pytest.fixture
async def house(sqlite_database: Database, settings: Settings) -> AsyncIterator[House]:
    limits = KeyLimits(requests_per_minute=3, tokens_per_minute=10_000, concurrency=1)
    key = Keyring(sqlite_database, cache_s=60, grace_s=60).create("test", limits=limits).secret
    ledger = Spy(sqlite_database, settings.home / "journal", segment_bytes=4096)
    await ledger.start()
    yield House(sqlite_database, ledger, key)
    await ledger.stop()


def says(status: int, *parts: bytes) -> Session:
    """An engine that answers with this, whatever it is asked."""
    return Session(lambda _path, _body: Answer(arriving(list(parts)), status))


def raises(error: Exception, *parts: bytes) -> Session:
    """An engine that says this much, and then its connection fails."""

    async def failing() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        raise error

    return Session(lambda _path, _body: Answer(failing()))


class Unreachable:
    """A session whose every call fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    async def post(self, *_args: Any, **_more: Any) -> Answer:
        self.calls += 1
        raise self.error


def event_of(text: str) -> bytes:
    chunk = {"choices": [{"delta": {"content": text}}], "timings": {"cache_n": 1, "prompt_n": 3, "predicted_n": 1}}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@pytest.mark.parametrize("body", [CHAT, STREAM, {**CHAT, "n": 3}, {**STREAM, "n": 3}])
async def test_a_finished_answer(house: House, body: dict[str, Any]) -> None:
    client = await house.ask(body)
    event = await house.only_event()
    choices = body.get("n", 1)
    assert client.status == 200
    assert client.header(b"x-request-id") == event.id
    assert (event.outcome, event.prompt_tokens, event.cached_tokens) == ("ok", 4, 1)
    assert event.completion_tokens == 3 * choices
    assert (event.deployment, event.version, event.surface, event.operation) == ("tiny", "tiny@1", "openai", "chat")
    labels = {"operation": "chat", "deployment": "tiny", "outcome": "ok"}
    assert house.registry.get_sample_value("tandem_requests_total", labels) == 1
    tokens = {"deployment": "tiny", "kind": "completion"}
    assert house.registry.get_sample_value("tandem_tokens_total", tokens) == 3 * choices


async def test_the_journal_is_written_before_the_last_byte_leaves(house: House) -> None:
    for body in (CHAT, STREAM):
        seen: list[int] = []
        send = Client.send

        async def watch(client: Client, message: Any, seen: list[int] = seen, send: Any = send) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                seen.append(house.ledger.settlements)
            await send(client, message)

        before = house.ledger.settlements
        Client.send, original = watch, Client.send
        try:
            await house.ask(body)
        finally:
            Client.send = original
        assert seen == [before + 1]


@pytest.mark.parametrize("body", [CHAT, STREAM, {**STREAM, "n": 2}])
async def test_refused_by_the_engine(house: House, body: dict[str, Any]) -> None:
    refusal = json.dumps({"error": {"message": "no such token", "type": "invalid_request_error"}}).encode()
    client = await house.ask(body, says(400, refusal))
    event = await house.only_event()
    assert (client.status, client.error["message"]) == (400, "no such token")
    assert (event.outcome, event.completion_tokens) == ("refused", 0)


async def test_refused_by_the_check(house: House) -> None:
    client = await house.ask({**CHAT, "top_logprobs": 3})
    assert (client.status, client.error["param"]) == (400, "top_logprobs")
    assert (await house.only_event()).outcome == "refused"


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    "session",
    [
        lambda: says(500, b'{"error": {"message": "out of memory"}}'),
        lambda: says(500, b"<html>"),
        lambda: says(200, b"<html>\n"),
        lambda: says(200, b'data: {"error": {"message": "slot lost"}}\n\n'),
        lambda: says(200, b'data: {"choices": [{"delta"\n\n'),
        lambda: raises(aiohttp.ClientPayloadError()),
        lambda: raises(ConnectionResetError()),
        lambda: Unreachable(aiohttp.ServerDisconnectedError()),
        lambda: Unreachable(ConnectionRefusedError()),
    ],
)
async def test_a_failed_engine(house: House, body: dict[str, Any], session: Any) -> None:
    client = await house.ask(body, session())
    assert (client.status, client.error["code"]) == (503, "engine_failed")
    assert client.header(b"retry-after-ms") == "1000"
    assert (await house.only_event()).outcome == "engine_failed"


async def test_a_lost_connection_is_tried_once_more_and_a_refused_one_is_not(house: House) -> None:
    """An engine may close a kept connection just when a request comes; a dead one refuses."""
    lost = Unreachable(aiohttp.ServerDisconnectedError())
    await house.ask(CHAT, lost)
    refused = Unreachable(ConnectionRefusedError())
    await house.ask(CHAT, refused)
    assert (lost.calls, refused.calls) == (2, 1)


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_engine(house: House, body: dict[str, Any], status: int) -> None:
    client = await house.ask(body, says(status, b'{"error": {"message": "Loading model"}}'))
    assert (client.status, client.error["code"]) == (503, "unavailable")
    assert (await house.only_event()).outcome == "error"


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_an_engine_that_takes_too_long(house: House, body: dict[str, Any]) -> None:
    client = await house.ask(body, raises(aiohttp.ServerTimeoutError()))
    assert client.status == 503
    assert "request_timeout_s" in client.error["message"]
    assert (await house.only_event()).outcome == "error"


@pytest.mark.parametrize("end", [b"", b"data: nonsense\n\n", b'data: {"error": {"message": "slot lost"}}\n\n'])
async def test_an_engine_that_breaks_in_the_middle(house: House, end: bytes) -> None:
    client = await house.ask(STREAM, says(200, event_of("one") + end))
    event = await house.only_event()
    assert client.status == 200
    assert b'"content":"one"' in client.parts[0]
    assert client.error["code"] == "engine_failed"
    assert (event.outcome, event.prompt_tokens, event.cached_tokens, event.completion_tokens) == (
        "engine_failed",
        4,
        1,
        1,
    )


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_client_that_leaves_a_stream(house: House, parts: int) -> None:
    session = says(200, event_of("one"), event_of("two"), event_of("three"))
    await house.ask(STREAM, session, leave_after=parts)
    assert (await house.only_event()).outcome == "client_gone"
    assert session.answers[0].closed


async def test_a_client_that_leaves_before_a_whole_answer(house: House) -> None:
    asked = asyncio.Event()

    class Slow:
        async def post(self, *_args: Any, **_more: Any) -> Answer:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    client = Client(json.dumps(CHAT).encode())
    house.pipeline._session = Slow()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"api-key", house.key.encode())],
    }
    running = asyncio.create_task(house.app(scope, client.receive, client.send))
    await asked.wait()
    client.left.set()
    await running
    house.at_rest()
    event = await house.only_event()
    assert (event.outcome, event.completion_tokens, client.got) == ("client_gone", 0, [])


async def test_a_client_that_does_not_read(house: House) -> None:
    session = says(200, event_of("one"), event_of("two"))
    client = await house.ask(STREAM, session, stall_after=1)
    event = await house.only_event()
    assert (event.outcome, event.completion_tokens, len(client.parts)) == ("client_gone", 1, 1)
    assert session.answers[0].closed


async def test_a_shutdown_in_the_middle(house: House) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield event_of("one")
        waiting.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(house.ask(STREAM, Session(lambda _path, _body: Answer(endless()))))
    await waiting.wait()
    running.cancel()
    client = await running
    assert any(b"The server is stopping." in message.get("body", b"") for message in client.got)
    house.at_rest()
    event = await house.only_event()
    assert (event.outcome, event.completion_tokens) == ("interrupted", 1)


async def test_a_limit(house: House) -> None:
    for _ in range(3):
        assert (await house.ask(CHAT)).status == 200
    client = await house.ask(CHAT)
    assert client.status == 429
    assert client.header(b"x-ratelimit-remaining-requests") == "0"
    assert house.ledger.settlements == 3
    await house.ledger.flush()
    assert len(events(house.db)) == 3


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [(StorageFull("No space left.", remedy="Free some."), 507, "false"), (Unavailable("No journal."), 503, "true")],
)
async def test_a_ledger_that_takes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, again: str
) -> None:
    def full(**_more: Any) -> None:
        raise error

    monkeypatch.setattr(house.ledger, "reserve", full)
    session = fake_session()
    client = await house.ask(CHAT, session)
    assert (client.status, client.header(b"x-should-retry")) == (status, again)
    assert session.sent == [], "the engine was not called"
    await house.no_event()
    left = next(iter(house.limiter._gauges.values())).tokens.total
    assert left == 0, "the tokens of the limit are free again"


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_fault_of_ours(house: House, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]) -> None:
    def broken(*_args: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(ChatRenderer, "answer", broken)
    monkeypatch.setattr(ChatRenderer, "chunks", broken)
    client = await house.ask(body)
    event = await house.only_event()
    assert client.error["message"] == "Something broke here."
    # A stream has begun by then, so its status is written.
    assert (client.status, event.outcome) == (200 if body is STREAM else 500, "error")
    assert event.completion_tokens == 3


async def test_a_fault_before_the_engine(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(endpoints, "estimate_tokens", broken)
    assert (await house.ask(CHAT)).status == 500
    await house.no_event()


@pytest.mark.parametrize(
    ("body", "operation", "status"),
    [
        ({**CHAT, "model": "nobody"}, "chat/completions", 404),
        ({"model": "tiny", "input": "x"}, "embeddings", 400),
        (b"{", "chat/completions", 400),
        (b" " * 10_001, "chat/completions", 413),
    ],
)
async def test_who_is_not_let_in_leaves_no_entry(house: House, body: Any, operation: str, status: int) -> None:
    client = await house.ask(body, operation=operation)
    assert client.status == status
    await house.no_event()
    refused = {"surface": "openai", "status": str(status)}
    assert house.registry.get_sample_value("tandem_refused_total", refused) == 1


async def test_a_deployment_without_a_ready_replica(house: House) -> None:
    house.routes.attach("tiny", ())
    client = await house.ask(CHAT)
    assert client.status == 503
    assert int(client.header(b"retry-after") or 0) >= 1
    await house.no_event()


async def test_embeddings_settle_too(house: House) -> None:
    house.publish(Task.EMBED)
    answer = {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 5}}
    client = await house.ask(
        {"model": "tiny", "input": "x"}, says(200, json.dumps(answer).encode()), operation="embeddings"
    )
    event = await house.only_event()
    assert (client.status, event.outcome, event.prompt_tokens, event.operation) == (200, "ok", 5, "embeddings")


async def test_embeddings_that_cannot_be_read(house: House) -> None:
    house.publish(Task.EMBED)
    client = await house.ask({"model": "tiny", "input": "x"}, says(200, b'{"data": 3}'), operation="embeddings")
    assert client.status == 503
    assert (await house.only_event()).outcome == "engine_failed"
