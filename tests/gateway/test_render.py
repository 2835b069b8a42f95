"""Answers and chunks as clients read them, field by field."""

import base64
import json
import struct
from typing import Any

import pytest

from tandem.gateway.exchange import EngineCall, Exchange, Piece
from tandem.gateway.surfaces.render import ChatRenderer, CompletionRenderer, render_embeddings
from tandem.gateway.wire import FunctionDelta, Logprobs, TokenLogprob, ToolCallDelta, TopLogprob

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


@pytest.fixture
def exchange() -> Exchange:
    """A request with some tokens on it."""
    made = Exchange("openai", "chat", id="req_1", created=99, deployment='d"é')
    tally = made.tally(EngineCall(0, "/", b"", streamed=False))
    tally.prompt, tally.cached, tally.completion = 7, 4, 5
    return made


def _events(data: bytes) -> list[Any]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    return [block if block == "data: [DONE]" else json.loads(block.removeprefix("data: ")) for block in blocks]


def _logprobs(*tokens: str, top: int) -> Logprobs:
    others = [TopLogprob(token=f"o{rank}", logprob=-rank, bytes=[1]) for rank in range(top)]
    return Logprobs([TokenLogprob(token=token, logprob=-0.5, bytes=[2], top_logprobs=list(others)) for token in tokens])


def test_a_whole_chat(exchange: Exchange) -> None:
    renderer = ChatRenderer(exchange, "m@1", include_usage=False)
    answer = json.loads(renderer.answer([Piece(0, "hi", finish_reason="length"), Piece(1, "ho")], exchange.usage()))
    message = {"role": "assistant", "refusal": None, "annotations": []}
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 99,
        "model": 'd"é',
        "system_fingerprint": "fp_m@1",
        "choices": [
            {"index": 0, "message": {**message, "content": "hi"}, "logprobs": None, "finish_reason": "length"},
            {"index": 1, "message": {**message, "content": "ho"}, "logprobs": None, "finish_reason": "stop"},
        ],
        "usage": USAGE,
    }


def test_a_chat_stream(exchange: Exchange) -> None:
    renderer = ChatRenderer(exchange, "m@1", include_usage=False)
    events = _events(
        renderer.chunks([Piece(0, "a")])
        + renderer.chunks([Piece(0, "b", finish_reason="stop")])
        + renderer.end(exchange.usage())
    )
    assert events.pop() == "data: [DONE]"
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 99, "model": 'd"é'}
    assert [{key: event[key] for key in head} for event in events] == [head] * 4
    assert all("usage" not in event for event in events)
    assert [event["choices"] for event in events] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "a"}, None),
            ({"content": "b"}, None),
            ({}, "stop"),
        )
    ]


def test_usage_in_a_stream(exchange: Exchange) -> None:
    for renderer in (
        ChatRenderer(exchange, "m@1", include_usage=True),
        CompletionRenderer(exchange, "m@1", include_usage=True),
    ):
        chunks = _events(renderer.chunks([Piece(0, "a")]))
        assert all(chunk["usage"] is None for chunk in chunks)
        last, done = _events(renderer.end(exchange.usage()))
        assert (last["choices"], last["usage"], done) == ([], USAGE, "data: [DONE]")
        assert last["object"] == chunks[0]["object"]


def test_tool_calls(exchange: Exchange) -> None:
    def call(**fields: Any) -> list[ToolCallDelta]:
        return [ToolCallDelta(index=0, **fields)]

    whole = ChatRenderer(exchange, "m@1", include_usage=False).answer(
        [Piece(0, "", call(id="c1", function=FunctionDelta("f", "{}")), finish_reason="tool_calls")], exchange.usage()
    )
    choice = json.loads(whole)["choices"][0]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert choice["finish_reason"] == "tool_calls"
    events = _events(
        ChatRenderer(exchange, "m@1", include_usage=False).chunks(
            [
                Piece(0, "", call(id="c1", type="function", function=FunctionDelta("f", ""))),
                Piece(0, "", call(function=FunctionDelta(arguments="{}"))),
            ]
        )
    )
    assert [event["choices"][0]["delta"] for event in events[1:]] == [
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]


