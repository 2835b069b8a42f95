"""The fake engine's wire: scripts written as llama.cpp's server writes its answers, chunks and errors."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from tandem.kit import clock, ids
from tandem.serve.engines.fake_script import Script, token_id


class Dialect:
    """How one endpoint writes answers. `cached` is the number of prompt tokens that were already known."""

    def __init__(self, body: Mapping[str, Any], script: Script, *, alias: str, cached: int) -> None:
        self.body = body
        self.script = script
        self.cached = cached
        self.stamp = {
            "created": clock.unix_seconds(),
            "model": alias,
            "system_fingerprint": "fake",
            "id": ids.new_id("chatcmpl"),
        }

    def chunks(self, index: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The stream of one choice: each chunk with the number of tokens that were said with it."""
        raise NotImplementedError

    def answer(self) -> dict[str, Any]:
        """The answer to a request without streaming."""
        raise NotImplementedError

    @property
    def choices(self) -> int:
        """How many choices were asked for."""
        return int(self.body.get("n") or 1)

    def usage(self) -> dict[str, Any]:
        """Token counts; like llama.cpp's, of one choice however many there are."""
        made, read = len(self.script.pieces), self.script.prompt_tokens
        return {
            "completion_tokens": made,
            "prompt_tokens": read,
            "total_tokens": made + read,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def timings(self, made: int) -> dict[str, Any]:
        """Running counts; the times are made up."""
        fresh = self.script.prompt_tokens - self.cached
        return {
            "cache_n": self.cached,
            "prompt_n": fresh,
            "prompt_ms": float(fresh),
            "predicted_n": made,
            "predicted_ms": float(made),
        }

    def logprobs(self, first: int, last: int) -> dict[str, Any] | None:
        """Log-probabilities of a range of tokens; in the chat shape for completions too, like llama.cpp."""
        wanted = self.body.get("logprobs")
        if wanted is None or wanted is False:
            return None
        top = self.body.get("top_logprobs") or 0 if wanted is True else int(wanted)
        return {"content": [_logprob(piece, top) for piece in self.script.pieces[first:last]]}

    def running(self, chunk: dict[str, Any], made: int) -> dict[str, Any]:
        """The chunk, with running counts where they were asked for."""
        return {**chunk, "timings": self.timings(made)} if self.body.get("timings_per_token") else chunk


class Chat(Dialect):
    """`/v1/chat/completions`."""

    def chunks(self, index: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The role comes first, alone; the finish reason, then the usage without a choice, come last."""
        yield 0, self._chunk(index, {"role": "assistant", "content": None})
        if self.script.tool:
            function = {"name": self.script.tool, "arguments": ""}
            call = {"index": 0, "id": ids.new_id("call"), "type": "function", "function": function}
            yield 0, self._chunk(index, {"tool_calls": [call]})
        for made, piece in enumerate(self.script.pieces, start=1):
            yield made, self.running(self._token(index, made, piece), made)
        made = len(self.script.pieces)
        yield made, self._chunk(index, {}, finish=self.script.finish)
        if (self.body.get("stream_options") or {}).get("include_usage"):
            counts = {"usage": self.usage(), "timings": self.timings(made)}
            yield made, {"choices": [], **self.stamp, "object": "chat.completion.chunk", **counts}

    def answer(self) -> dict[str, Any]:
        """All choices with the same words."""
        text = "".join(self.script.pieces)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.script.tool:
            function = {"name": self.script.tool, "arguments": text}
            message["content"] = None
            message["tool_calls"] = [{"type": "function", "function": function, "id": ids.new_id("call")}]
        choice = {"finish_reason": self.script.finish, "message": message}
        if (logprobs := self.logprobs(0, len(self.script.pieces))) is not None:
            choice["logprobs"] = logprobs
        return {
            "choices": [{**choice, "index": index} for index in range(self.choices)],
            **self.stamp,
            "object": "chat.completion",
            "usage": self.usage(),
            "timings": self.timings(len(self.script.pieces)),
        }

    def _token(self, index: int, made: int, piece: str) -> dict[str, Any]:
        if self.script.tool:
            return self._chunk(index, {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        chunk = self._chunk(index, {"content": piece})
        if (logprobs := self.logprobs(made - 1, made)) is not None:
            chunk["choices"][0]["logprobs"] = logprobs
        return chunk

    def _chunk(self, index: int, delta: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
        choice = {"finish_reason": finish, "index": index, "delta": delta}
        return {"choices": [choice], **self.stamp, "object": "chat.completion.chunk"}


class Completion(Dialect):
    """`/v1/completions`."""

    def chunks(self, index: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Pieces of text; the finish reason and the usage share the last chunk."""
        for made in range(1, len(self.script.pieces) + 1):
            choice = self._choice(index, made - 1, made, finish=None)
            yield made, self.running({"choices": [choice], **self.stamp, "object": "text_completion"}, made)
        made = len(self.script.pieces)
        choice = {"text": "", "index": index, "logprobs": None, "finish_reason": self.script.finish}
        counts = {"usage": self.usage(), "timings": self.timings(made)}
        yield made, {"choices": [choice], **self.stamp, "object": "text_completion", **counts}

    def answer(self) -> dict[str, Any]:
        """All choices with the same words."""
        end = len(self.script.pieces)
        return {
            "choices": [self._choice(index, 0, end, finish=self.script.finish) for index in range(self.choices)],
            **self.stamp,
            "object": "text_completion",
            "usage": self.usage(),
            "timings": self.timings(end),
        }

    def _choice(self, index: int, first: int, last: int, *, finish: str | None) -> dict[str, Any]:
        text = "".join(self.script.pieces[first:last])
        logprobs = self.logprobs(first, last)
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}


class Infill(Dialect):
    """`/infill`, in llama.cpp's native shape."""

    def chunks(self, index: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Pieces of content; the last chunk says how and after how many tokens it ended."""
        for made, piece in enumerate(self.script.pieces, start=1):
            counts = {"tokens_predicted": made, "tokens_evaluated": self.script.prompt_tokens}
            yield made, self.running({"index": index, "content": piece, "stop": False, **counts}, made)
        yield len(self.script.pieces), {**self.answer(), "index": index, "content": ""}

    def answer(self) -> dict[str, Any]:
        """The middle, whole."""
        made = len(self.script.pieces)
        return {
            "index": 0,
            "content": "".join(self.script.pieces),
            "model": self.stamp["model"],
            "stop": True,
            "stop_type": "limit" if self.script.finish == "length" else "eos",
            "tokens_predicted": made,
            "tokens_evaluated": self.script.prompt_tokens,
            "tokens_cached": self.cached,
            "truncated": False,
            "timings": self.timings(made),
        }


def error_response(status: int, message: str, *, kind: str, **more: int) -> web.Response:
    """A refusal as llama.cpp's server writes it."""
    error = {"code": status, "message": message, "type": kind, **more}
    return web.json_response({"error": error}, status=status)


def event(payload: Mapping[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return f"data: {text}\n\n".encode()


def _logprob(piece: str, top: int) -> dict[str, Any]:
    others = [f" other{rank}" for rank in range(1, top)]
    ranked = [_ranked(token, -0.1 - rank) for rank, token in enumerate([piece, *others][:top])]
    return {**_ranked(piece, -0.1), "top_logprobs": ranked}


def _ranked(token: str, logprob: float) -> dict[str, Any]:
    return {"id": token_id(token), "token": token, "bytes": list(token.encode()), "logprob": logprob}
