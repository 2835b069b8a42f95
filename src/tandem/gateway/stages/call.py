"""Call an engine: one request over loopback HTTP, its answer or its stream decoded to pieces, its errors translated."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache

import aiohttp
import msgspec
from yarl import URL

from tandem.gateway.exchange import EngineCall, Piece, Tally
from tandem.gateway.wire import (
    EngineAnswer,
    EngineChoice,
    EngineEmbeddings,
    EngineError,
    FunctionDelta,
    Logprobs,
    Text,
    ToolCallDelta,
)
from tandem.kit.errors import EngineFailed, InvalidRequest, TooLarge, Unavailable
from tandem.serve import Upstream

# One event holds one token with at most 20 alternatives: kilobytes. More means that the engine lost its mind.
MAX_EVENT_BYTES = 1024 * 1024

_decode = msgspec.json.Decoder(EngineAnswer).decode
_decode_embeddings = msgspec.json.Decoder(EngineEmbeddings).decode
_NO_TEXT = Text()
# What a lost engine looks like; aiohttp's own timeouts are both a ClientError and a TimeoutError.
_BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)


class EventSplitter:
    """Cuts a byte stream into the `data` of its server-sent events, however the bytes arrive.

    Comments and other fields are dropped. Events end with an empty line; lines end with LF or CRLF
    (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream).
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that these bytes complete.

        Raises:
            EngineFailed: one line is longer than `MAX_EVENT_BYTES`.
        """
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EngineFailed(f"The engine sent an event of more than {MAX_EVENT_BYTES} bytes.")
        for line in lines:
            # Every engine of ours writes one data line for an event, so a line is an event.
            if line.startswith(b"data:"):
                yield line[5:].strip()


async def complete(session: aiohttp.ClientSession, upstream: Upstream, call: EngineCall, tally: Tally) -> Piece:
    """One choice, whole; where the call asks for a stream, its pieces are joined.

    Raises:
        InvalidRequest: the engine refused the request.
        EngineFailed: the engine died or answered nonsense.
    """
    if call.streamed:
        async with aclosing(stream(session, upstream, call, tally)) as arriving:
            return _joined(call.index, [piece async for pieces in arriving for piece in pieces])
    answer = _answer(await _body(session, upstream, call))
    _count(answer, tally)
    if answer.choices:
        piece = _piece(call.index, answer.choices[0])
    else:
        piece = Piece(call.index, answer.content or "", finish_reason=_native_reason(answer))
    if call.echo:
        piece = Piece(call.index, call.echo + piece.text, finish_reason=piece.finish_reason)
    return piece


async def stream(
    session: aiohttp.ClientSession, upstream: Upstream, call: EngineCall, tally: Tally
) -> AsyncGenerator[list[Piece], None]:
    """One choice in pieces; each list holds what arrived together. Ends after the engine's last word.

    Closing the iterator closes the connection, which stops the engine within a token.
    """
    splitter = EventSplitter()
    finished = False
    # llama.cpp closes the connection after a stream without saying so: kept, it would break the next request.
    response = await _opened(session, upstream, call, keep=False)
    try:
        with upstream.cuttable(response.close):
            if call.echo:
                yield [Piece(call.index, call.echo)]
            async for data in response.content.iter_any():
                pieces: list[Piece] = []
                try:
                    for payload in splitter.feed(data):
                        if payload != b"[DONE]" and (piece := _stream_piece(call.index, _answer(payload), tally)):
                            finished = finished or piece.finish_reason is not None
                            pieces.append(piece)
                finally:
                    # Also where the engine broke off: what came before is counted, so the client gets it.
                    if pieces:
                        yield pieces
    except _BROKEN as error:
        raise _translated(error, upstream) from error
    finally:
        response.close()
    if not finished:
        raise EngineFailed("The engine ended its answer in the middle.", remedy="Send the request again.")


async def embed(
    session: aiohttp.ClientSession, upstream: Upstream, call: EngineCall, tally: Tally
) -> list[list[float]]:
    """The vectors of an embedding call, in the order of its inputs."""
    body = await _body(session, upstream, call)
    try:
        answer = _decode_embeddings(body)
    except msgspec.MsgspecError as error:
        raise EngineFailed(f"The engine's embeddings cannot be read: {error}.") from error
    if answer.usage is not None:
        tally.take_usage(answer.usage)
    return [vector.embedding for vector in sorted(answer.data, key=lambda vector: vector.index)]


async def _opened(
    session: aiohttp.ClientSession, upstream: Upstream, call: EngineCall, *, keep: bool
) -> aiohttp.ClientResponse:
    """The head of a successful answer; the caller reads the body, or closes it. `keep` is for the connection."""
    url = _url(upstream.url, call.path)
    headers = {"Authorization": f"Bearer {upstream.api_key}", "Content-Type": "application/json"}
    if not keep:
        headers["Connection"] = "close"
    body = _with_choice(call.body, upstream)
    try:
        async with _cut_off_with(upstream):
            try:
                response = await session.post(url, data=body, headers=headers)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # Engines close a kept connection after some idle seconds, which can cross our request on the wire.
                # Nothing was answered, so it is sent once more; a dead engine refuses that at once.
                response = await session.post(url, data=body, headers=headers)
        if response.status != 200:
            raise _refusal(call, response.status, await response.read())
    except _BROKEN as error:
        raise _translated(error, upstream) from error
    return response


async def _body(session: aiohttp.ClientSession, upstream: Upstream, call: EngineCall) -> bytes:
    response = await _opened(session, upstream, call, keep=True)
    try:
        with upstream.cuttable(response.close):
            return await response.read()
    except _BROKEN as error:
        raise _translated(error, upstream) from error


def _with_choice(body: bytes, upstream: Upstream) -> bytes:
    """The request with what makes a shared engine answer as this upstream's version."""
    if not upstream.choice:
        return body
    # Both are JSON objects of ours, and neither is empty.
    return b"%b,%b" % (body[:-1], msgspec.json.encode(upstream.choice)[1:])


