"""One HTTP exchange with a client over ASGI: bounded reading, writing that cannot stall, and noticing that it left."""

import asyncio

from starlette.types import Message, Receive, Scope, Send

from tandem.gateway.exchange import Exchange
from tandem.kit import clock
from tandem.kit.errors import InvalidRequest, TooLarge

Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed its end, or did not read for too long; nobody is left to answer."""


class Channel:
    """A client's connection for the length of one request."""

    __slots__ = ("_receive", "_send", "_stall_s", "headers", "scope", "started", "waiting_since_s")

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, stall_s: float) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False
        self.waiting_since_s: float | None = None
        self._receive = receive
        self._send = send
        self._stall_s = stall_s

    def header(self, name: bytes) -> str:
        """A request header as text; empty where it is missing."""
        return self.headers.get(name, b"").decode("latin-1")

    def token(self) -> str:
        """The key on the request: `Authorization: Bearer` or `api-key`, on every surface."""
        scheme, _, value = self.header(b"authorization").partition(" ")
        return value.strip() if scheme.lower() == "bearer" else self.header(b"api-key")

    async def body(self, limit: int) -> bytes:
        """The request body.

        Raises:
            TooLarge: it is announced as, or turns out, larger than `limit` bytes; the rest is not read.
            InvalidRequest: Content-Length is no number.
            ClientGone: the client left before the end.
        """
        announced = self.headers.get(b"content-length")
        if announced is not None:
            if not announced.isdigit():
                raise InvalidRequest(f"Content-Length is {announced.decode('latin-1')!r}, which is no number.")
            if int(announced) > limit:
                raise self._too_large(limit)
        chunks = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise self._too_large(limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def watched(self, exchange: Exchange) -> "_Watch":
        """A context that cancels the work inside as soon as the client leaves or stalls, and raises ClientGone then."""
        return _Watch(self, exchange, self._receive, stall_s=self._stall_s)

    async def respond(self, status: int, body: bytes, headers: Headers, *, kind: bytes = b"application/json") -> None:
        """A whole answer."""
        await self._write(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers],
            }
        )
        self.started = True
        await self._write({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: Headers) -> None:
        """The head of an event stream."""
        self.started = True
        await self._write(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-cache"),
                    (b"x-accel-buffering", b"no"),  # nginx would hold the tokens back
                    *headers,
                ],
            }
        )

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """A part of a stream."""
        await self._write({"type": "http.response.body", "body": data, "more_body": not last})

    async def _write(self, message: Message) -> None:
        # The server takes what we send until 64 KiB wait for the client; then this waits for it to read.
        self.waiting_since_s = clock.monotonic_seconds()
        await self._send(message)
        self.waiting_since_s = None

    @staticmethod
    def _too_large(limit: int) -> TooLarge:
        return TooLarge(
            f"The request body is larger than {limit} bytes.",
            remedy="Send less, or raise max_body_bytes in tandem.toml.",
            code="request_too_large",
        )


class _Watch:
    """Beside the work for a client, waits for its end and for a write that it does not take."""

    __slots__ = ("_channel", "_exchange", "_receive", "_stall_s", "_task", "_timer", "_watcher")

    def __init__(self, channel: Channel, exchange: Exchange, receive: Receive, *, stall_s: float) -> None:
        self._channel = channel
        self._exchange = exchange
        self._receive = receive
        self._stall_s = stall_s

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "an ASGI application runs in a task"
        self._task = task
        self._watcher = asyncio.create_task(self._watch())
        self._look_later()

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        self._watcher.cancel()
        self._timer.cancel()
        if self._exchange.abandoned and kind is not None and issubclass(kind, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientGone from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _look_later(self) -> None:
        # One timer for the whole answer: a timeout around each write would cost as much as the write.
        self._timer = asyncio.get_running_loop().call_later(self._stall_s / 4, self._look)

    def _look(self) -> None:
        since_s = self._channel.waiting_since_s
        if since_s is not None and clock.monotonic_seconds() - since_s >= self._stall_s:
            self._leave()
        else:
            self._look_later()

    def _leave(self) -> None:
        self._exchange.abandoned = True
        self._task.cancel()
