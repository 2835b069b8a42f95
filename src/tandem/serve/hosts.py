"""Hosts: engines that hold a base once, and answer for all versions that are this base or adapters of it."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tandem.kit.errors import ConfigError, EngineFailed, TandemError
from tandem.serve.deployments import Binding, Deployment
from tandem.serve.engines.port import Address, Capabilities, Engine, EngineFactory, Feature, Health, Launch
from tandem.serve.routes import Upstream
from tandem.serve.supervisor import until_ready

_log = logging.getLogger(__name__)

_POLL_S = 0.05


class Files(NamedTuple):
    """The checked files of a binding: a model, and the adapter that makes a version of it."""

    model: Path
    adapter: Path | None = None


Weights = Callable[[Binding], Files]
"""Finds the checked files of a binding. Raises Forbidden where the gate does not let the version out."""


@dataclass(eq=False)
class Berth:
    """The place of one replica on a host, for as long as it is wanted; `move` is called when its engine is another."""

    host: "Host"
    replica: str  # its id
    deployment: Deployment
    move: Callable[[], Upstream | None] = lambda: None
    proven: bool = False
    """Whether an engine has started with its adapter."""
    suspect: bool = False
    """Whether none did when it asked for one."""

    @property
    def adapter(self) -> str:
        """The digest of its adapter; empty where it is the base itself."""
        return self.deployment.digest if self.deployment.base else ""

    async def seat(self) -> Engine:
        """An engine for one life of the replica."""
        return Seat(self)

    def leave(self) -> None:
        """Give the place up: the next engine is started without it. A second time changes nothing."""
        if self in self.host.berths:
            self.host.berths.remove(self)


@dataclass(eq=False)
class _Running:
    """One engine that is ready, and who sits on it."""

    engine: Engine
    address: Address
    adapters: Sequence[str]
    """Digests, in the order in which requests name them."""
    ended: asyncio.Future[str]
    seats: "set[Seat]" = field(default_factory=set)
    _stopping: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def stop(self) -> None:
        """End it, whoever else has it ended just now."""
        async with self._stopping:
            await self.engine.stop()

    def holds(self, berth: Berth) -> bool:
        return not berth.adapter or berth.adapter in self.adapters

    def choice(self, berth: Berth) -> Mapping[str, object]:
        """What a request says to be answered as this version.

        Where there are adapters, the base is named as none of them: a request that names nothing may go on from what
        an adapter computed of the same prompt (llama.cpp's server clears a slot only if both requests name something).
        """
        if not self.adapters:
            return {}
        place = self.adapters.index(berth.adapter) if berth.adapter else 0
        return {"lora": [{"id": place, "scale": 1.0 if berth.adapter else 0.0}]}


class Host:
    """The engine for one base and one set of options, and what is left of the ones before it.

    Engines take adapters only when they start. So a berth whose adapter the running one lacks has another one started
    beside it, with all adapters that are wanted; the seats move there once it is ready, and the one before ends with
    its last request. A berth that leaves moves nobody: no request names its adapter any more.
    """

    def __init__(self, factory: EngineFactory, *, weights: Weights, log_folder: Path, start_timeout_s: float) -> None:
        self.berths: list[Berth] = []
        self._factory = factory
        self._weights = weights
        self._log_folder = log_folder
        self._start_timeout_s = start_timeout_s
        self._starting = asyncio.Lock()
        self._running: _Running | None = None
        self._leaving: dict[asyncio.Task[None], _Running] = {}

    def berth(self, replica: str, deployment: Deployment) -> Berth:
        """A place for a replica; the next engine is started with its adapter, too."""
        berth = Berth(self, replica, deployment)
        self.berths.append(berth)
        return berth

    def is_base_of_another(self, deployment: Deployment) -> bool:
        """Whether the base itself is here for another name: two of one whole model keep their own slots and fate."""
        return any(not one.adapter and one.deployment.name != deployment.name for one in self.berths)

    async def take(self, seat: "Seat") -> None:
        """Have an engine answer for a seat; one is started where none can.

        Raises:
            Forbidden: the gate does not let its version out.
            TandemError: its files are not whole, or no engine starts with them.
        """
        await asyncio.to_thread(self._weights, seat.berth.deployment.binding)  # also where an engine has them already
        async with self._starting:
            if self._running is None or not self._running.holds(seat.berth):
                self._adopt(await self._started(seat.berth))
            assert self._running is not None
            self._running.seats.add(seat)
            seat.running = self._running

    async def close(self) -> None:
        """End all engines, unless somebody is there."""
        if self.berths:
            return
        ending = [*self._leaving.values(), *([self._running] if self._running is not None else [])]
        for task in [*self._leaving]:
            task.cancel()
        await asyncio.gather(*(running.stop() for running in ending))

    async def _started(self, berth: Berth) -> _Running:
        """An engine with the adapters of all who are here; if that fails, of those who were never the reason."""
        everybody = await asyncio.to_thread(self._checked, berth)
        proven = {one: files for one, files in everybody.items() if one is berth or one.proven}
        if len(proven) < len(everybody):
            try:
                return await self._launched(berth, everybody)
            except (TandemError, OSError) as error:
                _log.warning("an engine is tried with fewer adapters", extra={"cause": str(error)})
        berth.suspect = True  # until it has started
        return await self._launched(berth, proven)

    def _checked(self, berth: Berth) -> dict[Berth, Files]:
        """The files of a berth, and of the others whose files are whole and let out."""
        checked = {}
        for one in [*self.berths]:
            if one.suspect and one is not berth:
                continue
            try:
                checked[one] = self._weights(one.deployment.binding)
            except TandemError:
                if one is berth:
                    raise
        return checked

    async def _launched(self, berth: Berth, everybody: Mapping[Berth, Files]) -> _Running:
        adapters = {one.adapter: files.adapter for one, files in everybody.items() if files.adapter is not None}
        deployment, options = berth.deployment, berth.deployment.options
        engine = self._factory(
            Launch(
                model_path=everybody[berth].model,
                adapters=tuple(adapters.values()),
                task=deployment.task,
                alias=deployment.name,
                log_path=self._log_folder / f"{berth.replica}.log",
                facts=deployment.facts,
                context_tokens=options.context_tokens,
                parallel=options.parallel,
                threads=options.threads,
                start_timeout_s=self._start_timeout_s,
            )
        )
        if adapters and Feature.ADAPTERS not in engine.capabilities.features:
            raise ConfigError(
                f"{deployment.version} is an adapter, and the engine {deployment.engine!r} takes whole models only.",
                remedy="Choose another engine; or pull the merged model, export/model.gguf in the folder of its run, "
                "as a version of its own.",
            )
        try:
            ended = await engine.start()
            await until_ready(engine, ended, timeout_s=self._start_timeout_s)
            running = _Running(engine, engine.address, tuple(adapters), ended)
        except BaseException:
            await engine.stop()
            raise
        for one in everybody:
            one.proven, one.suspect = True, False
        return running

    def _adopt(self, running: _Running) -> None:
        """Have everybody whom this engine can answer for sit on it."""
        before, self._running = self._running, running
        running.ended.add_done_callback(lambda ended: self._bury(running, ended))
        if before is None:
            return
        moving = {seat for seat in before.seats if running.holds(seat.berth)}
        before.seats -= moving
        running.seats |= moving
        for seat in moving:
            seat.running = running
        left = [upstream for seat in moving if (upstream := seat.berth.move()) is not None]
        task = asyncio.create_task(self._drain(before, left), name=f"drain {before.address.url}")
        self._leaving[task] = before
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    async def _drain(self, running: _Running, left: Sequence[Upstream]) -> None:
        """End an engine once nobody sits on it and nothing is asked of it; the gateway bounds how long that takes."""
        while running.seats or left:
            await asyncio.sleep(_POLL_S)
            left = [upstream for upstream in left if upstream.inflight]
        await running.stop()

    def _bury(self, running: _Running, ended: asyncio.Future[str]) -> None:
        if self._running is running:
            self._running = None
        for seat in running.seats:
            seat.end(ended.result())
        running.seats.clear()


class Seat:
    """What a host's engine is for one replica: an engine that answers as its version."""

    def __init__(self, berth: Berth) -> None:
        self.berth = berth
        self.running: _Running | None = None
        self._ended: asyncio.Future[str] | None = None

    async def start(self) -> asyncio.Future[str]:
        """Have the host's engine answer for it, too; the future ends when that engine does."""
        self._ended = asyncio.get_running_loop().create_future()
        await self.berth.host.take(self)
        return self._ended

    def end(self, cause: str) -> None:
        """Say that the engine has ended."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(cause)

    async def stop(self) -> None:
        """Leave the engine to the others; who keeps his place and stops has found it sick, and it ends for all."""
        running = self.running
        if running is None:
            return
        running.seats.discard(self)
        if self.berth in self.berth.host.berths:
            await running.stop()

    async def health(self) -> Health:
        """That of the engine."""
        return Health.FAILING if self.running is None else await self.running.engine.health()

    @property
    def capabilities(self) -> Capabilities:
        """Those of the engine."""
        return self._seated.engine.capabilities

    @property
    def address(self) -> Address:
        """The engine's, and what requests have to say to it."""
        running = self._seated
        return replace(running.address, choice=running.choice(self.berth))

    async def metrics(self) -> Mapping[str, float]:
        """Those of the engine, for all who share it."""
        return await self._seated.engine.metrics()

    @property
    def _seated(self) -> _Running:
        if self.running is None:
            raise EngineFailed(f"The replica {self.berth.replica} has no engine.")
        return self.running
