"""What an engine cannot do is refused by name; what it can do passes."""

from typing import Any

import msgspec
import pytest

from tandem.gateway.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from tandem.gateway.stages.check import check_chat, check_completion, check_embedding, check_task
from tandem.kit.errors import InvalidRequest, UnsupportedFeature
from tandem.serve import Capabilities, Feature, Route, State
from tandem.spec import Task

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
IMAGE = [{"type": "image_url", "image_url": {"url": "data:"}}]


def _capable(*missing: Feature) -> Capabilities:
    return Capabilities(features=frozenset(Feature) - set(missing), context_tokens=512, parallel=1)


def _route(task: Task, **facts: object) -> Route:
    return Route(name="d", version="m@1", task=task, created=0, facts=facts, capabilities=_capable(), state=State.READY)


@pytest.mark.parametrize(
    ("feature", "fields", "param"),
    [
        (Feature.CHAT, {}, "messages"),
        (Feature.TOOLS, {"tools": TOOLS}, "tools"),
        (Feature.JSON_SCHEMA, {"response_format": SCHEMA}, "response_format"),
        (Feature.JSON_SCHEMA, {"response_format": {"type": "json_object"}}, "response_format"),
        (Feature.LOGPROBS, {"logprobs": True}, "logprobs"),
        (Feature.LOGIT_BIAS, {"logit_bias": {"1": 2}}, "logit_bias"),
        (Feature.SEED, {"seed": 0}, "seed"),
        (Feature.STOP, {"stop": "x"}, "stop"),
        (Feature.PENALTIES, {"presence_penalty": 1}, "presence_penalty"),
        (Feature.PENALTIES, {"frequency_penalty": -1}, "frequency_penalty"),
        (Feature.VISION, {"messages": [{"role": "user", "content": IMAGE}]}, "messages"),
    ],
)
def test_chat(feature: Feature, fields: dict[str, Any], param: str) -> None:
    request = msgspec.convert({**HELLO, **fields}, ChatRequest)
    check_chat(request, _capable())
    with pytest.raises(UnsupportedFeature) as caught:
        check_chat(request, _capable(feature))
    assert (caught.value.param, caught.value.code) == (param, "unsupported_feature")


@pytest.mark.parametrize(
    ("feature", "fields", "param"),
    [
        (Feature.COMPLETIONS, {}, "prompt"),
        (Feature.FIM, {"suffix": "x"}, "suffix"),
        (Feature.LOGPROBS, {"logprobs": 0}, "logprobs"),
        (Feature.SEED, {"seed": 1}, "seed"),
        (Feature.STOP, {"stop": ["x"]}, "stop"),
    ],
)
def test_completions(feature: Feature, fields: dict[str, Any], param: str) -> None:
    request = msgspec.convert({"prompt": "x", **fields}, CompletionRequest)
    check_completion(request, _capable())
    with pytest.raises(UnsupportedFeature) as caught:
        check_completion(request, _capable(feature))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [{}]},
        {"function_call": "auto"},
        {"audio": {"voice": "x"}},
        {"web_search_options": {"x": 1}},
        {"reasoning_effort": "low"},
        {"verbosity": "low"},
        {"moderation": {"model": "m"}},
        {"data_sources": [{}]},
        {"modalities": ["audio"]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
    ],
)
def test_what_no_engine_does_is_refused_on_all(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeature):
        check_chat(msgspec.convert({**HELLO, **fields}, ChatRequest), _capable())


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [], "web_search_options": None, "modalities": ["text"], "tools": []},
        {"tool_choice": "none"},
        {"tools": TOOLS, "tool_choice": "auto"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"response_format": {"type": "text"}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 20},
    ],
)
def test_what_asks_for_nothing_special_passes(fields: dict[str, Any]) -> None:
    check_chat(msgspec.convert({**HELLO, **fields}, ChatRequest), _capable(Feature.VISION))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"stream_options": {}}, "stream_options"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_contradictions(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_chat(msgspec.convert({**HELLO, **fields}, ChatRequest), _capable())
    assert caught.value.param == param
    assert not isinstance(caught.value, UnsupportedFeature)


def test_best_of_as_many_as_are_wanted_anyway_passes() -> None:
    for fields in ({"best_of": 1}, {"best_of": 3, "n": 3}):
        check_completion(msgspec.convert({"prompt": "x", **fields}, CompletionRequest), _capable())
    with pytest.raises(UnsupportedFeature):
        check_completion(msgspec.convert({"prompt": "x", "best_of": 4, "n": 3}, CompletionRequest), _capable())


def test_embeddings() -> None:
    route = _route(Task.EMBED, embedding_length=64)
    check_embedding(EmbeddingRequest(input="x", dimensions=64), route, _capable())
    with pytest.raises(UnsupportedFeature, match="other than 64"):
        check_embedding(EmbeddingRequest(input="x", dimensions=63), route, _capable())
    with pytest.raises(UnsupportedFeature):
        check_embedding(EmbeddingRequest(input="x"), route, _capable(Feature.EMBEDDINGS))


@pytest.mark.parametrize("task", Task)
def test_a_task(task: Task) -> None:
    check_task(_route(task), task, "chat")
    for other in set(Task) - {task}:
        with pytest.raises(UnsupportedFeature, match="does not do chat") as caught:
            check_task(_route(task), other, "chat")
        assert caught.value.code == "operation_not_supported"
