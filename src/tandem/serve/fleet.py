"""Fleets: the replicas of one binding, and the launcher, which asks the release gate before an engine gets its file."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from tandem.kit.errors import ConfigError
from tandem.serve.deployments import Binding, Deployment
from tandem.serve.engines.port import Engine, EngineFactory, Launch
from tandem.serve.rollouts.window import Window
from tandem.serve.routes import Upstream
from tandem.serve.state import State
from tandem.serve.supervisor import Replica

# NOTE: this is the one way from a version to an engine. An engine that shares a running base with adapters (LoRA) would
# be a feature in `Capabilities` and another verb of the launcher, which asks the same gate for the adapter's digest.
Weights = Callable[[Binding], Path]
"""Finds the checked model file of a binding. Raises Forbidden where the gate does not let the version out."""


class Fleet:
    """The replicas that run one binding of a deployment."""

    def __init__(self, deployment: Deployment, replicas: tuple[Replica, ...]) -> None:
        self.deployment = deployment
        """The newest revision that wants just this."""
        self.replicas = replicas

    def serves(self, deployment: Deployment) -> bool:
        """Whether it is what this deployment wants, in whichever revision."""
        return _content(self.deployment) == _content(deployment)

    def was_removed_for(self, deployment: Deployment) -> bool:
        """Whether the name was removed and bound to something else: revisions count from 1 again then."""
        return deployment.revision <= self.deployment.revision and not self.serves(deployment)

    @property
    def ready(self) -> bool:
        """Whether all of them answer."""
        return all(replica.state is State.READY for replica in self.replicas)

    @property
    def alive(self) -> bool:
        """Whether any of them answers."""
        return any(replica.state is State.READY for replica in self.replicas)

    @property
    def has_failed(self) -> bool:
        """Whether none of them starts."""
        return all(replica.state is State.FAILED for replica in self.replicas)

    @property
    def restarts(self) -> int:
        """How often they came back, together."""
        return sum(replica.restarts for replica in self.replicas)

    @property
    def last_error(self) -> str:
        """What the first that has a complaint says, or nothing."""
        return next((replica.last_error for replica in self.replicas if replica.last_error), "")

    def upstreams(self, window: Window | None) -> tuple[Upstream, ...]:
        """Where its requests go now, to be counted in this window."""
        ready = tuple(replica.upstream for replica in self.replicas if replica.upstream is not None)
        for upstream in ready:
            upstream.window = window
        return ready

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(*(replica.stop() for replica in self.replicas))


class Launcher:
    """Starts the engines of bindings; nothing else loads weights.

    `weights` is called in a thread, each time that an engine starts.
    """

    def __init__(
        self,
        engines: Mapping[str, EngineFactory],
        *,
        weights: Weights,
        log_folder: Path,
        start_timeout_s: float = 300.0,
    ) -> None:
        self._engines = engines
        self._weights = weights
        self._log_folder = log_folder
        self._start_timeout_s = start_timeout_s

    def launch(self, deployment: Deployment, *, label: str, changed: Callable[[], None]) -> Fleet:
        """The replicas that a deployment wants, starting; their ids are its name, the label and a number."""
        replicas = tuple(
            self._replica(deployment, f"{deployment.name}.{label}.{index}", changed)
            for index in range(deployment.options.replicas)
        )
        for replica in replicas:
            replica.start()
        return Fleet(deployment, replicas)

    def _replica(self, deployment: Deployment, replica_id: str, changed: Callable[[], None]) -> Replica:
        async def make() -> Engine:
            return await self._engine(deployment, self._log_folder / f"{replica_id}.log")

        return Replica(
            replica_id,
            make=make,
            changed=changed,
            start_timeout_s=self._start_timeout_s,
            version=deployment.version,
        )

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
                model_path=await asyncio.to_thread(self._weights, deployment.binding),
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


def _content(deployment: Deployment) -> tuple[object, ...]:
    return (deployment.binding, deployment.task, deployment.engine, deployment.options)