def test_a_tool_call_without_an_id_gets_one(exchange: Exchange) -> None:
    renderer = ChatRenderer(exchange, "m@1", include_usage=False)
    pieces = [Piece(0, "", [ToolCallDelta(function=FunctionDelta("f"))])]
    [call] = json.loads(renderer.answer(pieces, exchange.usage()))["choices"][0]["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "f", "arguments": ""}


@pytest.mark.parametrize("alternatives", [0, 2])
def test_logprobs_of_a_chat(exchange: Exchange, alternatives: int) -> None:
    """Engines say more alternatives than were asked for."""
    for whole in (True, False):
        renderer = ChatRenderer(exchange, "m@1", include_usage=False, alternatives=alternatives)
        piece = Piece(0, "a", logprobs=_logprobs("a", top=3))
        data = renderer.answer([piece], exchange.usage()) if whole else renderer.chunks([piece])
        choice = (json.loads(data) if whole else _events(data)[1])["choices"][0]
        [token] = choice["logprobs"]["content"]
        assert (token["token"], token["logprob"], token["bytes"]) == ("a", -0.5, [2])
        assert [other["token"] for other in token["top_logprobs"]] == ["o0", "o1", "o2"][:alternatives]
        assert choice["logprobs"]["refusal"] is None


def test_a_whole_completion(exchange: Exchange) -> None:
    renderer = CompletionRenderer(exchange, "m@1", include_usage=False)
    answer = json.loads(renderer.answer([Piece(0, " a", finish_reason="length")], exchange.usage()))
    assert answer == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 99,
        "model": 'd"é',
        "system_fingerprint": "fp_m@1",
        "choices": [{"index": 0, "text": " a", "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE,
    }


def test_a_completion_stream(exchange: Exchange) -> None:
    renderer = CompletionRenderer(exchange, "m@1", include_usage=False)
    events = _events(renderer.chunks([Piece(0, "a"), Piece(1, "", finish_reason="stop")]))
    assert [event["choices"] for event in events] == [
        [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}],
        [{"index": 1, "text": "", "logprobs": None, "finish_reason": "stop"}],
    ]
    assert _events(renderer.end(exchange.usage())) == ["data: [DONE]"]


def test_logprobs_of_a_completion(exchange: Exchange) -> None:
    renderer = CompletionRenderer(exchange, "m@1", include_usage=False, alternatives=2)
    first = Piece(0, "ab é", logprobs=_logprobs("ab", " é", top=3))
    second = Piece(0, "c", logprobs=_logprobs("c", top=3))
    other = Piece(1, "x", logprobs=_logprobs("x", top=3))
    made = [event["choices"][0]["logprobs"] for event in _events(renderer.chunks([first, other, second]))]
    assert [logprobs["tokens"] for logprobs in made] == [["ab", " é"], ["x"], ["c"]]
    assert [logprobs["text_offset"] for logprobs in made] == [[0, 2], [0], [4]]
    assert made[0]["token_logprobs"] == [-0.5, -0.5]
    assert made[0]["top_logprobs"] == [{"o0": 0, "o1": -1, "ab": -0.5}, {"o0": 0, "o1": -1, " é": -0.5}]


def test_embeddings(exchange: Exchange) -> None:
    vectors = [[0.5, -1.25], [3.0, 0.0]]
    plain = json.loads(render_embeddings(exchange, vectors, as_base64=False))
    assert plain == {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vectors[index]} for index in range(2)],
        "model": 'd"é',
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    encoded = json.loads(render_embeddings(exchange, vectors, as_base64=True))
    assert [list(struct.unpack("<2f", base64.b64decode(item["embedding"]))) for item in encoded["data"]] == vectors


def test_a_prompt_that_choices_share_counts_once() -> None:
    exchange = Exchange("openai", "completions")
    counts = {0: (0, 0), 1: (6, 2), 2: (3, 4), 3: (3, 1)}
    for index, (prompt, completion) in counts.items():
        tally = exchange.tally(EngineCall(index, "/", b"", streamed=False, prompt_index=index // 2))
        tally.prompt, tally.completion = prompt, completion
    used = exchange.usage()
    assert (used.prompt, used.completion) == (6 + 3, 7), "choice 0 was interrupted before it knew its prompt"
