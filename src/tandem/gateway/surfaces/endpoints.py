"""The endpoints that models answer: one edge for all of them, and what differs between the operations."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from zlib import crc32

import msgspec
from starlette.types import Receive, Scope, Send

from tandem.accounts import Outcome, Principal
from tandem.gateway.exchange import EngineCall, Exchange, Piece, Tally
from tandem.gateway.pipeline import Admitted, Pipeline
from tandem.gateway.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from tandem.gateway.stages.check import check_chat, check_completion, check_embedding
from tandem.gateway.stages.prepare import estimate_tokens, prepare_chat, prepare_completion, prepare_embedding
from tandem.gateway.surfaces.channel import Channel, ClientGone, Headers
from tandem.gateway.surfaces.errors import Rendered
from tandem.gateway.surfaces.render import ChatRenderer, CompletionRenderer, render_embeddings
from tandem.kit.errors import EngineFailed, InvalidRequest, TandemError, Unavailable
from tandem.serve import Capabilities, Feature
from tandem.spec import Task

_log = logging.getLogger(__name__)

# Where msgspec says that the wrong value is: "Expected `int`, got `str` - at `$.messages[0].content`".
_AT_FIELD = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
# On each answer of a deployment that has no release and that one key alone sees.
_DEVELOPMENT = (b"x-tandem-development", b"1")
# How much of the body's beginning decides on the replica: a system prompt and some turns.
_AFFINITY_BYTES = 1024


class Renderer(Protocol):
    """Turns pieces into the bytes of one operation."""

    def answer(self, pieces: list[Piece], used: Tally) -> bytes: ...
    def chunks(self, pieces: list[Piece]) -> bytes: ...
    def end(self, used: Tally) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """One URL family: its name in the ledger, its error shape, and the headers it adds."""

    name: str
    error: Callable[[TandemError], Rendered]
    headers: Callable[[Exchange], Headers]
    check_scope: Callable[[Scope], None] = lambda _scope: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may cost before it is refused or cut off."""

    body_bytes: int
    stall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What differs between chat and completions."""

    name: str
    decode: Callable[[bytes], Any]
    check: Callable[[Any, Capabilities], None]
    prepare: Callable[..., list[EngineCall]]
    renderer: Callable[..., Renderer]


CHAT = Operation(
    name="chat",
    decode=msgspec.json.Decoder(ChatRequest).decode,
    check=check_chat,
    prepare=prepare_chat,
    renderer=ChatRenderer,
)
COMPLETION = Operation(
    name="completions",
    decode=msgspec.json.Decoder(CompletionRequest).decode,
    check=check_completion,
    prepare=prepare_completion,
    renderer=CompletionRenderer,
)
_decode_embedding = msgspec.json.Decoder(EmbeddingRequest).decode


class Endpoint:
    """The edge of a request: authenticates, reads, runs, and turns every way out into an answer of the surface."""

    operation = ""

    def __init__(self, pipeline: Pipeline, surface: Surface, limits: Limits) -> None:
        self.pipeline = pipeline
        self.surface = surface
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; an ASGI application."""
        channel = Channel(scope, receive, send, stall_s=self.limits.stall_s)
        exchange = Exchange(self.surface.name, self.operation)
        exchange.client_request_id = channel.header(b"x-ms-client-request-id")[:128]
        exchange.deployment = scope["path_params"].get("deployment", "")
        with self.pipeline.meters.in_flight.track_inprogress():
            try:
                principal = await self.pipeline.authenticate(channel.token())
                self.surface.check_scope(scope)
                body = await channel.body(self.limits.body_bytes)
                with channel.watched(exchange):
                    await self.run(channel, exchange, principal, body)
            except ClientGone:
                _log.info("client gone", extra={"request_id": exchange.id})
            except asyncio.CancelledError:
                stopping = Unavailable("The server is stopping.", remedy="Send the request again.")
                await self._fail(channel, exchange, stopping)
            except TandemError as error:
                await self._fail(channel, exchange, error)
            except Exception:
                _log.exception("request failed", extra={"request_id": exchange.id})
                await self._fail(channel, exchange, TandemError("Something broke here.", code="internal_error"))

    async def run(self, channel: Channel, exchange: Exchange, principal: Principal, body: bytes) -> None:
        """Answer an authenticated request whose body has been read."""
        raise NotImplementedError

    async def at_most_twice(
        self,
        channel: Channel,
        exchange: Exchange,
        admitted: Admitted,
        answer: Callable[[Channel, Exchange, Admitted], Awaitable[None]],
    ) -> None:
        """Answer; where a rollout's candidate fails before the first byte, the stable version answers instead."""
        try:
            await answer(channel, exchange, admitted)
        except TandemError as error:
            if channel.started or not self.pipeline.fall_back(exchange, admitted, error):
                raise
            await answer(channel, exchange, admitted)

    async def _fail(self, channel: Channel, exchange: Exchange, error: TandemError) -> None:
        status, body, headers = self.surface.error(error)
        if isinstance(error, EngineFailed):
            _log.warning("engine failed: %s", error, extra={"request_id": exchange.id})
        try:
            if channel.started:
                # The official clients raise on such a frame; a silent end would look like a short answer.
                await channel.write(b"data: %b\n\n" % body, last=True)
            else:
                self.pipeline.meters.refused(self.surface.name, status)
                await channel.respond(status, body, headers + self._headers(exchange))
        except ClientGone:
            pass

    def _headers(self, exchange: Exchange) -> Headers:
        headers = [(b"x-request-id", exchange.id.encode()), *exchange.rate_headers, *self.surface.headers(exchange)]
        return [*headers, _DEVELOPMENT] if exchange.development else headers


