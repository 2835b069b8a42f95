"""The wiring: settings, rooms and apps joined to one process, started in order and stopped in reverse."""

import asyncio
import contextlib
import errno
import fcntl
import gc
import ipaddress
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from tandem.accounts import Keyring, Ledger, Limiter
from tandem.api import Platform, StateCollector, api_routes, wrong_method
from tandem.flows import Flows, executor_beside, files_of, permit
from tandem.gateway import Limits, Meters, Pipeline, surface_routes
from tandem.kit.blobs import Blobs
from tandem.kit.config import Settings
from tandem.kit.db import Database
from tandem.kit.errors import ConfigError, Conflict, StorageFull, TandemError
from tandem.registry import CharterBook, Datasets, EvidenceStore, Members, Registry, Releases, Runs
from tandem.serve import ENGINES, Binding, Controller, Deployments, EngineFactory, Files, Launcher, Rollouts, Routes

_log = logging.getLogger(__name__)

# A worker thread that folds the ledger keeps the interpreter's lock for this long each time the loop lets go of it
# to wait for sockets. Python's 5 ms would be the gateway's 99th percentile.
_SWITCH_INTERVAL_S = 0.0005
_GC_THRESHOLDS = (10_000, 20, 20)

_BACKLOG = 2048  # uvicorn's own number of connections that may wait to be accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What commands and the server stand on: the settings, the migrated database, and the rooms that need no loop."""

    settings: Settings
    db: Database
    registry: Registry
    keyring: Keyring
    deployments: Deployments
    rollouts: Rollouts
    runs: Runs
    datasets: Datasets
    charters: CharterBook
    members: Members
    evidence: EvidenceStore
    releases: Releases
    flows: Flows

    @classmethod
    def open(cls, settings: Settings) -> "House":
        """Create what is missing in the home folder and bring the database up to date.

        Raises:
            ConfigError: the home folder cannot be made or written, or the database is newer than this program.
        """
        try:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _unusable_home(settings.home, f"made: {error.strerror}") from error
        if not os.access(settings.home, os.W_OK | os.X_OK):
            raise _unusable_home(settings.home, "written by this user")
        house = cls.as_it_is(settings)
        house.db.migrate()
        return house

    @classmethod
    def as_it_is(cls, settings: Settings) -> "House":
        """The same without making or changing anything, for looking: the database may be old or missing.

        Raises:
            ConfigError: the database or the blob store cannot be what a setting says.
        """
        db = Database(settings.sqlalchemy_url)
        registry = Registry(db, Blobs(settings.blobs_url, cache=settings.home / "cache" / "blobs"))
        charters = CharterBook(settings.home, anchor=settings.charter_anchor)
        evidence = EvidenceStore(db, charters)
        return cls(
            settings=settings,
            db=db,
            registry=registry,
            keyring=Keyring(db, cache_s=settings.key_cache_s, grace_s=settings.key_grace_s),
            deployments=Deployments(db),
            rollouts=Rollouts(db),
            runs=Runs(db, settings.home),
            datasets=Datasets(db, settings.home),
            charters=charters,
            members=Members(settings.home, passphrase=settings.signing_passphrase),
            evidence=evidence,
            releases=Releases(db, charters=charters, evidence=evidence, registry=registry, region=settings.region),
            flows=Flows(settings),
        )


@contextlib.asynccontextmanager
async def running_app(
    house: House, *, engines: Mapping[str, EngineFactory] = ENGINES, routes: Routes | None = None
) -> AsyncIterator[Starlette]:
    """The application with everything behind it running; leaving stops engines and folds the ledger.

    The order matters on the way out: engines first, so that no token is made that nobody can settle.
    """
    settings = house.settings
    routes = routes or Routes()
    meters = Meters(CollectorRegistry())
    ledger = _ledger(house.db, settings)
    meters.registry.register(StateCollector(routes, ledger))
    controller = _controller(house, engines, routes)
    pipeline = Pipeline(
        keyring=house.keyring,
        limiter=Limiter(),
        ledger=ledger,
        routes=routes,
        meters=meters,
        timeout_s=settings.request_timeout_s,
    )
    platform = Platform(
        settings=settings,
        db=house.db,
        registry=house.registry,
        runs=house.runs,
        datasets=house.datasets,
        charters=house.charters,
        evidence=house.evidence,
        releases=house.releases,
        keyring=house.keyring,
        deployments=house.deployments,
        rollouts=house.rollouts,
        flows=house.flows,
        ledger=ledger,
        routes=routes,
        meters=meters,
        engines=engines,
        poke=controller.poke,
    )
    limits = Limits(body_bytes=settings.max_body_bytes, stall_s=settings.stall_timeout_s)
    app = Starlette(
        routes=[*surface_routes(pipeline, limits, region=settings.region), *api_routes(platform)],
        exception_handlers={405: wrong_method},
    )
    async with contextlib.AsyncExitStack() as stack:
        await ledger.start()
        stack.push_async_callback(ledger.stop)
        await pipeline.open()
        stack.push_async_callback(pipeline.close)
        await controller.start()
        stack.push_async_callback(controller.stop)
        stack.callback(house.flows.close)
        await stack.enter_async_context(executor_beside(settings))
        _tune_interpreter()
        yield app


