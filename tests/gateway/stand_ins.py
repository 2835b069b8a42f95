"""An engine without a network: the fake engine's words, cut into parts of any size, or whatever a test wants to say."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tandem.serve import Capabilities, Feature, Upstream
from tandem.serve.engines import fake_script, fake_wire
from tandem.serve.engines.fake_script import Faults

EVERYTHING = Capabilities(features=frozenset(Feature), context_tokens=4096, parallel=4)
Parts = AsyncIterator[bytes]


def upstream(*, features: frozenset[Feature] = EVERYTHING.features) -> Upstream:
    """A replica that can do what is asked of it."""
    capabilities = Capabilities(features=features, context_tokens=4096, parallel=4)
    return Upstream(
        id="one", url="http://engine.invalid", api_key="secret", capabilities=capabilities, version="tiny@1"
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in parts."""
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


async def arriving(parts: list[bytes]) -> Parts:
    """The parts, one by one."""
    for part in parts:
        yield part


@dataclass
class Answer:
    """An engine's answer: the parts of its body, as they arrive."""

    parts: Parts
    status: int = 200
    closed: bool = False

    @property
    def content(self) -> "Answer":
        return self

    def iter_any(self) -> Parts:
        return self.parts

    async def read(self) -> bytes:
        return b"".join([part async for part in self.parts])

    def close(self) -> None:
        self.closed = True


@dataclass
class Session:
    """In the place of aiohttp's session: `answer` makes an answer from the path and the body of a request."""

    answer: Callable[[str, dict[str, Any]], Answer]
    sent: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    async def post(self, url: Any, *, data: bytes, headers: dict[str, str]) -> Answer:
        assert headers["Authorization"] == "Bearer secret"
        self.sent.append(json.loads(data))
        self.answers.append(self.answer(str(url).removeprefix("http://engine.invalid"), self.sent[-1]))
        return self.answers[-1]

    async def close(self) -> None:
        pass


def fake_session(places: list[int] | None = None) -> Session:
    """What the fake engine says; its streams arrive cut at these places."""

    def answer(path: str, body: dict[str, Any]) -> Answer:
        dialect = _dialect(path, body)
        if not body.get("stream"):
            return Answer(arriving([json.dumps(dialect.answer()).encode()]))
        wire = b"".join(fake_wire.event(chunk) for _, chunk in dialect.chunks(0)) + fake_wire.event("[DONE]")
        return Answer(arriving(cut(wire, places or [])))

    return Session(answer)


def _dialect(path: str, body: dict[str, Any]) -> fake_wire.Dialect:
    if path == "/v1/chat/completions":
        return fake_wire.Chat(body, fake_script.chat_script(body, Faults()), alias="x", cached=1)
    if path == "/infill":
        return fake_wire.Infill(body, fake_script.infill_script(body, Faults()), alias="x", cached=1)
    script = fake_script.completion_script(body["prompt"], body, Faults())
    return fake_wire.Completion(body, script, alias="x", cached=0)
