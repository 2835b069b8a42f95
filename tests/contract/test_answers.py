"""What the official clients get from each URL family, on the fake engine."""

import openai
import pytest

from tests.contract.clients import FAMILIES, async_client, joined, said, sync_client
from tests.serving import Served

pytestmark = pytest.mark.anyio


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["embedder", "fim", "fragile", "plain", "tiny", "tools"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "system", "content": "Be brief."}, *said("one two three")]
    )
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, answer.system_fingerprint) == ("chat.completion", "tiny", "fp_tiny@1")
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content, choice.message.refusal) == ("assistant", "one two three", None)
    assert answer.usage is not None
    # The fake counts a token for each word and one for each turn's role.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("family", FAMILIES)
async def test_an_asynchronous_chat(fake: Served, family: str) -> None:
    async with async_client(fake, family) as client:
        answer = await client.chat.completions.create(model="tiny", messages=said("one two"))
        assert answer.choices[0].message.content == "one two"
        stream = await client.chat.completions.create(model="tiny", messages=said("one two"), stream=True)
        assert joined([chunk async for chunk in stream]) == {0: "one two"}
        assert [model.id async for model in client.models.list()][-2:] == ["tiny", "tools"]
        vectors = await client.embeddings.create(model="embedder", input="one")
        assert len(vectors.data[0].embedding) == 64
        completion = await client.completions.create(model="tiny", prompt="one")
        assert completion.choices[0].text == " one"


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=said("one two three"), stream=True))
    first, *_, last = chunks
    assert {(chunk.id, chunk.object, chunk.created, chunk.model) for chunk in chunks} == {
        (first.id, "chat.completion.chunk", first.created, "tiny")
    }
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [chunk.choices[0].delta.role for chunk in chunks[1:]] == [None] * (len(chunks) - 1)
    assert joined(chunks) == {0: "one two three"}
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert last.choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_with_usage_has_it_in_one_last_chunk(client: openai.OpenAI) -> None:
    *chunks, last = client.chat.completions.create(
        model="tiny", messages=said("one two three"), stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (4, 3)
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


@pytest.mark.parametrize("text", ["one two three", "fake:tool one"])
def test_the_stream_helper_of_the_client_takes_it(fake: Served, text: str) -> None:
    """The helper checks each event's fields, and joins them by its own rules."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with (
        sync_client(fake) as client,
        client.chat.completions.stream(model="tools", messages=said(text), tools=[tool]) as stream,
    ):
        message = stream.get_final_completion().choices[0].message
    whole = fake.request(
        "POST", "/v1/chat/completions", {"model": "tools", "messages": said(text), "tools": [tool]}
    ).json["choices"][0]["message"]
    assert (message.content or None) == (whole["content"] or None)
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
    assert calls == [
        (call["function"]["name"], call["function"]["arguments"]) for call in whole.get("tool_calls") or []
    ]
    assert bool(calls) == text.startswith("fake:tool")


def test_headers(client: openai.OpenAI, fake: Served) -> None:
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=said("one two three"))
    assert raw.headers["content-type"] == "application/json"
    answer = raw.parse()
    event = fake.settled(raw.headers["x-request-id"])
    assert raw.request_id == event.id
    assert answer.id == event.id.replace("req_", "chatcmpl-")
    assert (event.deployment, event.version, event.operation, event.outcome) == ("tiny", "tiny@1", "chat", "ok")
    assert (event.prompt_tokens, event.completion_tokens) == (4, 3)
    assert event.reserved_tokens >= event.prompt_tokens + event.completion_tokens


def test_headers_of_a_stream(client: openai.OpenAI, fake: Served) -> None:
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=said("one two"), stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["cache-control"] == "no-cache"
    assert joined(raw.parse()) == {0: "one two"}
    event = fake.settled(raw.headers["x-request-id"])
    assert (event.outcome, event.prompt_tokens, event.completion_tokens) == ("ok", 3, 2)


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=said("one two"), n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (index, "one two") for index in range(3)
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6)


def test_several_choices_streamed(client: openai.OpenAI) -> None:
    *chunks, last = client.chat.completions.create(
        model="tiny", messages=said("one two"), n=3, stream=True, stream_options={"include_usage": True}
    )
    assert joined(chunks) == dict.fromkeys(range(3), "one two")
    ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 6)


def test_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="plain", prompt="one two", max_tokens=5)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", "plain")
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (" one two", "stop", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 2)


def test_a_completion_streamed(client: openai.OpenAI) -> None:
    *chunks, last = client.completions.create(
        model="tiny", prompt="one two three", max_tokens=2, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == " one two"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 2)


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["one", "two"], n=2, echo=True)
    assert [choice.text for choice in answer.choices] == ["one one", "one one", "two two", "two two"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)
    tokens = client.completions.create(model="tiny", prompt=[[1, 2], [3]])
    assert [choice.text for choice in tokens.choices] == [" 1 2", " 3"]
    assert client.completions.create(model="tiny", prompt=[1, 2, 3]).choices[0].text == " 1 2 3"


def test_a_completion_without_a_limit_has_16_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="fake:tokens=40 one")
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_embeddings(client: openai.OpenAI) -> None:
    inputs = ["one two", "one two", "three"]
    encoded = client.embeddings.create(model="embedder", input=inputs)  # the client asks for base64 by itself
    plain = client.embeddings.create(model="embedder", input=inputs, encoding_format="float")
    assert [item.index for item in plain.data] == [0, 1, 2]
    assert encoded.data[0].embedding == encoded.data[1].embedding != encoded.data[2].embedding
    for ours, theirs in zip(encoded.data, plain.data, strict=True):
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-6)  # base64 holds float32
    assert (plain.object, plain.model) == ("list", "embedder")
    assert (plain.usage.prompt_tokens, plain.usage.total_tokens) == (5, 5)


def test_embeddings_of_tokens_and_of_their_own_width(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model="embedder", input=[1, 2, 3], dimensions=64)
    several = client.embeddings.create(model="embedder", input=[[1, 2, 3], [4]])
    assert one.data[0].embedding == several.data[0].embedding
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedder", input="x", dimensions=32)
    assert (caught.value.param, caught.value.code) == ("dimensions", "unsupported_feature")


def test_logprobs_of_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=said("one two"), logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content] == ["one", " two"]
    assert all(token.logprob < 0 and len(token.top_logprobs) == 2 for token in logprobs.content)
    assert bytes(logprobs.content[1].bytes or []) == b" two"
    chunks = client.chat.completions.create(
        model="tiny", messages=said("one two"), logprobs=True, top_logprobs=2, stream=True
    )
    streamed = [
        token
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert [token.model_dump() for token in streamed] == [token.model_dump() for token in logprobs.content]


def test_logprobs_without_alternatives(client: openai.OpenAI) -> None:
    for more in ({}, {"top_logprobs": 0}):
        answer = client.chat.completions.create(model="tiny", messages=said("one two"), logprobs=True, **more)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert [(token.token, token.top_logprobs) for token in logprobs.content or []] == [("one", []), (" two", [])]


def test_logprobs_of_a_completion(client: openai.OpenAI) -> None:
    logprobs = client.completions.create(model="tiny", prompt="one two", logprobs=3).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [" one", " two"]
    assert logprobs.text_offset == [0, 4]
    assert [len(top) for top in logprobs.top_logprobs or []] == [3, 3]
    assert logprobs.token_logprobs == [
        top[token] for top, token in zip(logprobs.top_logprobs or [], logprobs.tokens, strict=True)
    ]
    bare = client.completions.create(model="tiny", prompt="one two", logprobs=0).choices[0].logprobs
    assert bare is not None
    assert [list(top) for top in bare.top_logprobs or []] == [[" one"], [" two"]]


def test_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=said("one two three four"), stop=["three", "x"])
    assert answer.choices[0].message.content == "one two "
    assert answer.choices[0].finish_reason == "stop"


def test_limits_of_length(client: openai.OpenAI) -> None:
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}, {"max_tokens": 9, "max_completion_tokens": 2}):
        answer = client.chat.completions.create(model="tiny", messages=said("one two three"), **limit)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "length")


def test_parts_of_text(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "one two"


def test_a_tool_call(client: openai.OpenAI) -> None:
    tools = [_tool("look"), _tool("find")]
    for choice, name in (("required", "look"), ({"type": "function", "function": {"name": "find"}}, "find")):
        answer = client.chat.completions.create(
            model="tools", messages=said("go"), tools=tools, tool_choice=choice, parallel_tool_calls=False
        )
        [made] = answer.choices
        assert (made.finish_reason, made.message.content) == ("tool_calls", None)
        [call] = made.message.tool_calls or []
        assert (call.type, call.function.name, call.function.arguments) == ("function", name, '{"word": "text"}')
        assert call.id


def test_a_tool_call_goes_back_with_its_result(client: openai.OpenAI, fake: Served) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
    turns = [
        *said("go"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
    ]
    answer = client.chat.completions.create(model="tools", messages=turns, tools=[_tool("look")])
    assert answer.choices[0].message.content == "seen"
    sent = fake.fakes["tools"].requests[-1]["messages"]
    assert sent[1]["tool_calls"] == [{**call, "function": {"name": "look", "arguments": "{}"}}]
    assert sent[2] == turns[2]


def test_fill_in_the_middle(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fim", prompt="a = 1\nb = 2", suffix="\nc = 3", max_tokens=8)
    assert answer.choices[0].text == "b = 2"
    chunks = client.completions.create(model="fim", prompt="a = 1\nb = 2", suffix="\nc = 3", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "b = 2"


def test_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    answer = client.chat.completions.create(
        model="tiny",
        messages=said("who"),
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
    )
    assert answer.choices[0].message.content == '{"name": "text", "age": 1}'


def test_hints_and_unknown_fields_change_nothing(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=said("one"),
        user="u",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        prediction={"type": "content", "content": "one"},
        extra_body={"brand_new_field": {"deep": [1, 2]}, "top_k": 3},
    )
    assert answer.choices[0].message.content == "one"


def _tool(name: str) -> dict[str, object]:
    parameters = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}