def _ledger(db: Database, settings: Settings) -> Ledger:
    folder, size = settings.home / "journal", settings.journal_segment_bytes
    return Ledger(db, folder, segment_bytes=size, fsync=settings.journal_fsync)


def _controller(house: House, engines: Mapping[str, EngineFactory], routes: Routes) -> Controller:
    """The controller behind the release gate: all that runs, and all that is loaded, is asked for there."""
    launcher = Launcher(
        engines,
        weights=partial(_weights, house),
        log_folder=house.settings.home / "logs" / "engines",
        start_timeout_s=house.settings.engine_start_timeout_s,
    )
    permitted = partial(permit, house.releases)
    return Controller(house.deployments, house.rollouts, routes, launcher=launcher, permitted=permitted)


def _weights(house: House, binding: Binding) -> Files:
    """The checked files of what the release gate lets out; the only way from a deployment to weights.

    Raises:
        Forbidden: the gate does not let it out.
        IntegrityError: the file is missing or is not what its digest says.
    """
    permit(house.releases, binding)
    return files_of(binding, house.registry)


def _tune_interpreter() -> None:
    """Keep the interpreter's own pauses out of the answers."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What was imported and wired lives as long as the process: looking through it for garbage again and again was
    # 60 ms of the 99th percentile. Requests leave few cycles behind, so the rest is looked through less often too.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _unusable_home(home: Path, cause: str) -> ConfigError:
    return ConfigError(
        f"The home folder {home} cannot be {cause}.", remedy="Set TANDEM_HOME to a folder that you may write to."
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: it would raise the signal again and skip what must be stopped after it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the answers that are running, cut off those that take too long, and wait for their end.

        What is cut off must settle before its engine and the ledger stop.
        """
        await super().shutdown(sockets)
        running = list(self.server_state.tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def serve(house: House, *, started: Callable[[str], Coroutine[None, None, None]]) -> None:
    """Serve until SIGINT or SIGTERM; a second one cuts off the answers that the first one waits for.

    `started` runs beside it once connections are taken, with the base URL.

    Raises:
        Conflict: another process serves from this home folder, or holds the port.
        ConfigError, StorageFull: the home folder cannot be written.
    """
    settings = house.settings
    stopping, hurrying = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (hurrying if stopping.is_set() else stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    with _only_one(settings.home), listening(settings.host, settings.port) as listener:
        async with running_app(house) as app:
            server = _Server(
                uvicorn.Config(
                    _quiet_when_cut_off(app),
                    lifespan="off",
                    access_log=False,
                    log_config=None,
                    server_header=False,
                    proxy_headers=False,
                    timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
                )
            )
            url = _url(listener)
            with _noted(settings.home / "server.json", url):
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                beside = asyncio.create_task(started(url))
                await _until_stopped(stopping, serving, beside)
                server.should_exit = True
                beside.cancel()
                hurried = asyncio.create_task(hurrying.wait())
                await asyncio.wait({serving, hurried}, return_when=asyncio.FIRST_COMPLETED)
                server.force_exit = hurrying.is_set()
                hurried.cancel()
                await serving
            if beside.done() and not beside.cancelled():
                beside.result()


async def _until_stopped(stopping: asyncio.Event, serving: asyncio.Task[None], beside: asyncio.Task[None]) -> None:
    """Wait for a signal, for the server's own end, or for the companion's failure."""
    signalled = asyncio.create_task(stopping.wait())
    waiting: set[asyncio.Task[Any]] = {signalled, serving, beside}
    while not signalled.done() and not serving.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if beside in done and beside.exception() is not None:
            break
    signalled.cancel()


def _quiet_when_cut_off(app: ASGIApp) -> ASGIApp:
    """The application, whose requests end without a trace in the log when a shutdown cuts them off."""

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            pass  # uvicorn closes the connection of an answer that has no end

    return quiet


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home folder's lock; the kernel frees it however this process ends."""
    path = home / "up.lock"
    try:
        lock = path.open("a+")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        except BlockingIOError:
            lock.seek(0)
            raise Conflict(
                f"Another `tandem up` (process {lock.read().strip() or 'unknown'}) serves from {home}.",
                remedy="Stop it first, or set TANDEM_HOME to another folder.",
            ) from None
        except OSError as error:
            raise _unwritable(path, error) from error
        yield


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that takes connections; they wait until somebody accepts them.

    Raises:
        Conflict: the port is taken, or the host is none of this machine.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, proto))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)  # at once: until then another process could bind the same port
        except (OSError, UnicodeError) as error:  # the latter for what cannot be a host's name
            cause = error.strerror if isinstance(error, OSError) else error
            raise Conflict(
                f"Cannot listen on {host} port {port}: {cause}.",
                remedy="Choose another with --host and --port; --port 0 takes a free one.",
            ) from error
        yield listener


@contextlib.contextmanager
def _noted(path: Path, url: str) -> Iterator[None]:
    """Leave word for other commands where this process answers."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps({"pid": os.getpid(), "url": url}))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> TandemError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(f"{path} cannot be written: the disk is full.", remedy="Free some space and start again.")
    return ConfigError(f"{path} cannot be written: {error.strerror}.", remedy="Check who owns it.")


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
