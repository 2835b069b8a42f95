"""The engine port: the shipped fake and llama.cpp keep the same word."""

import asyncio
import dataclasses
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tandem.kit.errors import Unavailable
from tandem.serve.engines import LlamaCpp
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.port import Address, Engine, EngineFactory, Feature, Health, Launch
from tests.adapters import write_tiny_adapter
from tests.serve.launches import (
    CHAT,
    COMPLETIONS,
    authorization,
    get,
    post,
    running,
    stream,
    tiny_launch,
    until,
)

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "one two three four five"}]


@pytest.fixture(params=[FakeEngine, LlamaCpp])
def factory(request: pytest.FixtureRequest) -> EngineFactory:
    """Each kind of engine in turn."""
    return request.param


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A launch of the tiny model."""
    return tiny_launch(tmp_path)


@pytest.fixture
async def engine(factory: EngineFactory, launch: Launch) -> AsyncIterator[Engine]:
    """A running engine."""
    async with running(factory, launch) as engine:
        yield engine


async def test_lives_and_ends(factory: EngineFactory, launch: Launch) -> None:
    engine = factory(launch)
    with pytest.raises(Unavailable):
        _ = engine.address
    assert await engine.health() is Health.FAILING
    ended = await engine.start()
    await until(lambda: _ready(engine))
    assert not ended.done()
    url = engine.address.url
    await engine.stop()
    assert await asyncio.wait_for(ended, 10)
    assert await engine.health() is Health.FAILING
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(f"{url}/health")
    await engine.stop()


async def test_never_started_is_stopped(factory: EngineFactory, launch: Launch) -> None:
    await factory(launch).stop()


async def test_two_take_different_ports_and_keys(factory: EngineFactory, launch: Launch, engine: Engine) -> None:
    async with running(factory, launch) as other:
        assert other.address.url != engine.address.url
        assert other.address.api_key != engine.address.api_key
        status, answer = await post(dataclasses.replace(other.address, api_key="wrong"), CHAT, messages=MESSAGES)
    assert status == 401
    assert answer["error"]["type"] == "authentication_error"


async def test_the_address_does_not_show_its_key(engine: Engine) -> None:
    assert engine.address.api_key not in repr(engine.address)


async def test_capabilities_follow_the_file(factory: EngineFactory, launch: Launch) -> None:
    features = factory(launch).capabilities.features
    assert {Feature.CHAT, Feature.FIM, Feature.COMPLETIONS} <= features
    assert Feature.TOOLS not in features
    plain = dataclasses.replace(launch, facts={"context_length": 128})
    capabilities = factory(plain).capabilities
    assert not {Feature.CHAT, Feature.FIM, Feature.TOOLS} & capabilities.features
    assert capabilities.context_tokens == 128
    assert capabilities.parallel == 2


async def test_chat(engine: Engine) -> None:
    status, answer = await post(engine.address, CHAT, messages=MESSAGES, max_tokens=3)
    choice = answer["choices"][0]
    assert status == 200
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["usage"]["prompt_tokens"] > 3


async def test_chat_stream(engine: Engine) -> None:
    chunks = await stream(
        engine.address,
        CHAT,
        messages=MESSAGES,
        max_tokens=3,
        stream_options={"include_usage": True},
        timings_per_token=True,
    )
    first, *middle, finish, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert middle[-1]["timings"]["predicted_n"] == 3
    assert finish["choices"][0] == {"finish_reason": "length", "index": 0, "delta": {}}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    timings = usage["timings"]
    assert usage["usage"]["prompt_tokens"] == timings["cache_n"] + timings["prompt_n"]


async def test_prompt_is_cached(engine: Engine) -> None:
    cached = []
    for _ in range(2):
        _, answer = await post(engine.address, CHAT, messages=MESSAGES, max_tokens=1)
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] == 0
    assert 0 < cached[1] < answer["usage"]["prompt_tokens"]


async def test_chat_logprobs(engine: Engine) -> None:
    _, answer = await post(engine.address, CHAT, messages=MESSAGES, max_tokens=2, logprobs=True, top_logprobs=2)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 2
    for token in content:
        assert {"id", "token", "bytes", "logprob", "top_logprobs"} <= token.keys()
        assert len(token["top_logprobs"]) == 2
        assert token["logprob"] <= 0


async def test_completion(engine: Engine) -> None:
    body = {"prompt": "one two three", "max_tokens": 2, "logprobs": 1}
    status, answer = await post(engine.address, COMPLETIONS, **body)
    choice = answer["choices"][0]
    assert status == 200
    assert choice["text"]
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["content"]) == 2
    assert answer["usage"]["completion_tokens"] == 2


async def test_completion_stream(engine: Engine) -> None:
    *pieces, last = await stream(engine.address, COMPLETIONS, prompt="one two three", max_tokens=2)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in pieces)
    assert last["choices"][0]["text"] == ""
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 2


async def test_infill(engine: Engine) -> None:
    body = {"input_prefix": "one two\nthree four five", "input_suffix": "six", "n_predict": 2}
    status, answer = await post(engine.address, "/infill", **body)
    assert status == 200
    assert answer["content"]
    assert answer["stop"] is True
    assert answer["stop_type"] == "limit"
    assert answer["tokens_predicted"] == 2
    assert answer["tokens_evaluated"] > 0
    *pieces, last = await stream(engine.address, "/infill", **body)
    assert pieces
    assert not any(chunk["stop"] for chunk in pieces)
    assert (last["stop"], last["content"]) == (True, "")


@pytest.mark.parametrize("fields", [{"messages": 3}, {}])
async def test_bad_chat_is_refused(engine: Engine, fields: dict[str, object]) -> None:
    status, answer = await post(engine.address, CHAT, **fields)
    assert status == 400
    assert answer["error"]["code"] == 400
    assert answer["error"]["message"]


async def test_context_overflow_says_by_how_much(engine: Engine) -> None:
    status, answer = await post(engine.address, COMPLETIONS, prompt="word " * 1000, max_tokens=1)
    assert status == 400
    assert answer["error"]["type"] == "exceed_context_size_error"
    assert answer["error"]["n_ctx"] == engine.capabilities.context_tokens
    assert answer["error"]["n_prompt_tokens"] >= 1000


async def test_embeddings_need_an_embedding_engine(engine: Engine) -> None:
    status, answer = await post(engine.address, "/v1/embeddings", input="one")
    assert status == 501
    assert answer["error"]["type"] == "not_supported_error"


async def test_seed_repeats(engine: Engine) -> None:
    body = {"prompt": "one two three", "max_tokens": 8, "seed": 7, "temperature": 1.0}
    texts = {(await post(engine.address, COMPLETIONS, **body))[1]["choices"][0]["text"] for _ in range(2)}
    assert len(texts) == 1


async def test_json_schema_is_kept(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = {"messages": MESSAGES, "max_tokens": 64, "temperature": 0, "response_format": wanted}
    _, answer = await post(engine.address, CHAT, **body)
    assert answer["choices"][0]["message"]["content"].lstrip().startswith("{")


async def test_leaving_client_frees_the_slot(factory: EngineFactory, tmp_path: Path) -> None:
    launch = tiny_launch(tmp_path, context_length=32_768, context_tokens=32_768, parallel=1)
    body = {"prompt": "fake:delay=0.01 fake:tokens=30000 word", "max_tokens": 30_000, "stream": True}
    async with running(factory, launch) as engine:
        address = engine.address
        async with (
            aiohttp.ClientSession() as http,
            http.post(address.url + COMPLETIONS, json=body, headers=authorization(address)) as answer,
        ):
            await answer.content.readline()
        await until(lambda: _idle(engine))
        assert (await engine.metrics())["llamacpp:tokens_predicted_total"] < 20_000
        status, _ = await post(address, COMPLETIONS, prompt="one two", max_tokens=1)
        assert status == 200


async def test_metrics_count(engine: Engine) -> None:
    await post(engine.address, COMPLETIONS, prompt="one two three", max_tokens=3)
    metrics = await engine.metrics()
    assert metrics["llamacpp:tokens_predicted_total"] == 3
    assert metrics["llamacpp:requests_processing"] == 0


async def test_death_is_told_with_its_cause(engine: Engine, factory: EngineFactory, launch: Launch) -> None:
    other = factory(launch)
    ended = await other.start()
    if isinstance(other, FakeEngine):
        await other.crash()
    else:
        assert other.address.pid is not None
        os.kill(other.address.pid, signal.SIGKILL)
    cause = await asyncio.wait_for(ended, 30)
    assert "crash" in cause or "SIGKILL" in cause
    assert await other.health() is Health.FAILING
    await other.stop()
    assert await engine.health() is Health.READY


@pytest.fixture
def adapted(tmp_path: Path) -> Launch:
    """A launch of a model with two adapters and room for long prompts."""
    launch = tiny_launch(tmp_path, context_length=1024, context_tokens=512)
    paths = [write_tiny_adapter(tmp_path / f"{name}.gguf", launch.model_path, seed=seed) for seed, name in _ADAPTERS]
    return dataclasses.replace(launch, adapters=tuple(paths))


_ADAPTERS = ((1, "first"), (2, "second"))
_CHOICES = {
    "first": [{"id": 0, "scale": 1.0}],
    "second": [{"id": 1, "scale": 1.0}],
    "neither": [{"id": 0, "scale": 0.0}],
}
_PROMPTS = ("one two three four five six seven eight " * 4, "nine ten eleven twelve thirteen fourteen " * 5)


async def _said(address: Address, prompt: str, lora: list[dict[str, Any]] | None = None) -> str:
    more = {} if lora is None else {"lora": lora}
    status, answer = await post(address, COMPLETIONS, prompt=prompt, temperature=0, max_tokens=64, **more)
    assert status == 200
    return str(answer["choices"][0]["text"])


async def test_each_adapter_and_the_base_answer_as_they_would_alone(factory: EngineFactory, adapted: Launch) -> None:
    """Whoever asked before: the slots and the caches of prompts are shared."""
    alone: dict[tuple[str, str], str] = {}
    for name, paths in (("first", adapted.adapters[:1]), ("second", adapted.adapters[1:]), ("neither", ())):
        async with running(factory, dataclasses.replace(adapted, adapters=paths)) as engine:
            assert Feature.ADAPTERS in engine.capabilities.features
            for prompt in _PROMPTS:
                lora = [{"id": 0, "scale": 1.0}] if paths else None
                alone[name, prompt] = await _said(engine.address, prompt, lora)
    assert all(len({alone[name, prompt] for name in _CHOICES}) == 3 for prompt in _PROMPTS)
    asked = [(name, prompt) for name in _CHOICES for prompt in _PROMPTS]
    async with running(factory, adapted) as engine:
        for one in [*asked, *asked[::-1], *asked[::2], *asked[1::2], *sorted(asked)]:
            assert await _said(engine.address, one[1], _CHOICES[one[0]]) == alone[one]
        crowd = asked * 4
        random.Random(1).shuffle(crowd)
        said = await asyncio.gather(*(_said(engine.address, prompt, _CHOICES[name]) for name, prompt in crowd))
        assert [alone[one] for one in crowd] == said


@pytest.mark.parametrize("path", [CHAT, "/infill"])
async def test_every_way_of_asking_takes_the_choice(factory: EngineFactory, adapted: Launch, path: str) -> None:
    fields: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 64}
    if path == "/infill":
        fields = {"input_prefix": "one two\nthree four five", "input_suffix": "six", "n_predict": 64}
    async with running(factory, adapted) as engine:
        said = []
        for lora in _CHOICES.values():
            status, answer = await post(engine.address, path, **fields, temperature=0, lora=lora)
            assert status == 200
            said.append(answer["content"] if path == "/infill" else answer["choices"][0]["message"]["content"])
    assert len(set(said)) == 3


async def _ready(engine: Engine) -> bool:
    return await engine.health() is Health.READY


async def _idle(engine: Engine) -> bool:
    return not any(slot["is_processing"] for slot in await get(engine.address, "/slots"))
