"""The controller: makes what runs equal to what the tables want and the gate permits, and tells the routes."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from tandem.kit.errors import TandemError, Unavailable
from tandem.serve.deployments import Binding, Deployment, Deployments, Observation, best_state
from tandem.serve.engines.port import Capabilities
from tandem.serve.fleet import Fleet, Launcher
from tandem.serve.rollouts.plan import Rollout
from tandem.serve.rollouts.store import Rollouts, candidate_of
from tandem.serve.routes import Route, Routes
from tandem.serve.state import State, Wanted
from tandem.serve.steering import Steering

_log = logging.getLogger(__name__)

# Another process may have changed the table; half a second is what a person takes for "at once".
_POLL_S = 0.5
# An engine ends within 5 s of SIGTERM or is killed; beyond this the kernel itself holds it.
_STOP_S = 20.0

Permitted = Callable[[Binding], None]
"""Raises Forbidden where the release gate does not let a version out, or not any more; cheap, called in a thread."""


class _Wishes(NamedTuple):
    """What the tables want, and why the gate bars some of it."""

    deployments: dict[str, Deployment]
    rollouts: dict[str, Rollout]
    candidates: dict[str, Deployment]
    """What the deployments with a rollout will be once it is promoted."""
    barred: dict[Binding, str]


class Controller:
    """Runs the replicas of all deployments, and of their rollouts' candidates, in this process.

    `permitted` is asked twice a second about all that runs or should: what is not permitted any more is stopped at
    once, its running answers included.
    """

    def __init__(
        self,
        deployments: Deployments,
        rollouts: Rollouts,
        routes: Routes,
        *,
        launcher: Launcher,
        permitted: Permitted,
        drain_timeout_s: float = 30.0,
    ) -> None:
        self._deployments = deployments
        self._rollouts = rollouts
        self._routes = routes
        self._launcher = launcher
        self._permitted = permitted
        self._drain_timeout_s = drain_timeout_s
        self._serving: dict[str, Fleet] = {}
        self._coming: dict[str, Fleet] = {}  # newer revisions, not ready yet
        self._candidates: dict[str, Fleet] = {}
        self._steering: dict[str, Steering] = {}
        self._barred: dict[str, tuple[Deployment, str]] = {}  # what is wanted and not permitted, and why
        self._leaving: dict[asyncio.Task[None], Fleet] = {}
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
        fleets = [*self._fleets(), *self._leaving.values()]
        for task in [*self._leaving]:
            task.cancel()
        for name in {*self._serving, *self._barred}:
            self._routes.withdraw(name)
        self._serving, self._coming, self._candidates, self._barred = {}, {}, {}, {}
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
        # First and without the database: an outage of it must not keep a withdrawn version going.
        running = {fleet.deployment.binding for fleet in self._fleets()}
        self._cut_off(await asyncio.to_thread(self._not_permitted, running))
        wishes = await asyncio.to_thread(self._wishes)
        for name in {*self._serving, *self._barred} - wishes.deployments.keys():
            self._forget(name)
        for name, deployment in wishes.deployments.items():
            self._bring(name, deployment, wishes)
        await self._steer(wishes)
        await self._observe()

    def _wishes(self) -> _Wishes:
        known = self._deployments.deployments()
        deployments = {found.name: found for found in known if found.wanted is Wanted.SERVING}
        rollouts = {one.deployment: one for one in self._rollouts.active() if one.deployment in deployments}
        candidates = {name: candidate_of(one, deployments[name]) for name, one in rollouts.items()}
        bindings = {found.binding for found in [*deployments.values(), *candidates.values()]}
        return _Wishes(deployments, rollouts, candidates, self._not_permitted(bindings))

    def _not_permitted(self, bindings: Iterable[Binding]) -> dict[Binding, str]:
        """The causes of what the gate bars. While it cannot be asked, what runs goes on and nothing new begins."""
        barred = {}
        for binding in bindings:
            try:
                self._permitted(binding)
            except Unavailable as error:
                _log.warning("the release gate does not answer", extra={"cause": str(error)})
            except TandemError as error:
                barred[binding] = str(error)
        return barred

    def _cut_off(self, barred: Mapping[Binding, str]) -> None:
        """Stop what is not permitted any more, before its requests are finished."""
        for fleets in (self._serving, self._coming, self._candidates):
            for name, fleet in [*fleets.items()]:
                if (cause := barred.get(fleet.deployment.binding)) is not None:
                    del fleets[name]
                    if fleets is self._serving:
                        self._barred[name] = (fleet.deployment, cause)
                    _log.error("a version is not served any more", extra={"deployment": name, "cause": cause})
                    self._publish(name)
                    self._retire(fleet, drain=False)

    def _forget(self, name: str) -> None:
        self._routes.withdraw(name)
        self._barred.pop(name, None)
        self._steering.pop(name, None)
        for fleets in (self._serving, self._coming, self._candidates):
            if (fleet := fleets.pop(name, None)) is not None:
                self._retire(fleet)

    def _bring(self, name: str, deployment: Deployment, wishes: _Wishes) -> None:
        """Have this revision of a deployment run, and serve from it once it is ready or nothing else is."""
        self._bring_candidate(name, deployment, wishes)
        serving, coming = self._serving.get(name), self._coming.get(name)
        if serving is not None and serving.was_removed_for(deployment):
            self._retire(self._serving.pop(name))
            serving = None
        if coming is not None and not coming.serves(deployment):
            self._retire(self._coming.pop(name))
        if (cause := wishes.barred.get(deployment.binding)) is not None:
            self._barred[name] = (deployment, cause)
        elif serving is not None and serving.serves(deployment):
            self._barred.pop(name, None)
            serving.deployment = deployment
        else:
            self._barred.pop(name, None)
            self._replace(name, serving, deployment)
        self._publish(name)

    def _replace(self, name: str, serving: Fleet | None, deployment: Deployment) -> None:
        coming = self._coming.pop(name, None) or self._promoted(name, deployment)
        coming = coming or self._launch(deployment, label=str(deployment.revision))
        coming.deployment = deployment
        if serving is None or coming.ready or not serving.alive:
            self._serving[name] = coming
            if serving is not None:
                self._retire(serving)
        else:
            self._coming[name] = coming

    def _promoted(self, name: str, deployment: Deployment) -> Fleet | None:
        """The candidate's fleet, where the deployment is bound to it now."""
        candidate = self._candidates.get(name)
        return self._candidates.pop(name) if candidate is not None and candidate.serves(deployment) else None

    def _bring_candidate(self, name: str, deployment: Deployment, wishes: _Wishes) -> None:
        rollout = wishes.rollouts.get(name)
        candidate = self._candidates.get(name)
        if rollout is None:
            self._steering.pop(name, None)
            if candidate is not None and not candidate.serves(deployment):
                self._routes.split(name, None)
                self._retire(self._candidates.pop(name))
            return
        wanted = wishes.candidates[name]
        steering = self._steering.get(name)
        if steering is None or steering.rollout.id != rollout.id:
            self._steering[name] = Steering(self._rollouts, rollout)
        if candidate is not None and not candidate.serves(wanted):  # of the rollout before
            self._retire(self._candidates.pop(name))
            candidate = None
        if candidate is None and wanted.binding not in wishes.barred:
            self._candidates[name] = self._launch(wanted, label=rollout.id[-8:])

    async def _steer(self, wishes: _Wishes) -> None:
        """Carry each rollout on by as much as its numbers say."""
        for name, steering in [*self._steering.items()]:
            rollout, candidate = wishes.rollouts[name], self._candidates.get(name)
            deployment = wishes.deployments[name]
            if (rollout.stable, rollout.stable_digest) != (deployment.version, deployment.digest):
                changed = await steering.roll_back(f"{name} was bound to {deployment.version} meanwhile.")
            elif candidate is None:
                cause = wishes.barred.get(wishes.candidates[name].binding, f"{rollout.version} is not released.")
                changed = await steering.roll_back(cause)
            else:
                changed = await steering.turn(rollout, candidate)
            self._publish(name)
            if changed:
                self._poked.set()

    def _launch(self, deployment: Deployment, *, label: str) -> Fleet:
        def changed() -> None:
            # Routes hear of it before the next request does; the table at the controller's next round.
            if not self._stopping:
                self._publish(deployment.name)
            self._poked.set()

        return self._launcher.launch(deployment, label=label, changed=changed)

    def _publish(self, name: str) -> None:
        """Tell the routes what serves a deployment now."""
        fleet = self._serving.get(name)
        steering, candidate = self._steering.get(name), self._candidates.get(name)
        if fleet is not None:
            self._routes.publish(_route(fleet))
            self._routes.attach(name, fleet.upstreams(steering.stable if steering is not None else None))
        elif name in self._barred:
            deployment, cause = self._barred[name]
            self._routes.publish(_described(deployment, State.UNRELEASED, cause))
            self._routes.attach(name, ())
        else:
            return  # nothing has run yet, or the name is gone
        self._routes.split(name, steering.split(candidate) if steering and candidate else None)

    def _retire(self, fleet: Fleet, *, drain: bool = True) -> None:
        """Let its requests finish, then stop it; requests must not reach it any more."""

        async def leave() -> None:
            if drain:
                await asyncio.gather(*(r.drain(timeout_s=self._drain_timeout_s) for r in fleet.replicas))
            await fleet.stop()

        task = asyncio.create_task(leave(), name=f"retire {fleet.deployment.name}")
        self._leaving[task] = fleet
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    def _fleets(self) -> list[Fleet]:
        return [*self._serving.values(), *self._coming.values(), *self._candidates.values()]

    async def _observe(self) -> None:
        """Record what runs, when it has changed."""
        observations = sorted(self._observations(), key=lambda seen: seen.id)
        if observations != self._seen:
            await asyncio.to_thread(self._deployments.observe, observations)
            self._seen = observations

    def _observations(self) -> Iterator[Observation]:
        engines = Counter(one.upstream.url for fleet in self._fleets() for one in fleet.replicas if one.upstream)
        for fleet in self._fleets():
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
                    sharing=engines[replica.upstream.url] if replica.upstream is not None else 1,
                )
        for name, (deployment, cause) in self._barred.items():
            yield Observation(
                id=f"{name}.{deployment.revision}.barred",
                deployment=name,
                revision=deployment.revision,
                state=State.UNRELEASED,
                last_error=cause,
            )


def _route(fleet: Fleet) -> Route:
    replicas = fleet.replicas
    capabilities = next((r.capabilities for r in replicas if r.capabilities is not None), None)
    state = best_state(replica.state for replica in replicas)
    return _described(fleet.deployment, state, fleet.last_error, capabilities)


def _described(
    deployment: Deployment, state: State, last_error: str, capabilities: Capabilities | None = None
) -> Route:
    return Route(
        name=deployment.name,
        version=deployment.version,
        task=deployment.task,
        created=deployment.created_at,
        facts=deployment.facts,
        capabilities=capabilities,
        state=state,
        last_error=last_error,
        owner=deployment.owner,
    )
