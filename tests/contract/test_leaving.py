"""Clients that leave, and clients that do not read: the engine stops, the ledger knows, memory stays small."""

import http.client
import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tandem.kit.config import load_settings
from tandem.serve import DeployOptions
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.fake_script import Faults
from tandem.serve.engines.loopback import parse_metrics
from tests.contract.clients import FAMILIES, async_client, said, sync_client
from tests.serving import DEADLINE_S, Served, served, tiny_model, wait_until

pytestmark = pytest.mark.anyio

LONG = "fake:tokens=1000 one two"


class SilentAfter:
    """Faults of an engine that says so many tokens at once, and then none for an hour."""

    fail = hang = tool = False
    drop = malformed = -1
    tokens = 1000

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.said = 0

    @property
    def delay(self) -> float:
        """Seconds before the next token."""
        self.said += 1
        return 0.0 if self.said <= self.limit else 3600.0


@pytest.fixture
def engine(fake: Served) -> Iterator[FakeEngine]:
    """The engine of `tiny`, which must be at rest again at the end."""
    engine = fake.fakes["tiny"]
    wait_until(lambda: engine.active == 0)
    yield engine
    engine.faults = Faults()
    wait_until(lambda: engine.active == 0 and not fake.routes.pick("tiny").inflight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_who_leaves_a_stream_pays_for_what_was_made_until_then(
    fake: Served, engine: FakeEngine, family: str, tokens: int
) -> None:
    engine.faults = SilentAfter(tokens)
    cancelled = engine.cancelled
    with sync_client(fake, family) as client:
        raw = client.chat.completions.with_raw_response.create(model="tiny", messages=said("one two"), stream=True)
        stream = raw.parse()
        for _ in range(tokens + 1):  # one for the role
            next(stream)
        stream.close()
    event = fake.settled(raw.headers["x-request-id"])
    assert (event.outcome, event.completion_tokens) == ("client_gone", tokens)
    assert event.prompt_tokens == (3 if tokens else 0)  # the engine says it with the first token
    wait_until(lambda: engine.cancelled == cancelled + 1)


async def test_who_leaves_a_stream_of_several_choices_ends_them_all(fake: Served, engine: FakeEngine) -> None:
    engine.faults = SilentAfter(7)
    cancelled = engine.cancelled
    async with async_client(fake) as client:
        raw = await client.completions.with_raw_response.create(model="tiny", prompt="one two", n=3, stream=True)
        stream = raw.parse()
        for _ in range(7):
            await anext(stream)
        await stream.close()
    event = fake.settled(raw.headers["x-request-id"])
    assert (event.outcome, event.prompt_tokens, event.completion_tokens) == ("client_gone", 2, 7)
    wait_until(lambda: engine.cancelled == cancelled + 3)


@pytest.mark.parametrize("choices", [1, 2])
def test_who_leaves_before_a_whole_answer_ends_it(fake: Served, engine: FakeEngine, choices: int) -> None:
    engine.faults = SilentAfter(0)
    cancelled = engine.cancelled
    key = fake.house.keyring.create(f"leaver {choices}").secret
    body = {"model": "tiny", "messages": said("one two"), "n": choices}
    address = urlsplit(fake.url).netloc
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"api-key": key})
    wait_until(lambda: engine.active == choices)
    connection.close()
    wait_until(lambda: engine.cancelled == cancelled + choices)
    rows: list[dict[str, Any]] = []
    wait_until(lambda: rows or rows.extend(fake.request("GET", "/api/v1/usage/events", key=key).json["data"]))
    assert [(row["outcome"], row["completion_tokens"]) for row in rows] == [("client_gone", 0)]


