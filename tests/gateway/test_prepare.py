"""The engine calls of a request: one for each choice, with what the client asked for and nothing made up."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.gateway.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from tandem.gateway.stages.prepare import estimate_tokens, prepare_chat, prepare_completion, prepare_embedding
from tandem.kit.errors import InvalidRequest
from tandem.serve import Feature

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
ALWAYS = {"reasoning_format": "none", "cache_prompt": True}


def _chat(**fields: Any) -> list[dict[str, Any]]:
    return [
        json.loads(call.body)
        for call in prepare_chat(msgspec.convert({**HELLO, **fields}, ChatRequest), streamed=bool(fields.get("stream")))
    ]


def _completion(**fields: Any) -> list[dict[str, Any]]:
    return [
        json.loads(call.body)
        for call in prepare_completion(msgspec.convert(fields, CompletionRequest), streamed=bool(fields.get("stream")))
    ]


def test_a_bare_chat() -> None:
    assert _chat() == [{**ALWAYS, **HELLO}]


def test_what_was_given_is_passed_on() -> None:
    given_fields = {
        "temperature": 0.0,
        "top_p": 0.5,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "logit_bias": {"5": 1.0},
        "stop": ["a"],
        "parallel_tool_calls": False,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x-extra": [1]}}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    }
    [body] = _chat(**given_fields)
    schema = body["response_format"]["json_schema"]
    assert (schema["name"], schema["schema"]) == ("s", {"type": "object"})
    assert {key: body[key] for key in given_fields if key != "response_format"} == {
        key: value for key, value in given_fields.items() if key != "response_format"
    }


def test_hints_are_not_passed_on() -> None:
    assert _chat(user="u", service_tier="auto", brand_new=1) == [{**ALWAYS, **HELLO}]


def test_a_stream_asks_for_running_counts() -> None:
    [body] = _chat(stream=True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["timings_per_token"] is True


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 128))
def test_each_choice_has_a_seed_of_its_own(seed: int, n: int) -> None:
    seeds = [body["seed"] for body in _chat(seed=seed, n=n)]
    assert len(set(seeds)) == n
    assert all(0 <= made < 2**32 - 1 for made in seeds), "llama.cpp reads 2**32 - 1 as any seed"
    assert seeds[0] == _chat(seed=seed)[0]["seed"]


def test_without_a_seed_there_is_none() -> None:
    assert all("seed" not in body for body in _chat(n=3))


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"max_tokens": 2**31}, 2**31 - 1),
        ({"max_tokens": 2**32 + 1}, 2**31 - 1),
    ],
)
def test_the_limit_of_a_chat(fields: dict[str, int], limit: int | None) -> None:
    [body] = _chat(**fields)
    assert body.get("max_tokens") == limit


@pytest.mark.parametrize(("top", "asked"), [(None, 1), (0, 1), (1, 1), (20, 20)])
def test_logprobs_of_a_chat(top: int | None, asked: int) -> None:
    [body] = _chat(logprobs=True, **({} if top is None else {"top_logprobs": top}))
    assert (body["logprobs"], body["top_logprobs"]) == (True, asked)
    assert "top_logprobs" not in _chat(logprobs=False)[0]


def test_a_named_tool_becomes_the_only_one() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    [body] = _chat(tools=tools, tool_choice={"type": "function", "function": {"name": "g"}})
    assert body["tools"] == tools[1:]
    assert body["tool_choice"] == "required"


def test_turns_are_written_for_templates() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
    [body] = _chat(
        messages=[
            {"role": "developer", "content": "d"},
            {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "t"}]},
        ]
    )
    calls[0]["function"]["arguments"] = "{}"
    assert body["messages"] == [
        {"role": "system", "content": "d"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "t"}]},
    ]


def test_a_completion_for_each_prompt_and_choice() -> None:
    request = msgspec.convert({"prompt": ["a", "b"], "n": 2, "seed": 5, "echo": True}, CompletionRequest)
    calls = prepare_completion(request, streamed=False)
    assert [(call.index, call.prompt_index, call.echo, call.path) for call in calls] == [
        (0, 0, "a", "/v1/completions"),
        (1, 0, "a", "/v1/completions"),
        (2, 1, "b", "/v1/completions"),
        (3, 1, "b", "/v1/completions"),
    ]
    assert [json.loads(call.body)["seed"] for call in calls] == [5, 6, 7, 8]
    assert {json.loads(call.body)["max_tokens"] for call in calls} == {16}


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (None, [""]),
        (["a", ""], ["a", ""]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts(prompt: object, prompts: list[object]) -> None:
    assert [body["prompt"] for body in _completion(prompt=prompt)] == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": ["a"] * 129}, "n"),
        ({"prompt": [1], "suffix": "x"}, "suffix"),
        ({"prompt": [1], "echo": True}, "echo"),
    ],
)
def test_prompts_that_cannot_be_meant(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _completion(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("suffix", ["x", ""])
def test_a_suffix_fills_in_the_middle(suffix: str) -> None:
    request = msgspec.convert({"prompt": "a", "suffix": suffix, "max_tokens": 2**40}, CompletionRequest)
    [call] = prepare_completion(request, streamed=False)
    assert call.path == "/infill"
    body = json.loads(call.body)
    assert (body["input_prefix"], body["input_suffix"], body["n_predict"]) == ("a", suffix, 2**31 - 1)


def test_a_model_that_was_trained_suffix_first_is_asked_so() -> None:
    request = msgspec.convert({"prompt": "a", "suffix": "b", "max_tokens": 7}, CompletionRequest)
    [call] = prepare_completion(request, streamed=False, features={Feature.FIM_SUFFIX_FIRST})
    assert call.path == "/v1/completions"
    body = json.loads(call.body)
    assert body["prompt"] == "<|fim_prefix|><|fim_suffix|>b<|fim_middle|>a"
    assert body["max_tokens"] == 7


def test_embeddings() -> None:
    for given_input, sent in (("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])):
        call = prepare_embedding(msgspec.convert({"input": given_input}, EmbeddingRequest))
        assert json.loads(call.body) == {"input": sent}
    for wrong in ("", [], ["a", ""], [[]], ["a"] * 2049, ["a", 1]):
        with pytest.raises(InvalidRequest) as caught:
            prepare_embedding(msgspec.convert({"input": wrong}, EmbeddingRequest))
        assert caught.value.param == "input"


def test_an_estimate_covers_every_choice_of_every_prompt() -> None:
    def estimate(kind: Any, **fields: Any) -> int:
        return estimate_tokens(b"x" * 40, msgspec.convert(fields, kind))

    assert estimate(EmbeddingRequest, input="x") == 11
    assert estimate(ChatRequest, **HELLO, max_tokens=5) == 16
    assert estimate(ChatRequest, **HELLO, max_tokens=5, n=3) == 26
    assert estimate(ChatRequest, **HELLO) == 11 + 256
    assert estimate(CompletionRequest, prompt="x") == 11 + 16
    assert estimate(CompletionRequest, prompt=["x", "y"], n=2, max_tokens=3) == 11 + 12
    assert estimate(CompletionRequest, prompt=[1, 2, 3], max_tokens=3) == 11 + 3
    assert estimate(CompletionRequest, prompt=[[1], [2]], max_tokens=3) == 11 + 6
