"""Answers and stream chunks as bytes, in OpenAI's wire format; both surfaces share them."""

import base64
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tandem.gateway.exchange import Exchange, Piece, Tally
from tandem.gateway.wire import Logprobs, TokenLogprob, ToolCallDelta
from tandem.kit import ids

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class _Delta(Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class _Choice(Struct):
    index: int
    delta: _Delta | UnsetType = UNSET
    message: dict[str, Any] | UnsetType = UNSET
    text: str | UnsetType = UNSET
    logprobs: Any = None
    finish_reason: str | None = None


class _Head(Struct):
    """What is the same in all bytes of an answer; `choices` and `usage` are written behind it."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class _Frame:
    """Writes the choices and the usage of one answer behind its head, which is encoded once."""

    def __init__(
        self, exchange: Exchange, version: str, *, prefix: str, kinds: tuple[bytes, bytes], include_usage: bool
    ) -> None:
        head = _Head(
            id=exchange.id.replace("req_", prefix),
            created=exchange.created,
            model=exchange.deployment,
            system_fingerprint=f"fp_{version}",
        )
        whole_kind, event_kind = kinds
        self._whole_start = b'%b,"object":"%b","choices":' % (_encode(head)[:-1], whole_kind)
        self._event_start = b'data: %b,"object":"%b","choices":[' % (_encode(head)[:-1], event_kind)
        self._include_usage = include_usage
        # With usage asked for, every chunk but the last says that it has none.
        self._event_end = b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def whole(self, choices: list[_Choice], used: Tally) -> bytes:
        """The answer in one piece."""
        return b'%b%b,"usage":%b}' % (self._whole_start, _encode(choices), _encode(usage_fields(used)))

    def event(self, choice: _Choice) -> bytes:
        """One choice as a server-sent event."""
        return b"%b%b]%b" % (self._event_start, _encode(choice), self._event_end)

    def end(self, used: Tally) -> bytes:
        """The last events: the usage if it was asked for, and the end mark."""
        if not self._include_usage:
            return DONE
        return b'%b],"usage":%b}\n\n%b' % (self._event_start, _encode(usage_fields(used)), DONE)


def usage_fields(used: Tally) -> dict[str, Any]:
    """OpenAI's usage object with all its details."""
    return {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "total_tokens": used.prompt + used.completion,
        "prompt_tokens_details": {"cached_tokens": used.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class ChatRenderer:
    """Chat answers: `chat.completion` whole, `chat.completion.chunk` in a stream.

    `alternatives` is how many of the likeliest tokens are shown at each position; engines may say more.
    """

    def __init__(self, exchange: Exchange, version: str, *, include_usage: bool, alternatives: int = 0) -> None:
        self._frame = _Frame(
            exchange,
            version,
            prefix="chatcmpl-",
            kinds=(b"chat.completion", b"chat.completion.chunk"),
            include_usage=include_usage,
        )
        self._alternatives = alternatives
        self._started: set[int] = set()

    def answer(self, pieces: Sequence[Piece], used: Tally) -> bytes:
        """The whole answer."""
        choices = [
            _Choice(piece.index, message=_message(piece), logprobs=self._logprobs(piece), finish_reason=_reason(piece))
            for piece in pieces
        ]
        return self._frame.whole(choices, used)

    def chunks(self, pieces: Sequence[Piece]) -> bytes:
        """The pieces as events; each choice begins with its role."""
        event = self._frame.event
        events = []
        for piece in pieces:
            if piece.index not in self._started:
                self._started.add(piece.index)
                events.append(event(_Choice(piece.index, delta=_Delta(role="assistant", content=""))))
            if piece.text or piece.tool_calls or piece.logprobs:
                # The role opened with an empty text, so an absent `content` adds nothing to it.
                delta = _Delta(content=piece.text or None, tool_calls=piece.tool_calls)
                events.append(event(_Choice(piece.index, delta=delta, logprobs=self._logprobs(piece))))
            if piece.finish_reason:
                events.append(event(_Choice(piece.index, delta=_Delta(), finish_reason=piece.finish_reason)))
        return b"".join(events)

    def end(self, used: Tally) -> bytes:
        """The last events."""
        return self._frame.end(used)

    def _logprobs(self, piece: Piece) -> Any:
        if piece.logprobs is None:
            return None
        content = piece.logprobs.content or []
        for token in content:
            del token.top_logprobs[self._alternatives :]
        return {"content": content, "refusal": None}


class CompletionRenderer:
    """Text completions: `text_completion`, whole and in a stream, with the legacy form of log-probabilities."""

    def __init__(self, exchange: Exchange, version: str, *, include_usage: bool, alternatives: int = 0) -> None:
        self._frame = _Frame(
            exchange,
            version,
            prefix="cmpl-",
            kinds=(b"text_completion", b"text_completion"),
            include_usage=include_usage,
        )
        self._alternatives = alternatives
        self._offsets: dict[int, int] = {}

    def answer(self, pieces: Sequence[Piece], used: Tally) -> bytes:
        """The whole answer."""
        return self._frame.whole([self._choice(piece, _reason(piece)) for piece in pieces], used)

    def chunks(self, pieces: Sequence[Piece]) -> bytes:
        """The pieces as events."""
        return b"".join([self._frame.event(self._choice(piece, piece.finish_reason)) for piece in pieces])

    def end(self, used: Tally) -> bytes:
        """The last events."""
        return self._frame.end(used)

    def _choice(self, piece: Piece, reason: str | None) -> _Choice:
        logprobs = self._logprobs(piece.index, piece.logprobs) if piece.logprobs else None
        return _Choice(piece.index, text=piece.text, logprobs=logprobs, finish_reason=reason)

    def _logprobs(self, index: int, logprobs: Logprobs) -> dict[str, Any] | None:
        """The parallel lists of the completions API; `text_offset` counts characters from the choice's start."""
        content = logprobs.content or []
        offsets = []
        for token in content:
            offset = self._offsets.get(index, 0)
            offsets.append(offset)
            self._offsets[index] = offset + len(token.token)
        return {
            "tokens": [token.token for token in content],
            "token_logprobs": [token.logprob for token in content],
            "top_logprobs": [self._top_logprobs(token) for token in content],
            "text_offset": offsets,
        }

    def _top_logprobs(self, token: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens and the chosen one, so one more than were asked for where it is not among them."""
        likeliest = {top.token: top.logprob for top in token.top_logprobs[: self._alternatives]}
        return likeliest | {token.token: token.logprob}


def render_embeddings(exchange: Exchange, vectors: Sequence[list[float]], *, as_base64: bool) -> bytes:
    """An `embedding` list; base64 is the little-endian float32 bytes, as OpenAI's clients decode them."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(array("f", vector).tobytes()).decode() if as_base64 else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    used = exchange.usage()
    usage = {"prompt_tokens": used.prompt, "total_tokens": used.prompt}
    return _encode({"object": "list", "data": data, "model": exchange.deployment, "usage": usage})


def _message(piece: Piece) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None, "annotations": []}
    if piece.tool_calls:
        message["content"] = piece.text or None
        message["tool_calls"] = [
            {
                "id": call.id or ids.new_id("call"),
                "type": "function",
                "function": {
                    "name": (call.function and call.function.name) or "",
                    "arguments": (call.function and call.function.arguments) or "",
                },
            }
            for call in piece.tool_calls
        ]
    return message


def _reason(piece: Piece) -> str:
    return piece.finish_reason or "stop"
