"""The official clients in front of llama.cpp with tiny random models: what only a real engine can show."""

import json
import re
from collections.abc import Iterator

import openai
import pytest

from tests.contract.clients import FAMILIES, joined, said, sync_client
from tests.serving import Served

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "grown": {"type": "boolean"},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "grown", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=FAMILIES)
def client(request: pytest.FixtureRequest, real: Served) -> Iterator[openai.OpenAI]:
    """The official client of each family, in front of llama.cpp."""
    with sync_client(real, request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(real: Served) -> Iterator[openai.OpenAI]:
    """The official client of one family; for what does not depend on it."""
    with sync_client(real) as opened:
        yield opened


def test_a_chat_and_its_stream(client: openai.OpenAI, real: Served) -> None:
    fields = {"model": "tiny", "messages": said("hello"), "max_tokens": 12, "seed": 7}
    raw = client.chat.completions.with_raw_response.create(**fields)
    answer = raw.parse()
    assert (answer.choices[0].finish_reason, answer.model) == ("length", "tiny")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    event = real.settled(raw.headers["x-request-id"])
    assert (event.prompt_tokens, event.completion_tokens) == (answer.usage.prompt_tokens, 12)
    *chunks, last = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    assert joined(chunks) == {0: answer.choices[0].message.content}
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (answer.usage.prompt_tokens, 12)


def test_a_seed_decides(plain: openai.OpenAI) -> None:
    def answers(**fields: int) -> list[str | None]:
        made = plain.chat.completions.create(model="tiny", messages=said("hello"), max_tokens=16, **fields)
        return [choice.message.content for choice in made.choices]

    assert answers(seed=5) == answers(seed=5)
    assert answers(seed=5) != answers(seed=6)
    assert answers(seed=5, n=3) == [*answers(seed=5), *answers(seed=6), *answers(seed=7)]
    assert answers(seed=-1) == answers(seed=-1)
    assert len(set(answers(n=3))) == 3


@pytest.mark.parametrize("n", [1, 3])
def test_several_choices_stream_what_they_say_whole(plain: openai.OpenAI, n: int) -> None:
    fields = {"model": "tiny", "prompt": ["one", "two"], "n": n, "max_tokens": 10, "seed": 3}
    whole = plain.completions.create(**fields)
    *chunks, last = plain.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    texts: dict[int, str] = {}
    for chunk in chunks:
        texts[chunk.choices[0].index] = texts.get(chunk.choices[0].index, "") + chunk.choices[0].text
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert whole.usage is not None
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens == 2 * n * 10
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens


def test_limits_beyond_32_bits_are_no_limits(plain: openai.OpenAI) -> None:
    for limit in (2**31 - 1, 2**31, 2**32, 10**18):
        answer = plain.chat.completions.create(model="tiny", messages=said("x " * 200), max_tokens=limit)
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 30  # all that the context of 512 holds


def test_stop(plain: openai.OpenAI) -> None:
    fields = {"model": "tiny", "messages": said("hello"), "max_tokens": 40, "seed": 1}
    whole = plain.chat.completions.create(**fields).choices[0].message.content or ""
    stopped = plain.chat.completions.create(**fields, stop=[whole[10]])
    assert stopped.choices[0].message.content == whole[: whole.index(whole[10])]
    assert stopped.choices[0].finish_reason == "stop"


def test_logprobs_of_a_chat(plain: openai.OpenAI) -> None:
    for top in (None, 0, 3):
        more = {} if top is None else {"top_logprobs": top}
        answer = plain.chat.completions.create(
            model="tiny", messages=said("hello"), max_tokens=4, logprobs=True, temperature=0, **more
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        content = logprobs.content or []
        assert "".join(token.token for token in content) == answer.choices[0].message.content
        assert [len(token.top_logprobs) for token in content] == [top or 0] * 4
        for token in content:
            assert token.logprob == max([token.logprob, *(other.logprob for other in token.top_logprobs)])


def test_logprobs_of_a_completion(plain: openai.OpenAI) -> None:
    fields = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "seed": 2}
    answer = plain.completions.create(**fields, logprobs=2).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.tokens is not None
    assert "".join(answer.logprobs.tokens) == answer.text
    for token, top in zip(answer.logprobs.tokens, answer.logprobs.top_logprobs or [], strict=True):
        assert token in top
        assert len(top) in {2, 3}
    offsets = answer.logprobs.text_offset or []
    assert [answer.text[start:][:1] for start in offsets] == [token[:1] for token in answer.logprobs.tokens]


def test_a_bias_decides(plain: openai.OpenAI) -> None:
    # Token 64 of the byte vocabulary is `a`: the printable bytes come first, in their order.
    answer = plain.completions.create(model="tiny", prompt="x", max_tokens=5, logit_bias={"64": 100})
    assert answer.choices[0].text == "aaaaa"


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_kept(client: openai.OpenAI, stream: bool) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA, "strict": True}}
    fields = {"model": "tiny", "messages": said("a cat"), "response_format": response_format, "max_tokens": 200}
    if stream:
        text = joined(client.chat.completions.create(**fields, stream=True))[0]
    else:
        text = client.chat.completions.create(**fields).choices[0].message.content or ""
    animal = json.loads(text)
    assert set(animal) == {"name", "grown", "kind"}
    assert isinstance(animal["name"], str)
    assert len(animal["name"]) <= 8
    assert isinstance(animal["grown"], bool)
    assert animal["kind"] in {"cat", "dog"}


