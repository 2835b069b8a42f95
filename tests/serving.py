"""A whole Tandem for tests: its application behind a real socket, in a thread, in front of fake or real engines."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
import uvicorn

from tandem.accounts import Limits, Role, UsageEvent
from tandem.formats.tiny import write_tiny_gguf
from tandem.kit.config import Settings
from tandem.registry import Signer, first_charter, pull
from tandem.serve import ENGINES, DeployOptions, EngineFactory, Launch, Routes, State
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.fake_script import Faults
from tandem.server import House, running_app
from tandem.spec import Task, Version

T = TypeVar("T")

# Longer than anything here takes on a busy machine; only a broken program waits for it.
DEADLINE_S = 60.0


class Reply(NamedTuple):
    """An answer over plain HTTP."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running Tandem. `fakes` are the fake engines by deployment, the newest of each; `made` are all of them.

    `faults` are those that the next fake engines are made with, the first one's first.
    """

    url: str
    key: str
    admin_key: str
    house: House
    routes: Routes
    loop: asyncio.AbstractEventLoop = field(repr=False)
    server: uvicorn.Server = field(repr=False)
    fakes: dict[str, FakeEngine] = field(default_factory=dict, repr=False)
    made: list[FakeEngine] = field(default_factory=list, repr=False)
    faults: list[Faults] = field(default_factory=list, repr=False)

    def limited_key(self, name: str, **limits: int) -> str:
        """A key with limits of its own."""
        return self.house.keyring.create(name, limits=Limits(**limits)).secret

    def request(self, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str) -> Reply:
        """One request on a connection of its own; a body that is neither bytes nor an iterator of them is JSON."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent.setdefault("authorization", f"Bearer {self.key if key is None else key}")
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns that runs where the server runs, beside its requests."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_S)

    def settled(self, request_id: str) -> UsageEvent:
        """The ledger's entry for a request, as soon as there is one."""
        rows: dict[str, Any] = {}

        def look() -> bool:
            page = self.request("GET", "/api/v1/usage/events?limit=500", key=self.admin_key).json["data"]
            rows.update((row["id"], row) for row in page)
            return request_id in rows

        wait_until(look)
        return msgspec.convert(rows[request_id], UsageEvent)

    def unsent_bytes(self) -> int:
        """What the server has taken for its clients and not handed to the kernel yet, all connections together."""

        async def measure() -> int:
            transports = [getattr(protocol, "transport", None) for protocol in self.server.server_state.connections]
            return sum(transport.get_write_buffer_size() for transport in transports if transport is not None)

        return self.on_loop(measure())


@contextmanager
def served(
    settings: Settings,
    *,
    models: Mapping[str, Path],
    embedders: Mapping[str, Path] | None = None,
    engine: str = "fake",
    options: DeployOptions | None = None,
) -> Iterator[Served]:
    """Serve GGUF files as deployments of their names until the block ends; all are ready inside it.

    What is among `embedders` is deployed for embeddings, whatever its file says that it is for.
    """
    house = House.open(settings)
    for name, path in {**models, **(embedders or {})}.items():
        version = pulled(house, name, path)
        released(house, version)
        task = Task.EMBED if name in (embedders or {}) else version.task
        house.deployments.bind(
            name, version=replace(version, task=task), options=options or DeployOptions(), engine=engine
        )
    with running(house) as served_house:
        yield served_house


def pulled(house: House, name: str, path: Path) -> Version:
    """A GGUF file as a version of the registry."""
    return asyncio.run(pull(f"file:{path}", name=name, registry=house.registry, settings=house.settings))


def released(house: House, version: Version) -> str:
    """Have an imported version released, by one person who signs for all; returns the release's digest."""
    if house.charters.chain().current is None:
        text = first_charter("tests", {"tests": {"ada": house.members.make("ada")}}, solo=True)
        house.charters.propose(text, [house.members.key("ada")])
    asked = house.releases.request(version.ref, by="ada")
    return house.releases.sign(asked.digest, [house.members.key("ada")]).digest


def withdrawn(house: House, release: str) -> None:
    """Have a release withdrawn."""
    signer = Signer(name="ada", party="tests", key=house.members.key("ada"))
    house.releases.withdraw(release, reason="It was a test.", signer=signer)


@contextmanager
def running(house: House) -> Iterator[Served]:
    """Serve what is deployed in a house until the block ends, and close it then."""
    key = house.keyring.create("test").secret
    admin_key = house.keyring.create("admin", role=Role.ADMIN).secret
    fakes: dict[str, FakeEngine] = {}
    made: list[FakeEngine] = []
    faults: list[Faults] = []

    def make_fake(launch: Launch) -> FakeEngine:
        engine = FakeEngine(launch)
        if faults:
            engine.faults = faults.pop(0)
        fakes[launch.alias] = engine
        made.append(engine)
        return engine

    engines: dict[str, EngineFactory] = {**ENGINES, "fake": make_fake}
    wanted = len(house.deployments.deployments())
    routes = Routes()
    answer: list[Served] = []
    stop = threading.Event()

    async def serve() -> None:
        async with running_app(house, engines=engines, routes=routes) as app:
            config = uvicorn.Config(
                app,
                host="127.0.0.1",
                port=0,
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=5,
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started or not _all_ready(routes, wanted) or not await asyncio.to_thread(_all_seen, house):
                await asyncio.sleep(0.01)
            answer.append(
                Served(
                    url=f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}",
                    key=key,
                    admin_key=admin_key,
                    house=house,
                    routes=routes,
                    loop=asyncio.get_running_loop(),
                    server=server,
                    fakes=fakes,
                    made=made,
                    faults=faults,
                )
            )
            while not stop.is_set():
                await asyncio.sleep(0.02)
            server.should_exit = True
            await serving

    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(asyncio.run, serve())
        try:
            wait_until(lambda: answer or serving.done())
            if not answer:
                serving.result()
            yield answer[0]
        finally:
            stop.set()
            serving.result(DEADLINE_S)
            house.db.close()


def tiny_model(folder: Path, name: str = "tiny", *, context_length: int = 512, **features: bool) -> Path:
    """A small random model file."""
    path = folder / f"{name}.gguf"
    write_tiny_gguf(path, context_length=context_length, **features)
    return path


def wait_until(condition: Callable[[], object], *, seconds: float = DEADLINE_S) -> None:
    """Poll a condition to a deadline."""
    stop_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop_s, "the condition did not come true in time"
        time.sleep(0.02)


def _all_seen(house: House) -> bool:
    """Whether the table says so, too: it hears of it after the routes."""
    return all(one.state is State.READY for one in house.deployments.deployments())


def _all_ready(routes: Routes, wanted: int) -> bool:
    states = [route.state for route in routes.names()]
    return len(states) == wanted and all(state is State.READY for state in states)
