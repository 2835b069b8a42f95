"""The way of a request on one page: authenticate, admit, route, check, call, settle."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Self

import aiohttp

from tandem.accounts import Entry, Keyring, Lease, Ledger, Limiter, Outcome, Principal
from tandem.gateway.exchange import EngineCall, Exchange, Piece, Tally
from tandem.gateway.meters import Meters
from tandem.gateway.shadow import Shadows, compare_pieces, compare_vectors
from tandem.gateway.stages import call as engine
from tandem.gateway.stages.check import check_task
from tandem.kit import clock
from tandem.kit.errors import EngineFailed, InvalidRequest, LimitExceeded, TandemError
from tandem.serve import Answered, Capabilities, Route, Routes, Upstream, Window
from tandem.spec import Task

_log = logging.getLogger(__name__)

# What an outcome says of the version that answered; refusals and shutdowns say nothing.
_ANSWERED = {
    Outcome.OK: Answered.OK,
    Outcome.FILTERED: Answered.FILTERED,
    Outcome.ENGINE_FAILED: Answered.FAILED,
    Outcome.ERROR: Answered.FAILED,
    Outcome.CLIENT_GONE: Answered.LEFT,
}


class Admitted:
    """A request that was let in: where it goes, and what must be settled when it ends, however it ends.

    Leaving it as a context manager settles what nobody settled before, with the outcome that the exception says.
    """

    __slots__ = (
        "_by_second",
        "_entry",
        "_exchange",
        "_lease",
        "_meters",
        "_refused_by",
        "_settled",
        "_started_s",
        "route",
        "upstream",
    )

    def __init__(
        self, exchange: Exchange, route: Route, upstream: Upstream, *, lease: Lease, entry: Entry, meters: Meters
    ) -> None:
        self.route = route
        self.upstream = upstream
        self._exchange = exchange
        self._lease = lease
        self._entry = entry
        self._meters = meters
        self._settled = False
        self._by_second = False
        self._refused_by: Window | None = None
        self._started_s = clock.monotonic_seconds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.settle(_outcome_of(error, self._exchange))

    def settle(self, outcome: Outcome) -> None:
        """Write what was used to the journal, before the answer's last byte leaves; only the first call counts."""
        if self._settled:
            return
        self._settled = True
        used = self._exchange.usage()
        self._entry.settle(
            outcome,
            prompt_tokens=used.prompt,
            cached_tokens=used.cached,
            completion_tokens=used.completion,
            by_second=self._by_second,
        )
        self._lease.settle(used.prompt + used.completion)
        self.upstream.release()
        self._meters.settled(self._exchange, outcome, used, version=self.upstream.version)
        self._count(outcome, used)

    def move(self, upstream: Upstream, error: TandemError) -> None:
        """Go on at another replica: the one before failed, and nothing of its answer has left."""
        failed, self.upstream = self.upstream, upstream
        upstream.acquire()
        failed.release()
        self._by_second = upstream.version != failed.version
        if isinstance(error, InvalidRequest):
            self._refused_by = failed.window  # its fault if this one answers, otherwise the client's
        elif failed.window is not None:
            failed.window.record(Answered.FAILED)
        self._exchange.forget()
        self._started_s = clock.monotonic_seconds()

    def _count(self, outcome: Outcome, used: Tally) -> None:
        """Tell a rollout how its side did."""
        if self._refused_by is not None and outcome is Outcome.OK:
            self._refused_by.record(Answered.FAILED)
        window, answered = self.upstream.window, _ANSWERED.get(outcome)
        if window is None or answered is None:
            return
        first_s = self._exchange.first_token_s
        if answered is Answered.LEFT and first_s is not None:
            return  # it read, and had enough
        window.record(
            answered,
            duration_s=clock.monotonic_seconds() - self._started_s,
            first_token_s=None if first_s is None else first_s - self._started_s,
            prompt_tokens=used.prompt,
            completion_tokens=used.completion,
        )


