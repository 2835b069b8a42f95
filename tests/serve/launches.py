"""Launches of a tiny model, and calls of an engine as the gateway makes them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tandem.formats import facts, read_header, write_tiny_gguf
from tandem.serve.engines.port import Address, Engine, EngineFactory, Launch
from tandem.spec import Artifact, Task, Version

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

# Longer than anything here takes on a busy machine; only a broken program waits for it.
DEADLINE_S = 60.0


def tiny_launch(folder: Path, *, context_length: int = 512, **changes: Any) -> Launch:
    """A launch of a model that llama.cpp loads in a fraction of a second; it knows fill-in-the-middle."""
    if "model_path" not in changes:
        path = write_tiny_gguf(folder / "tiny.gguf", fim=True, context_length=context_length)
        changes["model_path"] = path
        changes.setdefault("facts", facts(read_header(changes["model_path"])))
    defaults = {"task": Task.GENERATE, "alias": "tiny", "log_path": folder / "logs" / "tiny.log"}
    return Launch(**{**defaults, "context_tokens": 256, "parallel": 2, "threads": 1, **changes})


def tiny_version(model: Path, *, number: int = 1, **changes: Any) -> Version:
    """The tiny model as a version of a registry; its digest is made from its number."""
    artifact = Artifact(digest=f"sha256:{number:064x}", size=model.stat().st_size, format="gguf")
    values = {"name": "tiny", "number": number, "task": Task.GENERATE, "origin": "file:tiny.gguf"}
    return Version(**{**values, "artifact": artifact, "facts": facts(read_header(model)), **changes})


@asynccontextmanager
async def running(factory: EngineFactory, launch: Launch) -> AsyncIterator[Engine]:
    """A started engine, stopped at the end."""
    engine = factory(launch)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            result = condition()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.02)


def authorization(address: Address) -> dict[str, str]:
    """The header with the engine's key."""
    return {"Authorization": f"Bearer {address.api_key}"}


async def get(address: Address, path: str) -> Any:
    """The decoded answer of a GET."""
    async with aiohttp.ClientSession() as http, http.get(address.url + path, headers=authorization(address)) as answer:
        return await answer.json()


async def post(address: Address, path: str, **body: Any) -> tuple[int, Any]:
    """The status and the decoded answer of a POST."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(address.url + path, json=body, headers=authorization(address)) as answer,
    ):
        return answer.status, await answer.json()


async def stream(address: Address, path: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a streaming POST."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(address.url + path, json={**body, "stream": True}, headers=authorization(address)) as answer,
    ):
        assert answer.status == 200
        lines = (await answer.text()).splitlines()
    payloads = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(payload) for payload in payloads if payload != "[DONE]"]
