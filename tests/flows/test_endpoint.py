"""The private endpoint: it answers its one key, leaves nothing, and says why where it cannot stand."""

import asyncio
import http.client
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tandem.evals import Endpoint
from tandem.flows import Stand, private_endpoint
from tandem.formats.tiny import write_tiny_gguf
from tandem.kit.config import Settings
from tandem.kit.errors import EngineFailed, IntegrityError, InvalidRequest, Unavailable
from tandem.registry import pull
from tandem.serve import EngineFactory, Launch
from tandem.serve.engines.fake import FakeEngine
from tandem.server import House
from tandem.spec import Task, Version
from tests.adapters import add_adapter, write_tiny_adapter
from tests.history import opened

pytestmark = pytest.mark.anyio

FAKE = Stand(engine="fake", parallel=2)


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path) -> Iterator[House]:
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


async def version(house: House, tmp_path: Path) -> Version:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=256)
    return await pull(f"file:{path}", name="tiny", registry=house.registry, settings=house.settings)


def engines(fakes: list[FakeEngine], *, fails: str = "") -> dict[str, EngineFactory]:
    def make(launch: Launch) -> FakeEngine:
        fake = FakeEngine(launch)
        fake.fails_to_start = fails
        fakes.append(fake)
        return fake

    return {"fake": make}


def status(endpoint: Endpoint, key: str) -> tuple[int, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=30)
    try:
        body = f'{{"model": "{endpoint.model}", "messages": [{{"role": "user", "content": "hello"}}]}}'
        connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


async def ask(endpoint: Endpoint, key: str) -> tuple[int, http.client.HTTPMessage]:
    return await asyncio.to_thread(status, endpoint, key)


async def test_only_the_runners_key_reaches_it(house: House, tmp_path: Path) -> None:
    known = house.keyring.create("somebody").secret
    fakes: list[FakeEngine] = []
    tiny = await version(house, tmp_path)
    async with private_endpoint(tiny, house, stand=FAKE, engines=engines(fakes)) as endpoint:
        assert endpoint.url.startswith("http://127.0.0.1:")
        assert (endpoint.context_tokens, endpoint.version, endpoint.model) == (256, "tiny@1", "candidate")
        answered, headers = await ask(endpoint, endpoint.key)
        assert answered == 200
        assert headers["x-tandem-development"] == "1"
        for key in (known, "", "tk-wrong"):
            assert (await ask(endpoint, key))[0] == 401
    with pytest.raises(ConnectionRefusedError):
        await ask(endpoint, endpoint.key)
    assert len(fakes[0].requests) == 1


async def test_nothing_is_left_of_it(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    tiny = await version(house, tmp_path)
    before = sorted(path for path in house.settings.home.rglob("*") if path.suffix not in {".db-shm", ".db-wal"})
    fakes: list[FakeEngine] = []
    async with private_endpoint(tiny, house, stand=FAKE, engines=engines(fakes)) as endpoint:
        await ask(endpoint, endpoint.key)
        assert list(scratch.iterdir())
    assert not list(scratch.iterdir())
    after = sorted(path for path in house.settings.home.rglob("*") if path.suffix not in {".db-shm", ".db-wal"})
    assert after == before
    assert house.deployments.deployments() == []
    assert house.keyring.keys() == []
    with pytest.raises(Unavailable, match="not running"):
        _ = fakes[0].address


async def test_each_endpoint_has_its_own_key(house: House, tmp_path: Path) -> None:
    tiny = await version(house, tmp_path)
    fakes: list[FakeEngine] = []
    async with (
        private_endpoint(tiny, house, stand=FAKE, engines=engines(fakes)) as one,
        private_endpoint(tiny, house, stand=replace(FAKE, name="release"), engines=engines(fakes)) as other,
    ):
        assert one.key != other.key
        assert (await ask(one, other.key))[0] == 401
        assert (await ask(other, other.key))[0] == 200


async def test_an_engine_that_does_not_start_is_quoted(house: House, tmp_path: Path) -> None:
    tiny = await version(house, tmp_path)
    broken = replace(house, settings=replace(house.settings, engine_start_timeout_s=1.0))
    with pytest.raises(EngineFailed, match="tiny@1 could not be stood up: out of memory"):
        async with private_endpoint(tiny, broken, stand=FAKE, engines=engines([], fails="out of memory")):
            pytest.fail("it does not stand")


async def test_what_cannot_be_asked_is_refused_before_anything_starts(house: House, tmp_path: Path) -> None:
    tiny = await version(house, tmp_path)
    with pytest.raises(InvalidRequest, match="embeds"):
        async with private_endpoint(replace(tiny, task=Task.EMBED), house, stand=FAKE):
            pytest.fail("it answers no questions")
    house.registry.path(tiny).chmod(0o600)
    house.registry.path(tiny).write_bytes(b"GGUF")
    fakes: list[FakeEngine] = []
    with pytest.raises(IntegrityError, match="damaged"):
        async with private_endpoint(tiny, house, stand=FAKE, engines=engines(fakes)):
            pytest.fail("these are other bytes")
    assert not fakes


async def test_an_adapter_is_stood_up_as_it_is_served(house: House, tmp_path: Path) -> None:
    base = await version(house, tmp_path)
    path = write_tiny_adapter(tmp_path / "adapter.gguf", house.registry.path(base), seed=1)
    tuned = add_adapter(house.registry, path, base, name="tuned")
    fakes: list[FakeEngine] = []
    async with private_endpoint(tuned, house, stand=FAKE, engines=engines(fakes)) as endpoint:
        assert (await ask(endpoint, endpoint.key))[0] == 200
    (engine,) = fakes
    assert engine.launch.model_path == house.registry.path(base)
    assert engine.launch.adapters == (house.registry.file(tuned.artifact.digest),)
    assert [sent["lora"] for sent in engine.requests] == [[{"id": 0, "scale": 1.0}]]
    house.registry.blobs.delete(base.artifact.digest)
    with pytest.raises(IntegrityError, match=r"tiny@1 is gone"):
        async with private_endpoint(tuned, house, stand=FAKE, engines=engines(fakes)):
            pytest.fail("it has no base")
