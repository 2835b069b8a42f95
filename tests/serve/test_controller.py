"""The controller: what runs follows the table, and requests never notice."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tandem.formats import write_tiny_gguf
from tandem.kit.db import Database
from tandem.kit.errors import Forbidden, IntegrityError, NotFound, TandemError, Unavailable
from tandem.serve import (
    ENGINES,
    Answered,
    Binding,
    Controller,
    Deployment,
    Deployments,
    DeployOptions,
    Files,
    Launcher,
    Mode,
    Plan,
    Rollout,
    Rollouts,
    RolloutState,
    Routes,
    State,
)
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.port import Engine, Health, Launch
from tandem.spec import Version
from tests.serve.launches import CHAT, post, tiny_version, until

pytestmark = pytest.mark.anyio


@dataclass
class Place:
    """A controller over fake engines, and levers to move it."""

    deployments: Deployments
    rollouts: Rollouts
    model: Path
    folder: Path
    routes: Routes = field(default_factory=Routes)
    engines: list[FakeEngine] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # digests whose file is not whole
    barred: dict[str, TandemError] = field(default_factory=dict)  # versions that the gate does not let out
    refuse_starts: str = ""

    def __post_init__(self) -> None:
        self.controller = Controller(
            self.deployments,
            self.rollouts,
            self.routes,
            launcher=Launcher(
                {"fake": self.make, **ENGINES},
                weights=self.weights,
                log_folder=self.folder / "logs",
                start_timeout_s=30,
            ),
            permitted=self.permitted,
        )

    def make(self, launch: Launch) -> Engine:
        engine = FakeEngine(launch)
        engine.fails_to_start = self.refuse_starts
        self.engines.append(engine)
        return engine

    def permitted(self, binding: Binding) -> None:
        assert threading.current_thread() is not threading.main_thread(), "the gate is asked in a thread"
        if not binding.owner and binding.version in self.barred:
            raise self.barred[binding.version]

    def weights(self, binding: Binding) -> Files:
        self.permitted(binding)
        if binding.digest in self.broken:
            raise IntegrityError(f"The file of {binding.digest} is not whole.", remedy="Pull it again.")
        return Files(self.model)

    async def bind(
        self, *, number: int = 1, name: str = "chat", engine: str = "fake", owner: str = "", **options: Any
    ) -> Deployment:
        small = DeployOptions(**{"context_tokens": 256, "threads": 1, **options})
        version = self.version(number)
        bound = await asyncio.to_thread(
            self.deployments.bind, name, version=version, options=small, engine=engine, owner=owner
        )
        self.controller.poke()
        return bound

    def version(self, number: int) -> Version:
        return tiny_version(self.model, number=number)

    def serves(self, version: str, name: str = "chat") -> bool:
        try:
            route = self.routes.get(name)
        except NotFound:
            return False
        return route.state is State.READY and route.version == version

    async def seen(self, name: str = "chat") -> Deployment:
        return await asyncio.to_thread(self.deployments.get, name)


@pytest.fixture
async def place(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Place]:
    """A running controller without deployments."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    place = Place(Deployments(sqlite_database), Rollouts(sqlite_database), model, tmp_path)
    await place.controller.start()
    yield place
    await place.controller.stop()