def test_a_schema_that_is_none_is_refused(plain: openai.OpenAI) -> None:
    for schema in ({"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "^((($"}):
        with pytest.raises(openai.BadRequestError):
            plain.chat.completions.create(
                model="tiny",
                messages=said("x"),
                response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            )


def _tool(name: str) -> dict[str, object]:
    parameters = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"look", "find"}), ({"type": "function", "function": {"name": "find"}}, {"find"})],
    ids=["any", "one"],
)
def test_a_tool_is_called_because_it_must(plain: openai.OpenAI, choice: object, names: set[str], seed: int) -> None:
    fields = {
        "model": "tools",
        "messages": said("go"),
        "tools": [_tool("look"), _tool("find")],
        "tool_choice": choice,
        "max_tokens": 1200,
        "seed": seed,
    }
    answer = plain.chat.completions.create(**fields).choices[0]
    calls = [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or []]
    assert answer.finish_reason == "tool_calls"
    assert calls
    assert len({call.id for call in answer.message.tool_calls or []}) == len(calls)
    for name, arguments in calls:
        assert name in names
        assert isinstance(json.loads(arguments)["count"], int)
    # The joined stream says the same.
    text, streamed = "", {}
    for chunk in plain.chat.completions.create(**fields, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for call in delta.tool_calls or []:
            name, arguments = streamed.get(call.index, ("", ""))
            assert call.function is not None
            streamed[call.index] = (name + (call.function.name or ""), arguments + (call.function.arguments or ""))
    assert list(streamed.values()) == calls
    assert text == (answer.message.content or "")


def test_tools_need_a_template_with_a_place_for_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="chat template has no place") as caught:
        client.chat.completions.create(model="tiny", messages=said("go"), tools=[_tool("look")])
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_feature")


def test_a_conversation_with_tools_goes_on(plain: openai.OpenAI) -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"count": 3}'}},
        {"id": "c2", "type": "function", "function": {"name": "look", "arguments": ""}},
    ]
    turns = [
        *said("go"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c2", "content": "4"},
    ]
    answer = plain.chat.completions.create(model="tools", messages=turns, max_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens in {1, 2, 3}


def test_fill_in_the_middle(client: openai.OpenAI) -> None:
    fields = {"model": "fim", "prompt": "def f():", "suffix": "return 1", "max_tokens": 6, "seed": 4}
    whole = client.completions.create(**fields)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    assert whole.choices[0].finish_reason == "length"
    chunks = client.completions.create(**fields, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.choices[0].text != client.completions.create(**{**fields, "suffix": "raise"}).choices[0].text
    with pytest.raises(openai.BadRequestError, match="fill-in-the-middle") as caught:
        client.completions.create(model="tiny", prompt="a", suffix="b")
    assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_feature")


def test_embeddings(client: openai.OpenAI) -> None:
    encoded = client.embeddings.create(model="embedder", input=["one two", "three"])
    plain = client.embeddings.create(model="embedder", input=["one two", "three"], encoding_format="float")
    for ours, theirs in zip(encoded.data, plain.data, strict=True):
        assert len(ours.embedding) == 64
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-5)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 2


def test_a_prompt_beyond_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=said("x" * 2000))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert re.search(r"512 tokens\. However, your prompt has \d{4} tokens", caught.value.message)


def test_what_the_engine_refuses_is_a_400_and_in_the_ledger(plain: openai.OpenAI, real: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="content") as caught:
        plain.chat.completions.create(model="tiny", messages=[{"role": "user"}])
    assert real.settled(caught.value.response.headers["x-request-id"]).outcome == "refused"
