"""Shadows: answered requests put to a rollout's candidate too, compared and thrown away, never in the client's way."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from tandem.gateway.exchange import Exchange, Piece
from tandem.gateway.meters import Meters
from tandem.kit import clock
from tandem.kit.errors import TandemError
from tandem.serve import Answered, Upstream, Window, cosine, likeness

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Requests that shadows of this process work on. Each holds its request and the client's answer in memory.
_MOST_AT_ONCE = 8

Ask = Callable[[Upstream, Exchange], Awaitable[T]]
"""Puts the request to the candidate; tokens and the first piece are noted in the exchange."""
Compare = Callable[[T], tuple[bool, float]]
"""Whether an answer equals the client's, and how alike they are, 0 to 1."""


class Shadows:
    """What is put to candidates beside. It begins when the client has its answer, so that nobody waits for it."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, exchange: Exchange, upstreams: Sequence[Upstream], *, ask: Ask[T], compare: Compare[T]) -> None:
        """Put an answered request to the least loaded of these; it is left out where they have enough to do."""
        upstream = min(upstreams, key=lambda one: one.inflight)
        window = upstream.window
        if window is None:
            return  # the rollout has just ended
        if len(self._tasks) >= _MOST_AT_ONCE or upstream.inflight >= upstream.capabilities.parallel:
            window.skip()
            return
        task = asyncio.create_task(self._put(exchange, upstream, window, ask=ask, compare=compare), name="shadow")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is running."""
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _put(
        self, exchange: Exchange, upstream: Upstream, window: Window, *, ask: Ask[T], compare: Compare[T]
    ) -> None:
        beside = Exchange("shadow", exchange.operation, deployment=exchange.deployment)
        upstream.acquire()
        try:
            # The edge of a job. The client's request was answered, so a refusal is a failure too.
            (answer,) = await asyncio.gather(ask(upstream, beside), return_exceptions=True)
        finally:
            upstream.release()
        if isinstance(answer, BaseException):
            fault = None if isinstance(answer, TandemError) else answer
            _log.info("a shadow failed: %s", answer, extra={"request_id": exchange.id}, exc_info=fault)
        used = beside.usage()
        first_s = beside.first_token_s
        window.record(
            Answered.FAILED if isinstance(answer, BaseException) else Answered.OK,
            duration_s=clock.monotonic_seconds() - beside.started_s,
            first_token_s=None if first_s is None else first_s - beside.started_s,
            prompt_tokens=used.prompt,
            completion_tokens=used.completion,
        )
        self._meters.shadowed(exchange, used)
        if not isinstance(answer, BaseException):
            equal, alike = compare(answer)
            window.compare(equal=equal, likeness=alike)


def compare_pieces(client: Sequence[Piece], shadow: Sequence[Piece]) -> tuple[bool, float]:
    """Two answers in pieces: choice by choice, texts and tool calls."""
    one, other = _texts(client), _texts(shadow)
    indices = one.keys() | other.keys()
    alike = [likeness(one.get(index, ""), other.get(index, "")) for index in indices]
    return one == other, sum(alike) / len(alike) if alike else 1.0


def compare_vectors(client: Sequence[list[float]], shadow: Sequence[list[float]]) -> tuple[bool, float]:
    """Two answers of an embedding request: the mean of the cosines, from 0 on."""
    if len(client) != len(shadow):
        return False, 0.0
    alike = [max(cosine(one, other), 0.0) for one, other in zip(client, shadow, strict=True)]
    return client == shadow, sum(alike) / len(alike) if alike else 1.0


def _texts(pieces: Sequence[Piece]) -> Mapping[int, str]:
    texts: dict[int, list[str]] = {}
    for piece in pieces:
        parts = texts.setdefault(piece.index, [])
        parts.append(piece.text)
        for call in piece.tool_calls or ():
            if call.function is not None:
                parts += [call.function.name or "", call.function.arguments or ""]
    return {index: "".join(parts) for index, parts in texts.items()}