async def test_bound_is_served(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    upstream = place.routes.pick("chat")
    assert upstream.url == place.engines[0].address.url
    assert place.routes.get("chat").capabilities == place.engines[0].capabilities
    status, answer = await post(place.engines[0].address, CHAT, messages=[{"role": "user", "content": "hello"}])
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "hello"


async def test_what_was_bound_before_the_start_is_served(sqlite_database: Database, tmp_path: Path) -> None:
    place = Place(
        Deployments(sqlite_database), Rollouts(sqlite_database), write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path
    )
    await place.bind()
    await place.controller.start()
    await until(lambda: place.serves("tiny@1"))
    await place.controller.stop()
    with pytest.raises(NotFound):
        place.routes.get("chat")
    assert await place.engines[0].health() is Health.FAILING


async def test_no_poke_is_needed(place: Place) -> None:
    options = DeployOptions()
    await asyncio.to_thread(place.deployments.bind, "chat", version=place.version(1), options=options, engine="fake")
    await until(lambda: place.serves("tiny@1"))


async def test_status_is_seen_from_elsewhere(place: Place) -> None:
    await place.bind(replicas=2)
    await until(lambda: place.serves("tiny@1"))

    async def both() -> bool:
        return [seen.state for seen in (await place.seen()).replicas] == [State.READY] * 2

    await until(both)
    deployment = await place.seen()
    assert [seen.id for seen in deployment.replicas] == ["chat.1.0", "chat.1.1"]
    assert {seen.address for seen in deployment.replicas} == {engine.address.url for engine in place.engines}
    await place.controller.stop()
    assert (await place.seen()).state is State.PENDING


async def test_new_revision_takes_over_without_a_gap(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    old = place.routes.pick("chat")
    old.acquire()
    await place.bind(number=2)
    while not place.serves("tiny@2"):
        place.routes.pick("chat")  # raises where nobody is ready
        await asyncio.sleep(0.005)
    assert place.routes.pick("chat").url == place.engines[1].address.url
    assert await place.engines[0].health() is Health.READY, "a running request keeps the old one alive"
    old.release()
    await until(lambda: _is_down(place.engines[0]))


async def test_new_revision_that_does_not_start_changes_nothing(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    place.refuse_starts = "It burnt."
    await place.bind(number=2)

    async def told() -> bool:
        return "It burnt." in (await place.seen()).last_error

    await until(told)
    assert place.serves("tiny@1")
    await place.bind(number=1)
    await until(lambda: len(place.routes._ready["chat"]) == 1)
    assert place.serves("tiny@1")


async def test_new_revision_replaces_one_that_never_worked(place: Place) -> None:
    place.broken.add(place.version(1).artifact.digest)
    await place.bind()

    async def failed() -> bool:
        return (await place.seen()).state is State.FAILED

    await until(failed)
    assert "Pull it again." in (await place.seen()).last_error
    with pytest.raises(Unavailable, match="state: failed"):
        place.routes.pick("chat")
    await place.bind(number=2)
    await until(lambda: place.serves("tiny@2"))


async def test_removed_is_drained_and_stopped(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    upstream = place.routes.pick("chat")
    upstream.acquire()
    await asyncio.to_thread(place.deployments.remove, "chat")
    place.controller.poke()
    await until(lambda: not place.serves("tiny@1"))
    with pytest.raises(NotFound):
        place.routes.pick("chat")
    assert await place.engines[0].health() is Health.READY
    upstream.release()
    await until(lambda: _is_down(place.engines[0]))


async def test_stopped_runs_nothing_and_starts_again(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    await asyncio.to_thread(place.deployments.stop, "chat")
    await until(lambda: not place.serves("tiny@1"))
    await until(lambda: _is_down(place.engines[0]))
    await place.bind()
    await until(lambda: place.serves("tiny@1"))


async def test_removed_and_bound_anew_between_two_rounds(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))

    def both() -> None:
        place.deployments.remove("chat")
        place.deployments.bind(
            "chat", version=place.version(2), options=DeployOptions(context_tokens=256), engine="fake"
        )

    await asyncio.to_thread(both)
    assert (await place.seen()).revision == 1
    await until(lambda: place.serves("tiny@2"))


async def test_dead_replica_gets_no_request(place: Place) -> None:
    await place.bind(replicas=2)
    await until(lambda: len(place.routes._ready["chat"]) == 2 if "chat" in place.routes._ready else False)
    dead = place.engines[0]
    url = dead.address.url
    await dead.crash()
    await until(lambda: url not in {upstream.url for upstream in place.routes._ready["chat"]})
    assert place.routes.get("chat").state is State.READY
    await until(lambda: len(place.routes._ready["chat"]) == 2)


async def test_stop_does_not_wait_for_the_last_requests(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    place.routes.pick("chat").acquire()
    await asyncio.to_thread(place.deployments.remove, "chat")
    await until(lambda: not place.serves("tiny@1"))
    assert await place.engines[0].health() is Health.READY
    await asyncio.wait_for(place.controller.stop(), 25)
    assert await place.engines[0].health() is Health.FAILING


async def test_unknown_engine_is_told(place: Place) -> None:
    await place.bind(engine="abacus")

    async def told() -> bool:
        return "'abacus', which is unknown. Known engines are: fake, llamacpp." in (await place.seen()).last_error

    await until(told)


async def test_database_outage_does_not_stop_serving(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    asked = []

    def broken(**_: object) -> list[Deployment]:
        asked.append(1)
        raise Unavailable("The database does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(place.deployments, "deployments", broken)
        for _ in range(3):
            place.controller.poke()
            before = len(asked)
            await until(lambda before=before: len(asked) > before)
        assert place.serves("tiny@1")
    await place.bind(number=2)
    await until(lambda: place.serves("tiny@2"))


async def test_stop_ends_what_is_still_starting(place: Place) -> None:
    place.refuse_starts = "It burnt."
    await place.bind(name="a")
    await until(lambda: bool(place.engines))
    await asyncio.wait_for(place.controller.stop(), 30)
    assert place.routes.names() == ()


@pytest.mark.fault
async def test_killed_llamacpp_serves_again_by_itself(place: Place) -> None:
    await place.bind(engine="llamacpp")
    await until(lambda: place.serves("tiny@1"))

    async def pid() -> int | None:
        replicas = (await place.seen()).replicas
        return replicas[0].pid if replicas else None

    async def observed() -> bool:
        return await pid() is not None

    await until(observed)
    first = await pid()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: not place.serves("tiny@1"))
    await until(lambda: place.serves("tiny@1"))

    async def renewed() -> bool:
        return await pid() not in {None, first}

    await until(renewed)
    assert (await place.seen()).replicas[0].restarts == 1


async def test_log_folder_that_cannot_be_made_is_told(place: Place) -> None:
    (place.folder / "logs").write_text("in the way")
    await place.bind(engine="llamacpp")

    async def told() -> bool:
        return "logs" in (await place.seen()).last_error

    await until(told)


async def test_launch_follows_the_options(place: Place) -> None:
    await place.bind(context_tokens=512, parallel=3, threads=2)
    await until(lambda: place.serves("tiny@1"))
    launch = place.engines[0].launch
    assert (launch.context_tokens, launch.parallel, launch.threads) == (512, 3, 2)
    assert (launch.alias, launch.model_path) == ("chat", place.model)
    assert launch.log_path == place.folder / "logs" / "chat.1.0.log"


async def test_what_the_gate_bars_is_not_loaded(place: Place) -> None:
    place.barred["tiny@1"] = Forbidden("tiny@1 may not be served.", remedy="Release it.")
    await place.bind()

    async def told() -> bool:
        seen = await place.seen()
        return seen.state is State.UNRELEASED and seen.last_error == "tiny@1 may not be served. Release it."

    await until(told)
    with pytest.raises(Unavailable, match="no release in force"):
        place.routes.pick("chat")
    assert place.engines == []
    place.barred.clear()
    await until(lambda: place.serves("tiny@1"))

    async def forgotten() -> bool:
        return (await place.seen()).last_error == ""

    await until(forgotten)  # the table hears of it after the routes


async def test_the_launcher_asks_for_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the rounds of the controller be fooled, no weights are loaded all the same."""
    place.barred["tiny@1"] = Forbidden("tiny@1 may not be served.")
    monkeypatch.setattr(place.controller, "_permitted", lambda _binding: None)
    await place.bind()

    async def told() -> bool:
        return (await place.seen()).last_error == "tiny@1 may not be served."

    await until(told)
    assert place.engines == []


async def test_withdrawn_is_stopped_at_once(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    place.routes.pick("chat").acquire()
    place.barred["tiny@1"] = Forbidden("Its release is withdrawn.")
    await until(lambda: _is_down(place.engines[0]))
    with pytest.raises(Unavailable, match="no release in force"):
        place.routes.pick("chat")

    async def told() -> bool:
        return (await place.seen()).last_error == "Its release is withdrawn."

    await until(told)


async def test_a_withdrawal_is_heard_while_the_database_is_down(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))

    def broken(**_: object) -> list[Deployment]:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(place.deployments, "deployments", broken)
    place.barred["tiny@1"] = Forbidden("Its release is withdrawn.")
    await until(lambda: _is_down(place.engines[0]))


async def test_a_gate_that_does_not_answer_stops_nothing_and_starts_nothing(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    silent = Unavailable("The database does not answer.")
    place.barred |= {"tiny@1": silent, "tiny@2": silent}
    await place.bind(number=2)

    async def told() -> bool:
        return "does not answer" in (await place.seen()).last_error

    await until(told)
    assert place.serves("tiny@1")
    assert len(place.engines) == 1


async def test_an_unreleased_row_written_by_hand_reaches_nobody(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    place.barred["tiny@2"] = Forbidden("tiny@2 has no release.")
    await place.bind(number=2)

    async def told() -> bool:
        return (await place.seen()).last_error == "tiny@2 has no release."

    await until(told)
    assert place.serves("tiny@1"), "the released one goes on"
    assert len(place.engines) == 1


async def test_development_needs_no_release_and_is_for_one_key(place: Place) -> None:
    place.barred["tiny@1"] = Forbidden("tiny@1 may not be served.")
    await place.bind(owner="key_1")
    await until(lambda: [route.state for route in place.routes.names("key_1")] == [State.READY])
    assert place.routes.names("key_2") == ()


def _versions(place: Place, count: int = 200) -> set[str]:
    return {place.routes.pick("chat", request=str(number)).version for number in range(count)}


async def _begin(place: Place, **plan: Any) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    values = {"steps": (50, 100), "hold_s": 3600, "least": 5, **plan}
    await asyncio.to_thread(place.rollouts.start, "chat", version=place.version(2), plan=Plan(**values))
    place.controller.poke()
    if "mode" not in plan:
        await until(lambda: _versions(place) == {"tiny@1", "tiny@2"})


def _answer(place: Place, version: str, answered: Answered, *, count: int = 1) -> None:
    number = 0
    while count:
        number += 1
        upstream = place.routes.pick("chat", request=f"{version}{number}")
        if upstream.version == version:
            assert upstream.window is not None
            upstream.window.record(answered, duration_s=0.1, completion_tokens=1)
            count -= 1


async def _rollout(place: Place) -> Rollout:
    return await asyncio.to_thread(place.rollouts.get, "chat")


async def _ends_as(place: Place, state: RolloutState) -> Rollout:
    async def ended() -> bool:
        return (await _rollout(place)).state is state

    await until(ended)
    return await _rollout(place)


async def test_a_rollout_goes_its_steps_and_takes_over_without_a_new_engine(place: Place) -> None:
    await _begin(place, hold_s=0)
    _answer(place, "tiny@1", Answered.OK, count=20)
    _answer(place, "tiny@2", Answered.OK, count=5)

    async def second() -> bool:
        return (await _rollout(place)).step == 1

    await until(second)
    await until(lambda: _versions(place) == {"tiny@2"})
    _answer(place, "tiny@2", Answered.OK, count=5)
    await _ends_as(place, RolloutState.PROMOTED)
    await until(lambda: place.serves("tiny@2"))
    assert len(place.engines) == 2
    await until(lambda: _is_down(place.engines[0]))
    assert place.routes.pick("chat").window is None
    seen = await place.seen()
    assert (seen.version, seen.revision) == ("tiny@2", 2)


async def test_a_worse_candidate_is_rolled_back_by_itself(place: Place) -> None:
    await _begin(place, hold_s=0)
    _answer(place, "tiny@1", Answered.OK, count=60)
    _answer(place, "tiny@2", Answered.FAILED, count=20)
    ended = await _ends_as(place, RolloutState.ROLLED_BACK)
    assert "Fisher's exact test" in ended.reason
    assert [finding.measure for finding in ended.findings if finding.worse] == ["error rate"]
    await until(lambda: _versions(place) == {"tiny@1"})
    await until(lambda: _is_down(place.engines[1]))
    assert place.serves("tiny@1")


async def test_a_candidate_that_does_not_start_is_rolled_back(place: Place) -> None:
    place.broken.add(place.version(2).artifact.digest)
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    await asyncio.to_thread(place.rollouts.start, "chat", version=place.version(2), plan=Plan())
    assert "tiny@2 does not start: The file of" in (await _ends_as(place, RolloutState.ROLLED_BACK)).reason
    assert _versions(place) == {"tiny@1"}


async def test_a_candidate_whose_release_is_withdrawn_is_rolled_back(place: Place) -> None:
    await _begin(place)
    place.barred["tiny@2"] = Forbidden("The release of tiny@2 is withdrawn.")
    assert (await _ends_as(place, RolloutState.ROLLED_BACK)).reason == "The release of tiny@2 is withdrawn."
    assert _versions(place) == {"tiny@1"}
    await until(lambda: _is_down(place.engines[1]))


async def test_an_unreleased_candidate_is_never_started(place: Place) -> None:
    await place.bind()
    await until(lambda: place.serves("tiny@1"))
    place.barred["tiny@2"] = Forbidden("tiny@2 has no release.")
    await asyncio.to_thread(place.rollouts.start, "chat", version=place.version(2), plan=Plan())
    assert (await _ends_as(place, RolloutState.ROLLED_BACK)).reason == "tiny@2 has no release."
    assert len(place.engines) == 1


async def test_a_person_rolls_back_and_promotes(place: Place) -> None:
    await _begin(place)
    rollout = await _rollout(place)
    await asyncio.to_thread(place.rollouts.roll_back, rollout, "By hand.")
    await until(lambda: _versions(place) == {"tiny@1"})
    await _begin(place)
    rollout = await _rollout(place)
    await asyncio.to_thread(place.rollouts.promote, rollout, "By hand.")
    await until(lambda: _versions(place) == {"tiny@2"} and place.serves("tiny@2"))
    revision, _ = await asyncio.to_thread(place.deployments.previous, "chat")
    await asyncio.to_thread(place.deployments.restore, "chat", revision)
    await until(lambda: _versions(place) == {"tiny@1"} and place.serves("tiny@1"))


async def test_a_restart_goes_on_at_the_same_step(place: Place, sqlite_database: Database) -> None:
    await _begin(place, least=100)
    _answer(place, "tiny@2", Answered.OK, count=7)

    async def noted() -> bool:
        progress = (await _rollout(place)).progress
        return progress.candidate.requests == 7 and progress.elapsed_s > 0

    await until(noted)
    await place.controller.stop()
    before = await _rollout(place)
    again = Place(Deployments(sqlite_database), Rollouts(sqlite_database), place.model, place.folder)
    await again.controller.start()
    try:
        await until(lambda: again.serves("tiny@1") and _versions(again) == {"tiny@1", "tiny@2"})
        _answer(again, "tiny@2", Answered.OK)

        async def counted() -> bool:
            return (await _rollout(again)).progress.candidate.requests == 8

        await until(counted)
        assert (await _rollout(again)).progress.elapsed_s >= before.progress.elapsed_s
    finally:
        await again.controller.stop()


async def test_a_candidate_that_keeps_dying_is_rolled_back(place: Place) -> None:
    await _begin(place)

    async def kill() -> bool:
        newest = place.engines[-1]
        if await newest.health() is Health.READY:
            await newest.crash()
        return (await _rollout(place)).state is RolloutState.ROLLED_BACK

    await until(kill)
    assert "ended 3 times" in (await _rollout(place)).reason
    assert place.serves("tiny@1")


async def test_a_removed_deployment_takes_its_candidate_with_it(place: Place) -> None:
    await _begin(place)
    await asyncio.to_thread(place.deployments.remove, "chat")
    await until(lambda: place.routes.names() == ())
    for engine in place.engines:
        await until(lambda engine=engine: _is_down(engine))


async def test_a_shadow_is_measured_and_ends(place: Place) -> None:
    await _begin(place, mode=Mode.SHADOW, hold_s=0)
    await until(lambda: len(place.routes.shadow("chat")) == 1)
    assert _versions(place) == {"tiny@1"}
    [upstream] = place.routes.shadow("chat")
    assert upstream.window is not None
    for _ in range(5):
        upstream.window.record(Answered.OK, duration_s=0.1, completion_tokens=1)
    await _ends_as(place, RolloutState.DONE)
    await until(lambda: place.routes.shadow("chat") == ())
    await until(lambda: _is_down(place.engines[1]))


async def _is_down(engine: FakeEngine) -> bool:
    return await engine.health() is Health.FAILING
