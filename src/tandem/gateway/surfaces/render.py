"""Answers and stream chunks as bytes, in OpenAI's wire format; both surfaces share them."""

import base64
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tandem.gateway.exchange import Exchange, Piece, Tally
from tandem.gateway.wire import Logprobs, ToolCallDelta
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


class _Answer(Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[_Choice]
    system_fingerprint: str
    usage: dict[str, Any] | UnsetType | None = UNSET


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
    """Chat answers: `chat.completion` whole, `chat.completion.chunk` in a stream."""

    def __init__(self, exchange: Exchange, version: str, *, include_usage: bool) -> None:
        self._head = {
            "id": exchange.id.replace("req_", "chatcmpl-"),
            "created": exchange.created,
            "model": exchange.deployment,
            "system_fingerprint": f"fp_{version}",
        }
        self._usage: UnsetType | None = None if include_usage else UNSET
        self._started: set[int] = set()

    def answer(self, pieces: Sequence[Piece], used: Tally) -> bytes:
        """The whole answer."""
        choices = [
            _Choice(piece.index, message=_message(piece), logprobs=_chat_logprobs(piece), finish_reason=_reason(piece))
            for piece in pieces
        ]
        head: dict[str, Any] = self._head
        return _encode(_Answer(object="chat.completion", choices=choices, usage=usage_fields(used), **head))

    def chunks(self, pieces: Sequence[Piece]) -> bytes:
        """The pieces as events; each choice begins with its role."""
        events = []
        for piece in pieces:
            if piece.index not in self._started:
                self._started.add(piece.index)
                events.append(self._event([_Choice(piece.index, delta=_Delta(role="assistant", content=""))]))
            if piece.text or piece.tool_calls or piece.logprobs:
                # The role opened with an empty text, so an absent `content` adds nothing to it.
                delta = _Delta(content=piece.text or None, tool_calls=piece.tool_calls)
                events.append(self._event([_Choice(piece.index, delta=delta, logprobs=_chat_logprobs(piece))]))
            if piece.finish_reason:
                events.append(self._event([_Choice(piece.index, delta=_Delta(), finish_reason=piece.finish_reason)]))
        return b"".join(events)

    def end(self, used: Tally) -> bytes:
        """The last events: the usage if it was asked for, and the end mark."""
        if self._usage is UNSET:
            return DONE
        return self._event([], usage=usage_fields(used)) + DONE

    def _event(self, choices: list[_Choice], usage: Any = UNSET) -> bytes:
        head: dict[str, Any] = self._head
        usage = self._usage if usage is UNSET else usage
        return b"data: %b\n\n" % _encode(_Answer(object="chat.completion.chunk", choices=choices, usage=usage, **head))


class CompletionRenderer:
    """Text completions: `text_completion`, whole and in a stream, with the legacy form of log-probabilities."""

    def __init__(self, exchange: Exchange, version: str, *, include_usage: bool) -> None:
        self._head = {
            "id": exchange.id.replace("req_", "cmpl-"),
            "created": exchange.created,
            "model": exchange.deployment,
            "system_fingerprint": f"fp_{version}",
        }
        self._usage: UnsetType | None = None if include_usage else UNSET
        self._offsets: dict[int, int] = {}

    def answer(self, pieces: Sequence[Piece], used: Tally) -> bytes:
        """The whole answer."""
        choices = [self._choice(piece, _reason(piece)) for piece in pieces]
        head: dict[str, Any] = self._head
        return _encode(_Answer(object="text_completion", choices=choices, usage=usage_fields(used), **head))

    def chunks(self, pieces: Sequence[Piece]) -> bytes:
        """The pieces as events."""
        return b"".join([self._event([self._choice(piece, piece.finish_reason)]) for piece in pieces])

    def end(self, used: Tally) -> bytes:
        """The last events: the usage if it was asked for, and the end mark."""
        if self._usage is UNSET:
            return DONE
        return self._event([], usage=usage_fields(used)) + DONE

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
            "top_logprobs": [{top.token: top.logprob for top in token.top_logprobs} for token in content],
            "text_offset": offsets,
        }

    def _event(self, choices: list[_Choice], usage: Any = UNSET) -> bytes:
        head: dict[str, Any] = self._head
        usage = self._usage if usage is UNSET else usage
        return b"data: %b\n\n" % _encode(_Answer(object="text_completion", choices=choices, usage=usage, **head))


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


def _chat_logprobs(piece: Piece) -> Any:
    if piece.logprobs is None:
        return None
    return {"content": piece.logprobs.content, "refusal": None}


def _reason(piece: Piece) -> str:
    return piece.finish_reason or "stop"