def test_who_leaves_while_sending_was_never_let_in(fake: Served, engine: FakeEngine) -> None:
    key = fake.house.keyring.create("hesitant").secret
    before = len(engine.requests)
    address = urlsplit(fake.url)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\napi-key: {key}\r\nContent-Length: 100\r\n\r\n{{"
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode())
    assert fake.request("POST", "/v1/completions", {"model": "tiny", "prompt": "x"}, key=key).status == 200
    assert len(fake.request("GET", "/api/v1/usage/events", key=key).json["data"]) == 1
    assert len(engine.requests) == before + 1


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A platform that waits a third of a second for a client to read."""
    folder = tmp_path_factory.mktemp("impatient")
    settings = load_settings({}, home=folder / "home", port=0, stall_timeout_s=0.3)
    with served(settings, models={"tiny": tiny_model(folder)}) as running_one:
        yield running_one


WORD = "x" * 8000
MEBIBYTE = 2**20


@pytest.mark.parametrize("choices", [1, 3])
def test_a_client_that_does_not_read_is_cut_off_and_costs_little(impatient: Served, choices: int) -> None:
    engine = impatient.fakes["tiny"]
    cancelled = engine.cancelled
    # 800 MB for each choice, if somebody kept it.
    body = {"model": "tiny", "messages": said(f"fake:tokens=100000 {WORD}"), "n": choices, "stream": True}
    encoded = json.dumps(body).encode()
    address = urlsplit(impatient.url)
    with socket.socket() as connection:
        connection.settimeout(DEADLINE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\napi-key: {impatient.key}\r\n"
        connection.sendall(f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded)
        begun = connection.recv(1024)
        largest = 0

        def stopped() -> bool:
            nonlocal largest
            largest = max(largest, impatient.unsent_bytes())
            return engine.cancelled == cancelled + choices

        wait_until(stopped)
        request_id = begun.split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()
        event = impatient.settled(request_id)
    assert event.outcome == "client_gone"
    # The rest lies in the kernel's buffers: between engine and gateway, and between gateway and client.
    assert event.completion_tokens * len(WORD) < 64 * MEBIBYTE
    assert 0 < largest < MEBIBYTE
    reply = impatient.request("POST", "/v1/chat/completions", {"model": "tiny", "messages": said("still here")})
    assert reply.status == 200


def test_a_client_that_waits_long_for_tokens_is_not_cut_off(impatient: Served) -> None:
    """Only writing counts: here 1 s passes between tokens, three times what a client may leave unread."""
    with sync_client(impatient) as client:
        stream = client.chat.completions.create(model="tiny", messages=said("fake:delay=1 one"), stream=True)
        assert [chunk.choices[0].delta.content for chunk in stream] == ["", "one", None]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """llama.cpp with a tiny model that talks for tens of thousands of tokens."""
    pytest.importorskip("xllamacpp", reason="the CPU engine is not installed")
    folder = tmp_path_factory.mktemp("patient")
    settings = load_settings({}, home=folder / "home", port=0)
    models = {"long": tiny_model(folder, "long", context_length=LONGEST)}
    options = DeployOptions(context_tokens=LONGEST, parallel=2, threads=1)
    with served(settings, models=models, engine="llamacpp", options=options) as running_one:
        yield running_one


LONGEST = 32768


def _told(served_one: Served, path: str) -> bytes:
    """What llama.cpp says of itself."""
    upstream = served_one.routes.pick("long")
    request = urllib.request.Request(upstream.url + path, headers={"Authorization": f"Bearer {upstream.api_key}"})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        return bytes(answer.read())


def _busy_slots(served_one: Served) -> int:
    return sum(slot["is_processing"] for slot in json.loads(_told(served_one, "/slots")))


def _tokens_made(served_one: Served) -> float:
    return parse_metrics(_told(served_one, "/metrics").decode())["llamacpp:tokens_predicted_total"]


@pytest.mark.parametrize("choices", [1, 2])
def test_llamacpp_stops_for_who_leaves(patient: Served, choices: int) -> None:
    with sync_client(patient) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="long", messages=said("hello"), n=choices, stream=True
        )
        stream = raw.parse()
        heard = [next(stream) for _ in range(20)]
        wait_until(lambda: _busy_slots(patient) == choices)
        stream.close()
    event = patient.settled(raw.headers["x-request-id"])
    assert event.outcome == "client_gone"
    assert len(heard) - 2 * choices <= event.completion_tokens < LONGEST // 2
    wait_until(lambda: _busy_slots(patient) == 0)


def test_llamacpp_stops_for_who_leaves_before_a_whole_answer(patient: Served) -> None:
    before = _tokens_made(patient)
    address = urlsplit(patient.url).netloc
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    body = json.dumps({"model": "long", "messages": said("hello")})
    connection.request("POST", "/v1/chat/completions", body, {"api-key": patient.key})
    wait_until(lambda: _busy_slots(patient) == 1)
    connection.close()
    wait_until(lambda: _busy_slots(patient) == 0)
    assert _tokens_made(patient) - before < LONGEST // 2


@pytest.mark.fault
def test_a_killed_llamacpp_fails_what_runs_and_comes_back(patient: Served) -> None:
    def listen(stream: openai.Stream[Any]) -> None:
        for _ in stream:
            pass

    with sync_client(patient) as client:
        raw = client.chat.completions.with_raw_response.create(model="long", messages=said("hello"), stream=True)
        stream = raw.parse()
        next(stream)
        wait_until(lambda: _pid(patient))  # it is recorded a moment after the replica is ready
        killed = _pid(patient)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="send the request again"):
            listen(stream)
        assert patient.settled(raw.headers["x-request-id"]).outcome == "engine_failed"

    def serves_again() -> bool:
        body = {"model": "long", "messages": said("hello"), "max_tokens": 2}
        reply = patient.request("POST", "/v1/chat/completions", body)
        assert reply.status in {200, 503}
        assert reply.status == 200 or reply.headers["x-should-retry"] == "true"
        return reply.status == 200

    wait_until(serves_again)
    wait_until(lambda: _pid(patient) not in {None, killed})


def _pid(served_one: Served) -> int | None:
    [replica] = served_one.house.deployments.get("long").replicas
    return replica.pid