class Pipeline:
    """Everything that a request meets, joined once at the start by `server`."""

    def __init__(
        self, *, keyring: Keyring, limiter: Limiter, ledger: Ledger, routes: Routes, meters: Meters, timeout_s: float
    ) -> None:
        self.keyring = keyring
        self.routes = routes
        self.meters = meters
        self._shadows = Shadows(meters)
        self._limiter = limiter
        self._ledger = ledger
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the connections to engines; must run on the serving loop."""
        self._session = aiohttp.ClientSession(
            # Engines bound their own concurrency; a limit here would hide a queue from them. llama.cpp closes a kept
            # connection after 5 s without a request, so we let go of it first.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=5),
            auto_decompress=False,
            read_bufsize=64 * 1024,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close them."""
        await self._shadows.close()
        if self._session is not None:
            await self._session.close()

    async def authenticate(self, token: str) -> Principal:
        """Who calls; from the cache without a pause where it is fresh."""
        return self.keyring.cached(token) or await self.keyring.authenticate(token)

    def admit(
        self, exchange: Exchange, principal: Principal, *, task: Task, tokens: int, affinity: int | None = None
    ) -> Admitted:
        """Route, charge the limits and reserve in the ledger; the answer must be entered and left as a context.

        Raises:
            NotFound, UnsupportedFeature: no such deployment for this key, or one for another task.
            Unavailable: it has no ready replica, or the ledger's disk is full.
            LimitExceeded: a limit of the key is used up.
        """
        route = self.routes.get(exchange.deployment, principal.key_id)
        exchange.development = route.owner != ""
        check_task(route, task, exchange.operation)
        upstream = self.routes.pick(route.name, affinity=affinity, key=principal.key_id, request=exchange.id)
        try:
            lease = self._limiter.admit(principal, tokens=tokens)
        except LimitExceeded:
            exchange.rate_headers = self._limiter.headers(principal)
            raise
        exchange.rate_headers = lease.headers
        try:
            entry = self._ledger.reserve(
                request_id=exchange.id,
                principal=principal,
                deployment=route.name,
                version=upstream.version if upstream.version == route.version else (upstream.version, route.version),
                operation=exchange.operation,
                surface=exchange.surface,
                tokens=tokens,
            )
        except TandemError:
            lease.release()
            raise
        upstream.acquire()
        return Admitted(exchange, route, upstream, lease=lease, entry=entry, meters=self.meters)

    def fall_back(self, exchange: Exchange, admitted: Admitted, error: TandemError) -> bool:
        """Whether a request whose candidate, or replica gone meanwhile, failed can be put to the stable version.

        Only before the first byte of an answer, and only once.
        """
        failed = admitted.upstream
        upstream = self.routes.instead(admitted.route.name, failed)
        if upstream is None or upstream.version not in {failed.version, admitted.route.version}:
            return False
        _log.info("asked again elsewhere: %s", error, extra={"request_id": exchange.id, "replica": failed.id})
        admitted.move(upstream, error)
        return True

    async def complete(self, exchange: Exchange, upstream: Upstream, calls: Sequence[EngineCall]) -> list[Piece]:
        """All choices, whole, in the order of their index."""
        if len(calls) == 1:
            return [await engine.complete(self._http, upstream, calls[0], exchange.tally(calls[0]))]
        tasks = [
            asyncio.create_task(engine.complete(self._http, upstream, call, exchange.tally(call))) for call in calls
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)

    async def stream(
        self, exchange: Exchange, upstream: Upstream, calls: Sequence[EngineCall]
    ) -> AsyncGenerator[list[Piece], None]:
        """All choices in pieces as they arrive; each list is worth one write."""
        async with aclosing(self._arriving(exchange, upstream, calls)) as arriving:
            async for pieces in arriving:
                if exchange.first_token_s is None:
                    exchange.first_token_s = clock.monotonic_seconds()
                    self.meters.first_token(exchange, exchange.first_token_s - exchange.started_s)
                yield pieces

    async def embed(self, exchange: Exchange, upstream: Upstream, call: EngineCall) -> list[list[float]]:
        """The vectors of an embedding request."""
        return await engine.embed(self._http, upstream, call, exchange.tally(call))

    def is_shadowed(self, admitted: Admitted) -> bool:
        """Whether a rollout wants to see this request too, once it is answered."""
        return bool(self.routes.shadow(admitted.route.name))

    def shadow(
        self,
        exchange: Exchange,
        admitted: Admitted,
        prepare: Callable[[Capabilities], Sequence[EngineCall]],
        said: Sequence[Piece],
        *,
        streamed: bool,
    ) -> None:
        """Put a request that was answered with these pieces to the rollout's candidate too, in the same form."""

        async def ask(upstream: Upstream, beside: Exchange) -> list[Piece]:
            calls = prepare(upstream.capabilities)
            if not streamed:
                return await self.complete(beside, upstream, calls)
            pieces: list[Piece] = []
            async with aclosing(self._arriving(beside, upstream, calls)) as arriving:
                async for arrived in arriving:
                    beside.first_token_s = beside.first_token_s or clock.monotonic_seconds()
                    pieces += arrived
            return pieces

        if upstreams := self.routes.shadow(admitted.route.name):
            self._shadows.follow(exchange, upstreams, ask=ask, compare=partial(compare_pieces, said))

    def shadow_embedding(
        self, exchange: Exchange, admitted: Admitted, call: EngineCall, vectors: Sequence[list[float]]
    ) -> None:
        """The same for an embedding request."""

        async def ask(upstream: Upstream, beside: Exchange) -> list[list[float]]:
            return await self.embed(beside, upstream, call)

        if upstreams := self.routes.shadow(admitted.route.name):
            self._shadows.follow(exchange, upstreams, ask=ask, compare=partial(compare_vectors, vectors))

    def _arriving(self, exchange: Exchange, upstream: Upstream, calls: Sequence[EngineCall]) -> "Pieces":
        sources = [engine.stream(self._http, upstream, call, exchange.tally(call)) for call in calls]
        return sources[0] if len(sources) == 1 else _merge(sources)

    @property
    def _http(self) -> aiohttp.ClientSession:
        assert self._session is not None, "open() first"
        return self._session


def _outcome_of(error: BaseException | None, exchange: Exchange) -> Outcome:
    match error:
        case asyncio.CancelledError():
            return Outcome.CLIENT_GONE if exchange.abandoned else Outcome.INTERRUPTED
        case InvalidRequest():
            return Outcome.REFUSED
        case EngineFailed():
            return Outcome.ENGINE_FAILED
        case _:
            return Outcome.ERROR


Pieces = AsyncGenerator[list[Piece], None]


async def _merge(sources: Sequence[Pieces]) -> Pieces:
    """Several streams as one. A slow reader holds all of them back: one list of each is read ahead."""
    reading = {asyncio.create_task(_next(source)): source for source in sources}
    try:
        while reading:
            done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                source = reading.pop(task)
                if (pieces := task.result()) is not None:
                    reading[asyncio.create_task(_next(source))] = source
                    yield pieces
    finally:
        await _cancel(reading)
        for source in sources:
            await source.aclose()


async def _next(source: Pieces) -> list[Piece] | None:
    return await anext(source, None)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
