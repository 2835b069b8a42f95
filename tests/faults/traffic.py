"""Clients for fault tests: single requests whose every byte is watched, and threads that keep asking."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.faults.program import PATIENCE_S


@dataclass(slots=True)
class Answer:
    """What a client saw of one answer; `whole` once its last byte was there."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    @property
    def id(self) -> str:
        """The request's id; empty if not even the head arrived."""
        return self.headers.get("x-request-id", "")

    @property
    def events(self) -> list[Any]:
        """The JSON events of a stream, in order."""
        lines = [line.removeprefix(b"data: ") for line in self.body.splitlines() if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    @property
    def is_finished_stream(self) -> bool:
        """Whether it ended as a stream must."""
        return self.whole and self.body.endswith(b"data: [DONE]\n\n")

    def json(self) -> Any:
        """The body of an answer that is no stream."""
        return json.loads(self.body)

    def tokens(self) -> tuple[int, int]:
        """The prompt and the completion tokens that the answer states."""
        stream = self.headers["content-type"].startswith("text/event-stream")
        usage = (self.events[-1] if stream else self.json())["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]


@dataclass(slots=True)
class Exchange:
    """One request on its way; reading goes on where it stopped."""

    connection: http.client.HTTPConnection
    answer: Answer
    _response: http.client.HTTPResponse | None = None

    def read_head(self) -> None:
        """Wait for the status and the headers."""
        self._response = self.connection.getresponse()
        self.answer.status = self._response.status
        self.answer.headers = {name.lower(): value for name, value in self._response.getheaders()}

    def read(self) -> Answer:
        """Read to the end, or to where it breaks off."""
        try:
            if self._response is None:
                self.read_head()
            assert self._response is not None
            while data := self._response.read1(65536):
                self.answer.body += data
            announced = self.answer.headers.get("content-length")
            self.answer.whole = announced is None or len(self.answer.body) == int(announced)
        except (http.client.HTTPException, OSError):
            pass
        finally:
            self.connection.close()
        return self.answer


def sent(url: str, path: str, body: object, *, key: str, method: str = "POST") -> Exchange:
    """Send a request.

    Raises:
        OSError: nobody takes it.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
    except BaseException:
        connection.close()
        raise
    return Exchange(connection, Answer())


def asked(url: str, path: str, body: object = None, *, key: str = "", method: str = "POST") -> Answer:
    """Send a request and read its answer; an unanswered one has status 0."""
    try:
        return sent(url, path, body, key=key, method=method).read()
    except OSError:
        return Answer()


def fetched(url: str, path: str, *, key: str) -> Any:
    """The JSON of a GET that must succeed."""
    answer = asked(url, path, key=key, method="GET")
    assert answer.status == 200, answer.body
    return answer.json()


def ledger(url: str, key: str) -> list[dict[str, Any]]:
    """All entries of the key's tenant, page by page."""
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        page = fetched(url, f"/api/v1/usage/events?limit=500{after}", key=key)
        rows += page["data"]
        if page["next"] is None:
            return rows
        after = f"&after={page['next']}"


def chat(model: str, *, tokens: int, stream: bool = False) -> dict[str, Any]:
    """A chat request that is answered with exactly so many tokens."""
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": tokens,
    }
    return request | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def streaming(url: str, *, key: str, tokens: int) -> Exchange:
    """A stream of the slow deployment whose first token has arrived."""
    exchange = sent(url, "/v1/chat/completions", chat("slow", tokens=tokens, stream=True), key=key)
    exchange.read_head()
    assert exchange.answer.status == 200
    return exchange


class Traffic:
    """Threads that ask the same things over and over; `answers` holds all that they saw."""

    def __init__(self, url: str, *, key: str, requests: list[dict[str, Any]]) -> None:
        self.answers: list[Answer] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(url, key, request), daemon=True) for request in requests
        ]

    def _ask(self, url: str, key: str, request: dict[str, Any]) -> None:
        while not self._stop.is_set():
            answer = asked(url, "/v1/chat/completions", request, key=key)
            self.answers.append(answer)
            if answer.status == 0:
                return  # the server is gone

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        """Ask until the block ends, and let the last answers come."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(PATIENCE_S)