@asynccontextmanager
async def _cut_off_with(upstream: Upstream) -> AsyncGenerator[None, None]:
    """Give the block up as soon as the upstream is cut, which it may have been since it was picked.

    Raises:
        EngineFailed: it was cut before.
        TimeoutError: it was cut.
    """
    if upstream.is_cut:
        raise _gone(upstream)
    async with asyncio.timeout(None) as limit:
        with upstream.cuttable(lambda: limit.reschedule(0)):
            yield


@lru_cache(maxsize=256)
def _url(base: str, path: str) -> URL:
    # Parsing takes longer than the rest of the call's preparation.
    return URL(base + path, encoded=True)


def _gone(upstream: Upstream) -> EngineFailed:
    return EngineFailed(f"{upstream.version} is not served by {upstream.id!r} any more.", remedy="Send it again.")


def _translated(error: Exception, upstream: Upstream) -> Unavailable:
    if upstream.is_cut:
        return _gone(upstream)
    if isinstance(error, TimeoutError):
        return Unavailable(
            f"The engine {upstream.id!r} did not answer in time.",
            remedy="Ask for fewer tokens, or raise request_timeout_s.",
        )
    return EngineFailed(
        f"The engine {upstream.id!r} broke the connection ({type(error).__name__}).",
        remedy="It is restarted by itself; send the request again.",
    )


def _answer(payload: bytes) -> EngineAnswer:
    try:
        return _decode(payload)
    except msgspec.MsgspecError as error:
        raise EngineFailed(f"The engine's answer cannot be read: {error}.") from error


def _count(answer: EngineAnswer, tally: Tally) -> None:
    if answer.usage is not None:
        tally.take_usage(answer.usage)
    elif answer.timings is not None:
        tally.take_timings(answer.timings)
    elif answer.choices and _says_something(answer.choices[0]):
        tally.completion += 1  # an engine that keeps no running count sends about one token in a chunk


def _says_something(choice: EngineChoice) -> bool:
    delta = choice.delta or _NO_TEXT
    return bool(choice.text or delta.content or delta.tool_calls)


def _stream_piece(index: int, answer: EngineAnswer, tally: Tally) -> Piece | None:
    if answer.error is not None:
        raise EngineFailed(f"The engine broke off: {answer.error.message}")
    _count(answer, tally)
    if answer.choices:
        return _piece(index, answer.choices[0])
    if answer.content is not None:
        return Piece(index, answer.content, finish_reason=_native_reason(answer) if answer.stop else None)
    return None


def _piece(index: int, choice: EngineChoice) -> Piece:
    text = choice.delta or choice.message or _NO_TEXT
    return Piece(index, choice.text or text.content or "", text.tool_calls, choice.logprobs, choice.finish_reason)


def _joined(index: int, pieces: Sequence[Piece]) -> Piece:
    """The whole of which these are the pieces."""
    calls: dict[int, ToolCallDelta] = {}
    for delta in (delta for piece in pieces for delta in piece.tool_calls or ()):
        whole = calls.setdefault(delta.index or 0, ToolCallDelta(function=FunctionDelta(arguments="")))
        whole.id = whole.id or delta.id
        if delta.function is not None and whole.function is not None:
            whole.function.name = whole.function.name or delta.function.name
            whole.function.arguments = (whole.function.arguments or "") + (delta.function.arguments or "")
    tokens = [token for piece in pieces if piece.logprobs for token in piece.logprobs.content or ()]
    return Piece(
        index,
        "".join(piece.text for piece in pieces),
        [calls[place] for place in sorted(calls)] or None,
        Logprobs(tokens) if tokens else None,
        next((piece.finish_reason for piece in reversed(pieces) if piece.finish_reason), None),
    )


def _native_reason(answer: EngineAnswer) -> str:
    return "length" if answer.stop_type == "limit" else "stop"


def _refusal(call: EngineCall, status: int, body: bytes) -> Exception:
    error = _answer(body).error or EngineError(message=body[:200].decode(errors="replace"))
    if error.type == "exceed_context_size_error":
        return TooLarge(
            f"This model's maximum context length is {error.n_ctx} tokens. However, your prompt has "
            f"{error.n_prompt_tokens} tokens.",
            remedy="Please reduce the length of the prompt.",
            code="context_length_exceeded",
            param="messages" if call.path.endswith("/chat/completions") else "prompt",
        )
    if status == 400:
        return InvalidRequest(error.message)
    if status in {429, 503}:
        return Unavailable(f"The engine is not ready: {error.message}", remedy="Send the request again.")
    return EngineFailed(f"The engine answered {status}: {error.message}")