class GenerationEndpoint(Endpoint):
    """Chat and text completions."""

    def __init__(self, pipeline: Pipeline, surface: Surface, limits: Limits, operation: Operation) -> None:
        super().__init__(pipeline, surface, limits)
        self.operation = operation.name
        self._kind = operation

    async def run(self, channel: Channel, exchange: Exchange, principal: Principal, body: bytes) -> None:
        """One answer, whole or streamed."""
        request = decoded(self._kind.decode, body)
        exchange.deployment = exchange.deployment or named(request.model)
        admission = self.pipeline.admit(
            exchange,
            principal,
            task=Task.GENERATE,
            tokens=estimate_tokens(body, request),
            affinity=crc32(body[:_AFFINITY_BYTES]),
        )
        with admission as admitted:
            await self.at_most_twice(channel, exchange, admitted, partial(self._answer, request=request))

    async def _answer(self, channel: Channel, exchange: Exchange, admitted: Admitted, *, request: Any) -> None:
        calls = self._calls(request, admitted.upstream.capabilities)
        renderer = self._kind.renderer(
            exchange,
            admitted.upstream.version,
            include_usage=request.include_usage,
            alternatives=request.alternatives,
        )
        said: list[Piece] | None = [] if self.pipeline.is_shadowed(admitted) else None
        if request.stream:
            pieces = self.pipeline.stream(exchange, admitted.upstream, calls)
            await self._stream(channel, exchange, renderer, pieces=pieces, settle=admitted.settle, said=said)
        else:
            whole = await self.pipeline.complete(exchange, admitted.upstream, calls)
            answer = renderer.answer(whole, exchange.usage())
            admitted.settle(Outcome.OK)
            await channel.respond(200, answer, self._headers(exchange))
            said = None if said is None else whole
        if said is not None:
            again = partial(self._calls, request)
            self.pipeline.shadow(exchange, admitted, again, said, streamed=bool(request.stream))

    def _calls(self, request: Any, capabilities: Capabilities) -> list[EngineCall]:
        """What an engine that can do this is asked, or the refusal of what it cannot do."""
        self._kind.check(request, capabilities)
        streamed = bool(request.stream) or Feature.CANCELLATION not in capabilities.features
        return self._kind.prepare(request, streamed=streamed, features=capabilities.features)

    async def _stream(
        self,
        channel: Channel,
        exchange: Exchange,
        renderer: Renderer,
        *,
        pieces: AsyncGenerator[list[Piece], None],
        settle: Callable[[Outcome], None],
        said: list[Piece] | None,
    ) -> None:
        # Closed here and not by the garbage collector: the engine stops before the entry is settled.
        async with aclosing(pieces):
            async for arrived in pieces:
                if said is not None:
                    said += arrived
                if not channel.started:
                    # Only now is it certain that the engine took the request: before, an error has its own status.
                    await channel.start_stream(self._headers(exchange))
                await channel.write(renderer.chunks(arrived))
        end = renderer.end(exchange.usage())
        settle(Outcome.OK)
        await channel.write(end, last=True)


class EmbeddingEndpoint(Endpoint):
    """Embeddings."""

    operation = "embeddings"

    async def run(self, channel: Channel, exchange: Exchange, principal: Principal, body: bytes) -> None:
        """All vectors in one answer."""
        request: EmbeddingRequest = decoded(_decode_embedding, body)
        exchange.deployment = exchange.deployment or named(request.model)
        tokens = estimate_tokens(body, request)
        with self.pipeline.admit(exchange, principal, task=Task.EMBED, tokens=tokens) as admitted:
            await self.at_most_twice(channel, exchange, admitted, partial(self._answer, request=request))

    async def _answer(
        self, channel: Channel, exchange: Exchange, admitted: Admitted, *, request: EmbeddingRequest
    ) -> None:
        check_embedding(request, admitted.route, admitted.upstream.capabilities)
        call = prepare_embedding(request)
        vectors = await self.pipeline.embed(exchange, admitted.upstream, call)
        answer = render_embeddings(exchange, vectors, as_base64=request.encoding_format == "base64")
        admitted.settle(Outcome.OK)
        await channel.respond(200, answer, self._headers(exchange))
        if self.pipeline.is_shadowed(admitted):
            self.pipeline.shadow_embedding(exchange, admitted, call, vectors)


def named(model: str | None) -> str:
    """The deployment that a body names.

    Raises:
        InvalidRequest: it names none.
    """
    if not model:
        raise InvalidRequest("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    return model


def decoded(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """The typed request in a body.

    Raises:
        InvalidRequest: no JSON, or a field of a wrong type or out of bounds; `param` names the field.
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _AT_FIELD.search(text)
        path = found["path"] if found else ""
        missing = re.search(r"missing required field `(?P<name>\w+)`", text)
        if missing:
            path = f"{path}.{missing['name']}".lstrip(".")
            raise InvalidRequest(
                f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
            ) from None
        reason = text[: found.start()] if found else text
        raise InvalidRequest(
            f"Invalid value for '{path}': {reason}.", param=path or None, code="invalid_type"
        ) from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.", code="invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
