"""A private endpoint: a version stood up behind a real gateway on loopback, for one key that nobody else has."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from tandem.accounts import Keyring, Ledger, Limiter
from tandem.evals import Endpoint
from tandem.flows.deploy import files_of
from tandem.gateway import Limits, Meters, Pipeline, surface_routes
from tandem.kit import clock
from tandem.kit.config import Settings
from tandem.kit.db import Database
from tandem.kit.errors import EngineFailed, InvalidRequest
from tandem.registry import Registry
from tandem.serve import (
    ENGINES,
    Controller,
    Deployments,
    DeployOptions,
    EngineFactory,
    Launcher,
    Rollouts,
    Routes,
    State,
)
from tandem.spec import Task, Version

_POLL_S = 0.05
_STOPPING_S = 5  # what a runner that is gone still waits for
_KEY_S = 3600.0 * 24 * 365  # the key goes with the endpoint, so it is never looked up again
_SEGMENT_BYTES = 1024 * 1024  # of a journal that nobody reads
_BACKLOG = 128


class Rooms(Protocol):
    """What the story stands on."""

    @property
    def settings(self) -> Settings: ...
    @property
    def registry(self) -> Registry: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """How a version is stood up: under which name, by which engine, and for how many requests at once."""

    name: str = "candidate"
    engine: str = "llamacpp"
    parallel: int = 4
    context_tokens: int = 4096


CANDIDATE = Stand()
"""As versions are stood up that somebody evaluates."""


@contextlib.asynccontextmanager
async def private_endpoint(
    version: Version, house: Rooms, *, stand: Stand = CANDIDATE, engines: Mapping[str, EngineFactory] = ENGINES
) -> AsyncIterator[Endpoint]:
    """Serve a version, released or not, until the block ends; only the endpoint's key, made here, reaches it.

    Everything else is thrown away with it: the database, the ledger, the engine's log. The home folder is only read.

    Raises:
        InvalidRequest: the version answers no questions.
        IntegrityError: its file is missing or is not what its digest says.
        EngineFailed: the engine does not start; quotes its last words.
    """
    if version.task is not Task.GENERATE:
        raise InvalidRequest(f"{version.ref} answers no questions: it embeds texts.", remedy="Evaluate another.")
    await asyncio.to_thread(house.registry.path, version)  # said at once, not as an engine's failure
    timeout_s = house.settings.engine_start_timeout_s
    with tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True) as folder:
        async with contextlib.AsyncExitStack() as stack:
            db = Database(f"sqlite:///{Path(folder) / 'private.db'}")
            stack.callback(db.close)
            await asyncio.to_thread(db.migrate)
            keyring = Keyring(db, cache_s=_KEY_S, grace_s=_KEY_S)
            issued = await asyncio.to_thread(keyring.create, "runner")
            routes = Routes()
            pipeline = await stack.enter_async_context(
                _pipeline(db, keyring, routes, folder=Path(folder), timeout_s=house.settings.request_timeout_s)
            )
            launcher = Launcher(
                engines,
                # Without a release: its deployment has an owner, and nobody else sees it.
                weights=lambda binding: files_of(binding, house.registry),
                log_folder=Path(folder) / "logs",
                start_timeout_s=timeout_s,
            )
            await asyncio.to_thread(_bind, Deployments(db), version, stand, issued.key.id)
            await stack.enter_async_context(_controlled(db, routes, launcher))
            url = await stack.enter_async_context(_served(_app(pipeline, house.settings)))
            tokens = await _ready(routes, stand.name, issued.key.id, timeout_s=timeout_s)
            yield Endpoint(url=url, key=issued.secret, model=stand.name, context_tokens=tokens, version=version.ref)


def _bind(deployments: Deployments, version: Version, stand: Stand, owner: str) -> None:
    options = DeployOptions(context_tokens=stand.context_tokens, parallel=stand.parallel)
    deployments.bind(stand.name, version=version, options=options, engine=stand.engine, owner=owner)


def _app(pipeline: Pipeline, settings: Settings) -> Starlette:
    limits = Limits(body_bytes=settings.max_body_bytes, stall_s=settings.stall_timeout_s)
    return Starlette(routes=surface_routes(pipeline, limits, region=settings.region))


@contextlib.asynccontextmanager
async def _pipeline(
    db: Database, keyring: Keyring, routes: Routes, *, folder: Path, timeout_s: float
) -> AsyncIterator[Pipeline]:
    ledger = Ledger(db, folder / "journal", segment_bytes=_SEGMENT_BYTES)
    meters = Meters(CollectorRegistry())
    pipeline = Pipeline(
        keyring=keyring, limiter=Limiter(), ledger=ledger, routes=routes, meters=meters, timeout_s=timeout_s
    )
    await ledger.start()
    try:
        await pipeline.open()
        yield pipeline
    finally:
        await pipeline.close()
        await ledger.stop()


@contextlib.asynccontextmanager
async def _controlled(db: Database, routes: Routes, launcher: Launcher) -> AsyncIterator[None]:
    controller = Controller(Deployments(db), Rollouts(db), routes, launcher=launcher, permitted=lambda _binding: None)
    try:
        await controller.start()
        yield
    finally:
        await controller.stop()


async def _ready(routes: Routes, name: str, key: str, *, timeout_s: float) -> int:
    """Wait until a deployment answers; returns the tokens that one request may have."""
    deadline = clock.monotonic_seconds() + timeout_s
    while True:
        route = routes.get(name, key)
        if route.state is State.READY and route.capabilities is not None:
            return route.capabilities.context_tokens
        if route.state is State.FAILED or clock.monotonic_seconds() > deadline:
            reason = route.last_error or f"it was not ready within {timeout_s:g} s."
            raise EngineFailed(
                f"{route.version} could not be stood up: {reason}", remedy="`tandem doctor` says what is missing."
            )
        await asyncio.sleep(_POLL_S)


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: Ctrl-C is the command's to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the loop."""
        yield


@contextlib.asynccontextmanager
async def _served(app: Starlette) -> AsyncIterator[str]:
    """An application on a free port of loopback; its base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(_BACKLOG)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_STOPPING_S,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="private endpoint")
        try:
            yield url
        finally:
            server.should_exit = True
            await serving
