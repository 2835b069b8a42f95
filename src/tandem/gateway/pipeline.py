"""The way of a request on one page: authenticate, admit, route, check, call, settle."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Self

import aiohttp

from tandem.accounts import Entry, Keyring, Lease, Ledger, Limiter, Outcome, Principal
from tandem.gateway.exchange import EngineCall, Exchange, Piece
from tandem.gateway.meters import Meters
from tandem.gateway.stages import call as engine
from tandem.gateway.stages.check import check_task
from tandem.kit import clock
from tandem.kit.errors import EngineFailed, InvalidRequest, LimitExceeded, TandemError
from tandem.serve import Route, Routes, Upstream
from tandem.spec import Task


class Admitted:
    """A request that was let in: where it goes, and what must be settled when it ends, however it ends.

    Leaving it as a context manager settles what nobody settled before, with the outcome that the exception says.
    """

    __slots__ = ("_entry", "_exchange", "_lease", "_meters", "_settled", "route", "upstream")

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
        )
        self._lease.settle(used.prompt + used.completion)
        self.upstream.release()
        self._meters.settled(self._exchange, outcome, used)


class Pipeline:
    """Everything that a request meets, joined once at the start by `server`."""

    def __init__(
        self, *, keyring: Keyring, limiter: Limiter, ledger: Ledger, routes: Routes, meters: Meters, timeout_s: float
    ) -> None:
        self.keyring = keyring
        self.routes = routes
        self.meters = meters
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
            NotFound, UnsupportedFeature: no such deployment, or one for another task.
            Unavailable: it has no ready replica, or the ledger's disk is full.
            LimitExceeded: a limit of the key is used up.
        """
        route = self.routes.get(exchange.deployment)
        check_task(route, task, exchange.operation)
        upstream = self.routes.pick(route.name, affinity=affinity)
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
                version=route.version,
                operation=exchange.operation,
                surface=exchange.surface,
                tokens=tokens,
            )
        except TandemError:
            lease.release()
            raise
        upstream.acquire()
        return Admitted(exchange, route, upstream, lease=lease, entry=entry, meters=self.meters)

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
        first_s: float | None = None
        sources = [engine.stream(self._http, upstream, call, exchange.tally(call)) for call in calls]
        async with aclosing(sources[0] if len(sources) == 1 else _merge(sources)) as arriving:
            async for pieces in arriving:
                if first_s is None:
                    first_s = clock.monotonic_seconds()
                    self.meters.first_token(exchange, first_s - exchange.started_s)
                yield pieces

    async def embed(self, exchange: Exchange, upstream: Upstream, call: EngineCall) -> list[list[float]]:
        """The vectors of an embedding request."""
        return await engine.embed(self._http, upstream, call, exchange.tally(call))

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
