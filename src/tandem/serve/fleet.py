"""Fleets: the replicas of one binding, and the launcher, which asks the release gate before an engine gets its file."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tandem.kit.errors import ConfigError
from tandem.serve.deployments import Deployment
from tandem.serve.engines.features import FACTS
from tandem.serve.engines.port import Engine, EngineFactory, Launch
from tandem.serve.hosts import Berth, Host, Weights
from tandem.serve.rollouts.window import Window
from tandem.serve.routes import Upstream
from tandem.serve.state import State
from tandem.serve.supervisor import Replica


class Fleet:
    """The replicas that run one binding of a deployment."""

    def __init__(self, deployment: Deployment, replicas: tuple[Replica, ...], berths: Sequence[Berth] = ()) -> None:
        self.deployment = deployment
        """The newest revision that wants just this."""
        self.replicas = replicas
        self._berths = berths

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
        """End all of them, and their engines where these answer for nobody else."""
        for berth in self._berths:
            berth.leave()
        await asyncio.gather(*(replica.stop() for replica in self.replicas))
        await asyncio.gather(*(berth.host.close() for berth in self._berths))


class Launcher:
    """Starts the engines of bindings; nothing else loads weights.

    `weights` is called in a thread, each time that a replica starts. Adapters share an engine, with each other and with
    one deployment of their base, where options and all else that it is told are the same; those of a development
    deployment only with others of its key, so that nothing unreleased is loaded where clients are answered.
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
        self._hosts: dict[tuple[object, ...], Host] = {}

    def launch(self, deployment: Deployment, *, label: str, changed: Callable[[], None]) -> Fleet:
        """The replicas that a deployment wants, starting; their ids are its name, the label and a number."""
        berths = [
            self._host(deployment, index).berth(f"{deployment.name}.{label}.{index}", deployment)
            for index in range(deployment.options.replicas)
        ]
        replicas = tuple(self._replica(berth, changed) for berth in berths)
        for replica in replicas:
            replica.start()
        return Fleet(deployment, replicas, berths)

    def _replica(self, berth: Berth, changed: Callable[[], None]) -> Replica:
        replica = Replica(
            berth.replica,
            make=berth.seat,
            changed=changed,
            start_timeout_s=self._start_timeout_s,
            version=berth.deployment.version,
        )
        berth.move = replica.move
        return replica

    def _host(self, deployment: Deployment, index: int) -> Host:
        """The host of a deployment's replica of this number; one that all have left is of no use any more."""
        self._hosts = {key: host for key, host in self._hosts.items() if host.berths}
        facts = repr([deployment.facts.get(fact) for fact in FACTS])
        told = (deployment.engine, deployment.task, deployment.options, facts)
        key: tuple[object, ...] = (deployment.base or deployment.digest, *told, deployment.owner, index)
        if not deployment.base and key in self._hosts and self._hosts[key].is_base_of_another(deployment):
            key = (*key, deployment.name)
        if key not in self._hosts:
            self._hosts[key] = Host(
                self._factory(deployment.engine),
                weights=self._weights,
                log_folder=self._log_folder,
                start_timeout_s=self._start_timeout_s,
            )
        return self._hosts[key]

    def _factory(self, engine: str) -> EngineFactory:
        if (factory := self._engines.get(engine)) is not None:
            return factory

        def refuse(launch: Launch) -> Engine:
            raise ConfigError(
                f"The deployment {launch.alias!r} wants the engine {engine!r}, which is unknown.",
                remedy=f"Known engines are: {', '.join(sorted(self._engines))}.",
            )

        return refuse


def _content(deployment: Deployment) -> tuple[object, ...]:
    return (deployment.binding, deployment.task, deployment.engine, deployment.options)
