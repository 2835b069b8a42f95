"""A whole Tandem for tests: its application behind a real socket, in a thread, in front of fake or real engines."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from tandem.accounts import Limits, Role
from tandem.formats.tiny import write_tiny_gguf
from tandem.kit.config import Settings
from tandem.kit.errors import TandemError
from tandem.registry import pull
from tandem.serve import ENGINES, DeployOptions, EngineFactory, Routes, State
from tandem.serve.engines.fake import FakeEngine
from tandem.server import House, running_app


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running Tandem."""

    url: str
    key: str
    admin_key: str
    house: House
    routes: Routes

    def limited_key(self, name: str, **limits: int) -> str:
        """A key with limits of its own."""
        return self.house.keyring.create(name, limits=Limits(**limits))[1]


@contextmanager
def served(
    settings: Settings, *, models: Mapping[str, Path], engine: str = "fake", options: DeployOptions | None = None
) -> Iterator[Served]:
    """Serve GGUF files as deployments of their names until the block ends; all are ready inside it."""
    house = House.open(settings)
    for name, path in models.items():
        version = asyncio.run(pull(f"file:{path}", name=name, registry=house.registry, settings=settings))
        house.deployments.bind(name, version=version, options=options or DeployOptions(), engine=engine)
    key = house.keyring.create("test")[1]
    admin_key = house.keyring.create("admin", role=Role.ADMIN)[1]
    engines: dict[str, EngineFactory] = {**ENGINES, "fake": FakeEngine}
    routes = Routes()
    ready = threading.Event()
    stop = threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with running_app(house, engines=engines, routes=routes) as app:
            config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False)
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started or any(route.state is not State.READY for route in routes.names()):
                await asyncio.sleep(0.01)
            urls.append(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)
            server.should_exit = True
            await serving

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        if not ready.wait(60):
            raise TandemError(f"not ready in time: {[(route.name, route.last_error) for route in routes.names()]}")
        yield Served(url=urls[0], key=key, admin_key=admin_key, house=house, routes=routes)
    finally:
        stop.set()
        thread.join(30)
        house.db.close()


def tiny_model(folder: Path, name: str = "tiny", **features: bool) -> Path:
    """A small random model file."""
    path = folder / f"{name}.gguf"
    write_tiny_gguf(path, **features)
    return path


def wait_until(condition: object, *, seconds: float = 10) -> None:
    """Poll a condition to a deadline."""
    assert callable(condition)
    stop_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop_s, "the condition did not come true in time"
        time.sleep(0.02)
