"""The controller: makes what runs equal to what the deployments table wants, and tells the routes."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem.kit.errors import ConfigError, Unavailable
from tandem.serve.deployments import Deployment, Deployments, Observation, best_state
from tandem.serve.engines.port import Engine, EngineFactory, Launch
from tandem.serve.routes import Route, Routes
from tandem.serve.state import State, Wanted
from tandem.serve.supervisor import Replica

_log = logging.getLogger(__name__)

# Another process may have changed the table; half a second is what a person takes for "at once".
_POLL_S = 0.5
# An engine ends within 5 s of SIGTERM or is killed; beyond this the kernel itself holds it.
_STOP_S = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class _Fleet:
    """The replicas of one revision of a deployment."""

    deployment: Deployment
    replicas: tuple[Replica, ...]

    def runs(self, deployment: Deployment) -> bool:
        """Whether it is what this deployment wants."""
        return self.deployment.revision == deployment.revision and not self.was_removed_for(deployment)

    def was_removed_for(self, deployment: Deployment) -> bool:
        """Whether the name was removed and bound to something else: revisions count from 1 again then."""
        ours = self.deployment
        return ours.revision == deployment.revision and (
            (ours.digest, ours.version, ours.engine, ours.options)
            != (deployment.digest, deployment.version, deployment.engine, deployment.options)
        )

    @property
    def ready(self) -> bool:
        """Whether all of them answer."""
        return all(replica.state is State.READY for replica in self.replicas)

    @property
    def alive(self) -> bool:
        """Whether any of them answers."""
        return any(replica.state is State.READY for replica in self.replicas)

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(*(replica.stop() for replica in self.replicas))


class Controller:
    """Runs the replicas of all deployments in this process. `model_path` finds the file of a digest, in a thread."""

    def __init__(
        self,
        deployments: Deployments,
        routes: Routes,
        *,
        engines: Mapping[str, EngineFactory],
        model_path: Callable[[str], Path],
        log_folder: Path,
        start_timeout_s: float = 300.0,
        drain_timeout_s: float = 30.0,
    ) -> None:
        self._deployments = deployments
        self._routes = routes
        self._engines = engines
        self._model_path = model_path
        self._log_folder = log_folder
        self._start_timeout_s = start_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._serving: dict[str, _Fleet] = {}
        self._coming: dict[str, _Fleet] = {}  # newer revisions, not ready yet
        self._leaving: dict[asyncio.Task[None], _Fleet] = {}
        self._seen: list[Observation] | None = None
        self._poked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._troubled = False
        self._stopping = False

    async def start(self) -> None:
        """Begin: all wanted replicas are starting when this returns.

        Raises:
            Unavailable: the database does not answer.
        """
        self._loop = asyncio.get_running_loop()
        await self._reconcile()
        self._task = asyncio.create_task(self._run(), name="controller")

    async def stop(self) -> None:
        """Stop every engine at once, within about 20 s, and forget the routes."""
        self._stopping = True
        self._poked.set()
        if self._task is not None:
            # Not cut short: a write of its in another thread could land after the last one here.
            await asyncio.wait({self._task}, timeout=_STOP_S)
            self._task.cancel()
        fleets = [*self._serving.values(), *self._coming.values(), *self._leaving.values()]
        for task in [*self._leaving]:
            task.cancel()
        for name in self._serving:
            self._routes.withdraw(name)
        self._serving, self._coming = {}, {}
        try:
            async with asyncio.timeout(_STOP_S):
                await asyncio.gather(*(fleet.stop() for fleet in fleets))
        except TimeoutError:
            _log.error("some engines did not end", extra={"waited_s": _STOP_S})
        try:
            await self._observe()
        except Unavailable as error:
            _log.warning("the replicas' end was not recorded", extra={"cause": str(error)})

    def poke(self) -> None:
        """Look at the table now instead of at the next round; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._poked.set)

    async def _run(self) -> None:
        while not self._stopping:
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._poked.wait()
            except TimeoutError:
                pass
            self._poked.clear()
            # The edge of a job: what runs keeps running. Said once for an outage, not twice a second.
            (trouble,) = await asyncio.gather(self._reconcile(), return_exceptions=True)
            if trouble is not None and not self._troubled:
                unexpected = None if isinstance(trouble, Unavailable) else trouble
                _log.error("deployments cannot be followed", extra={"cause": str(trouble)}, exc_info=unexpected)
            self._troubled = trouble is not None

    async def _reconcile(self) -> None:
        known = await asyncio.to_thread(self._deployments.deployments)
        wanted = {found.name: found for found in known if found.wanted is Wanted.SERVING}
        for name in [name for name in self._serving if name not in wanted]:
            self._routes.withdraw(name)
            self._retire(self._serving.pop(name))
            if name in self._coming:
                self._retire(self._coming.pop(name))
        for name, deployment in wanted.items():
            self._bring(name, deployment)
        await self._observe()

    def _bring(self, name: str, deployment: Deployment) -> None:
        """Have this revision of a deployment run, and serve from it once it is ready or nothing else is."""
        serving = self._serving.get(name)
        coming = self._coming.get(name)
        if serving is not None and serving.was_removed_for(deployment):
            self._retire(serving)
            serving = None
        if serving is None:
            serving = self._serving[name] = self._fleet(deployment)
        if coming is not None and not coming.runs(deployment):
            self._retire(self._coming.pop(name))
            coming = None
        if not serving.runs(deployment):
            coming = coming or self._fleet(deployment)
            if coming.ready or not serving.alive:
                self._coming.pop(name, None)
                self._serving[name] = coming
                self._retire(serving)
            else:
                self._coming[name] = coming
        self._publish(name)

    def _fleet(self, deployment: Deployment) -> _Fleet:
        replicas = tuple(
            self._replica(deployment, f"{deployment.name}.{deployment.revision}.{index}")
            for index in range(deployment.options.replicas)
        )
        for replica in replicas:
            replica.start()
        return _Fleet(deployment, replicas)

    def _replica(self, deployment: Deployment, replica_id: str) -> Replica:
        async def make() -> Engine:
            return await self._engine(deployment, self._log_folder / f"{replica_id}.log")

        def changed() -> None:
            # Routes hear of it before the next request does; the table at the controller's next round.
            if deployment.name in self._serving:
                self._publish(deployment.name)
            self._poked.set()

        return Replica(replica_id, make=make, changed=changed, start_timeout_s=self._start_timeout_s)

    async def _engine(self, deployment: Deployment, log_path: Path) -> Engine:
        factory = self._engines.get(deployment.engine)
        if factory is None:
            raise ConfigError(
                f"The deployment {deployment.name!r} wants the engine {deployment.engine!r}, which is unknown.",
                remedy=f"Known engines are: {', '.join(sorted(self._engines))}.",
            )
        options = deployment.options
        return factory(
            Launch(
                model_path=await asyncio.to_thread(self._model_path, deployment.digest),
                task=deployment.task,
                alias=deployment.name,
                log_path=log_path,
                facts=deployment.facts,
                context_tokens=options.context_tokens,
                parallel=options.parallel,
                threads=options.threads,
                start_timeout_s=self._start_timeout_s,
            )
        )

    def _publish(self, name: str) -> None:
        fleet = self._serving[name]
        deployment, replicas = fleet.deployment, fleet.replicas
        self._routes.publish(
            Route(
                name=name,
                version=deployment.version,
                task=deployment.task,
                created=deployment.created_at,
                facts=deployment.facts,
                capabilities=next((r.capabilities for r in replicas if r.capabilities is not None), None),
                state=best_state(replica.state for replica in replicas),
                last_error=next((r.last_error for r in replicas if r.last_error), ""),
            )
        )
        self._routes.attach(name, tuple(r.upstream for r in replicas if r.upstream is not None))

    def _retire(self, fleet: _Fleet) -> None:
        """Let its requests finish, then stop it; requests must not reach it any more."""

        async def leave() -> None:
            await asyncio.gather(*(r.drain(timeout_s=self._drain_timeout_s) for r in fleet.replicas))
            await fleet.stop()

        task = asyncio.create_task(leave(), name=f"retire {fleet.deployment.name}")
        self._leaving[task] = fleet
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    async def _observe(self) -> None:
        """Record what runs, when it has changed."""
        observations = sorted(self._observations(), key=lambda seen: seen.id)
        if observations != self._seen:
            await asyncio.to_thread(self._deployments.observe, observations)
            self._seen = observations

    def _observations(self) -> Iterator[Observation]:
        for fleet in [*self._serving.values(), *self._coming.values()]:
            for replica in fleet.replicas:
                yield Observation(
                    id=replica.id,
                    deployment=fleet.deployment.name,
                    revision=fleet.deployment.revision,
                    state=replica.state,
                    pid=replica.pid,
                    address=replica.upstream.url if replica.upstream is not None else "",
                    restarts=replica.restarts,
                    last_error=replica.last_error,
                )
