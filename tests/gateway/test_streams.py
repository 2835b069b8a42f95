"""A stream, joined by a client, is the whole answer: however the engine cuts it, for any choices, with tools or not."""

import asyncio
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from tandem.gateway import Meters, Pipeline
from tandem.gateway.exchange import Exchange
from tandem.gateway.requests import ChatRequest, CompletionRequest
from tandem.gateway.stages.prepare import prepare_chat, prepare_completion
from tandem.gateway.surfaces.render import ChatRenderer, CompletionRenderer
from tests.gateway.stand_ins import Session, fake_session, upstream

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"properties": {"a": {"type": "string"}}}}}]

words = st.lists(st.text('abc é🦊\\"\n', min_size=1, max_size=6), min_size=1, max_size=6).map(" ".join)
places = st.lists(st.integers(0, 3000), max_size=30)
sampling = st.fixed_dictionaries(
    {"n": st.integers(1, 3)}, optional={"max_tokens": st.integers(1, 5), "stop": st.sampled_from(["b", ["a ", "c"]])}
)


async def _answered(kind: str, body: dict[str, Any], session: Session, *, asks_for_streams: bool = False) -> bytes:
    request_type, prepare, renderer_type = {
        "chat": (ChatRequest, prepare_chat, ChatRenderer),
        "completions": (CompletionRequest, prepare_completion, CompletionRenderer),
    }[kind]
    request: Any = msgspec.convert(body, request_type)
    pipeline = Pipeline(
        keyring=None, limiter=None, ledger=None, routes=None, meters=Meters(CollectorRegistry()), timeout_s=1
    )
    pipeline._session = session
    exchange = Exchange("openai", kind)
    renderer = renderer_type(exchange, "tiny@1", include_usage=request.include_usage, alternatives=request.alternatives)
    calls = prepare(request, streamed=bool(request.stream) or asks_for_streams)
    if not request.stream:
        pieces = await pipeline.complete(exchange, upstream(), calls)
        return renderer.answer(pieces, exchange.usage())
    written = [renderer.chunks(pieces) async for pieces in pipeline.stream(exchange, upstream(), calls)]
    assert all(answer.closed for answer in session.answers)
    return b"".join(written) + renderer.end(exchange.usage())


def _events(stream: bytes) -> list[Any]:
    lines = stream.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def _joined_inside(kind: str, body: dict[str, Any], cuts: list[int]) -> Any:
    """The whole answer that the gateway makes of an engine's stream, for engines that stop only in streams."""
    return json.loads(asyncio.run(_answered(kind, body, fake_session(cuts), asks_for_streams=True)))


def _unnamed(answer: Any) -> Any:
    """Without what differs from one request to the next, and with one form for the logprobs of no tokens at all."""
    for choice in answer["choices"]:
        if choice["logprobs"] and not any(choice["logprobs"].values()):
            choice["logprobs"] = None
        for call in choice.get("message", {}).get("tool_calls", []):
            del call["id"]
    return {key: value for key, value in answer.items() if key not in {"id", "created"}}


def _joined_chat(events: list[Any]) -> list[dict[str, Any]]:
    choices: dict[int, dict[str, Any]] = {}
    for choice in (choice for event in events for choice in event["choices"]):
        made = choices.setdefault(choice["index"], {"content": "", "calls": {}, "logprobs": [], "finish": None})
        delta = choice["delta"]
        assert made["finish"] is None, "nothing comes after the end of a choice"
        assert ("role" in delta) == (not made["content"] and "role" not in made), "the role comes first and once"
        made["role"] = delta.get("role", made.get("role"))
        made["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls") or []:
            known = made["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
            for key, value in call["function"].items():
                known[key] += value
        made["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
        made["finish"] = choice["finish_reason"]
    return [choices[index] for index in sorted(choices)]


def _whole_chat(answer: Any) -> list[dict[str, Any]]:
    return [
        {
            "role": choice["message"]["role"],
            "content": choice["message"]["content"] or "",
            "calls": dict(enumerate(call["function"] for call in choice["message"].get("tool_calls", []))),
            "logprobs": (choice["logprobs"] or {"content": []})["content"],
            "finish": choice["finish_reason"],
        }
        for choice in answer["choices"]
    ]


@bounds(max_examples=60, deadline=None)
@given(words, sampling, st.booleans(), st.none() | st.integers(0, 3), places)
def test_chat(text: str, fields: dict[str, Any], tools: bool, top: int | None, cuts: list[int]) -> None:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    if tools:
        body |= {"tools": TOOLS, "tool_choice": "required"}
    elif top is not None:
        body |= {"logprobs": True, "top_logprobs": top}
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    whole = json.loads(asyncio.run(_answered("chat", body, fake_session())))
    *events, last = _events(asyncio.run(_answered("chat", streamed, fake_session(cuts))))
    assert _joined_chat(events) == _whole_chat(whole)
    assert [choice["index"] for choice in whole["choices"]] == list(range(fields["n"]))
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events)
    assert _unnamed(_joined_inside("chat", body, cuts)) == _unnamed(whole)


@bounds(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=2), sampling, st.booleans(), st.none() | st.integers(0, 3), places)
def test_completions(prompts: list[str], fields: dict[str, Any], echo: bool, top: int | None, cuts: list[int]) -> None:
    body = {"prompt": prompts, **fields}
    if echo:
        body["echo"] = True
    elif top is not None:
        body["logprobs"] = top
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    whole = json.loads(asyncio.run(_answered("completions", body, fake_session())))
    *events, last = _events(asyncio.run(_answered("completions", streamed, fake_session(cuts))))
    joined: dict[int, list[Any]] = {}
    for choice in (choice for event in events for choice in event["choices"]):
        made = joined.setdefault(choice["index"], ["", None, {}])
        made[0] += choice["text"]
        made[1] = choice["finish_reason"]
        for key, values in (choice["logprobs"] or {}).items():
            made[2].setdefault(key, []).extend(values)
    assert joined == {
        choice["index"]: [choice["text"], choice["finish_reason"], choice["logprobs"] or {}]
        for choice in whole["choices"]
    }
    assert last["usage"] == whole["usage"]
    assert _unnamed(_joined_inside("completions", body, cuts)) == _unnamed(whole)


@bounds(max_examples=30, deadline=None)
@given(words, st.integers(1, 8), places)
def test_fill_in_the_middle(text: str, limit: int, cuts: list[int]) -> None:
    body = {"prompt": text, "suffix": "x", "max_tokens": limit}
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    whole = json.loads(asyncio.run(_answered("completions", body, fake_session())))
    *events, last = _events(asyncio.run(_answered("completions", streamed, fake_session(cuts))))
    assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]
    assert events[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["usage"] == whole["usage"]
    assert _unnamed(_joined_inside("completions", body, cuts)) == _unnamed(whole)
