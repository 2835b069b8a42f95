"""Hosts: versions of one base share an engine, and no request notices who comes, goes or is taken out."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tandem.formats import write_tiny_gguf
from tandem.kit.db import Database
from tandem.kit.errors import Forbidden, TandemError
from tandem.serve import (
    ENGINES,
    Binding,
    Capabilities,
    Controller,
    Deployment,
    Deployments,
    DeployOptions,
    Feature,
    Files,
    Launcher,
    Plan,
    Rollouts,
    Routes,
    State,
    Upstream,
)
from tandem.serve import supervisor as supervisor_module
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.port import Address, Engine, Health, Launch
from tandem.spec import Version
from tests.adapters import write_tiny_adapter
from tests.serve.launches import CHAT, DEADLINE_S, post, tiny_version, until

pytestmark = pytest.mark.anyio

BASE = 9


@dataclass
class Harbour:
    """A controller over engines that hold `tiny@9` and its adapters, whose files are called by their numbers."""

    deployments: Deployments
    rollouts: Rollouts
    folder: Path
    routes: Routes = field(default_factory=Routes)
    engines: list[FakeEngine] = field(default_factory=list)
    barred: dict[str, TandemError] = field(default_factory=dict)  # versions that the gate does not let out
    poison: str = ""  # the file of the adapter with which no engine starts
    features: frozenset[Feature] | None = None

    def __post_init__(self) -> None:
        self.base = write_tiny_gguf(self.folder / "base.gguf")
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
        engine = FakeEngine(launch, features=self.features)
        if self.poison in {path.name for path in launch.adapters}:
            engine.fails_to_start = "It choked."
        self.engines.append(engine)
        return engine

    def permitted(self, binding: Binding) -> None:
        if not binding.owner and binding.version in self.barred:
            raise self.barred[binding.version]

    def weights(self, binding: Binding) -> Files:
        self.permitted(binding)
        number = binding.version.partition("@")[2]
        return Files(self.base, self.folder / number if binding.base else None)

    def version(self, number: int) -> Version:
        version = tiny_version(self.base, number=number)
        if number == BASE:
            return version
        return replace(
            version, artifact=replace(version.artifact, base=tiny_version(self.base, number=BASE).artifact.digest)
        )

    async def bind(self, name: str, number: int, *, owner: str = "", engine: str = "fake", **options: Any) -> None:
        chosen = DeployOptions(**{"context_tokens": 256, "threads": 1, **options})
        version = self.version(number)
        await asyncio.to_thread(
            self.deployments.bind, name, version=version, options=chosen, engine=engine, owner=owner
        )
        self.controller.poke()

    def serves(self, name: str, number: int) -> bool:
        found = [route for route in self.routes.names("key_1") if route.name == name]
        return bool(found) and found[0].state is State.READY and found[0].version == f"tiny@{number}"

    async def ready(self, **numbers: int) -> None:
        """Bind names to versions, and wait until all of them answer."""
        for name, number in numbers.items():
            await self.bind(name, number)
        await until(lambda: all(self.serves(name, number) for name, number in numbers.items()))

    async def says(self, name: str) -> str:
        """Who answers for a name: the number of an adapter, or nothing."""
        upstream = self.routes.pick(name)
        address = Address(url=upstream.url, api_key=upstream.api_key)
        _, answer = await post(address, CHAT, messages=[{"role": "user", "content": "I am"}], **upstream.choice)
        return str(answer["choices"][0]["message"]["content"]).removeprefix("I am").strip()

    async def seen(self, name: str) -> Deployment:
        return await asyncio.to_thread(self.deployments.get, name)

    async def running(self) -> list[FakeEngine]:
        return [engine for engine in self.engines if await engine.health() is not Health.FAILING]


@pytest.fixture
async def harbour(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Harbour]:
    """A running controller without deployments."""
    harbour = Harbour(Deployments(sqlite_database), Rollouts(sqlite_database), tmp_path)
    await harbour.controller.start()
    yield harbour
    await harbour.controller.stop()
    assert await harbour.running() == []


async def _count(harbour: Harbour) -> int:
    return len(await harbour.running())


def _is(count: Callable[[], Awaitable[int]], wanted: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await count() == wanted

    return check


async def _alone(harbour: Harbour) -> FakeEngine:
    """The one engine that is left."""
    await until(_is(lambda: _count(harbour), 1))
    (engine,) = await harbour.running()
    return engine


async def test_versions_of_one_base_share_an_engine(harbour: Harbour) -> None:
    await harbour.ready(base=BASE, one=1, two=2, again=1)
    engine = await _alone(harbour)
    assert {path.name for path in engine.launch.adapters} == {"1", "2"}, "each adapter once"
    said = {name: await harbour.says(name) for name in ("base", "one", "two", "again")}
    assert said == {"base": "", "one": "1", "two": "2", "again": "1"}

    async def told() -> bool:
        return [one.sharing for one in (await harbour.seen("one")).replicas] == [4]

    await until(told)


async def test_what_was_bound_before_the_start_is_loaded_once(sqlite_database: Database, tmp_path: Path) -> None:
    harbour = Harbour(Deployments(sqlite_database), Rollouts(sqlite_database), tmp_path)
    numbers = {"base": BASE, "one": 1, "two": 2}
    for name, number in numbers.items():
        await harbour.bind(name, number)
    await harbour.controller.start()
    try:
        await until(lambda: all(harbour.serves(name, number) for name, number in numbers.items()))
        assert len(harbour.engines) == 1
        assert [await harbour.says(name) for name in numbers] == ["", "1", "2"]
    finally:
        await harbour.controller.stop()


async def test_who_comes_moves_the_others_once_it_is_ready(harbour: Harbour) -> None:
    await harbour.ready(base=BASE, one=1)
    before = await _alone(harbour)
    old = [harbour.routes.pick(name) for name in ("base", "one")]
    for upstream in old:
        upstream.acquire()
    await harbour.bind("two", 2)
    while not harbour.serves("two", 2):
        for name, number in (("base", ""), ("one", "1")):
            assert await harbour.says(name) == number
    after = harbour.engines[-1]
    assert {harbour.routes.pick(name).url for name in ("base", "one", "two")} == {after.address.url}
    assert [await harbour.says(name) for name in ("base", "one", "two")] == ["", "1", "2"]
    for upstream in old:
        assert await before.health() is Health.READY, "a running request keeps the old one alive"
        upstream.release()
    assert await _alone(harbour) is after
    assert {one.restarts for name in ("base", "one") for one in (await harbour.seen(name)).replicas} == {0}


async def test_who_leaves_moves_nobody_and_is_not_loaded_again(harbour: Harbour) -> None:
    await harbour.ready(one=1, two=2)
    engine = await _alone(harbour)
    upstream = harbour.routes.pick("one")
    await asyncio.to_thread(harbour.deployments.remove, "two")
    await until(lambda: not harbour.serves("two", 2))
    await harbour.controller._reconcile()
    assert harbour.routes.pick("one") is upstream
    await harbour.ready(three=3)
    assert await _alone(harbour) is not engine
    assert {path.name for path in harbour.engines[-1].launch.adapters} == {"1", "3"}
    for name in ("one", "three"):
        await asyncio.to_thread(harbour.deployments.remove, name)
    await until(_is(lambda: _count(harbour), 0))


async def test_a_withdrawn_version_stops_at_once_and_the_others_go_on(harbour: Harbour) -> None:
    await harbour.ready(base=BASE, one=1, two=2)
    engine = await _alone(harbour)
    going, stopped = harbour.routes.pick("one"), harbour.routes.pick("two")
    cut: list[str] = []
    with going.cuttable(lambda: cut.append("one")), stopped.cuttable(lambda: cut.append("two")):
        going.acquire()
        stopped.acquire()
        harbour.barred["tiny@2"] = Forbidden("tiny@2 was withdrawn.")
        await until(lambda: stopped.is_cut)
    assert cut == ["two"], "what it was saying is broken off"
    assert not harbour.serves("two", 2)
    assert [await harbour.says(name) for name in ("base", "one")] == ["", "1"]
    assert harbour.routes.pick("one") is going
    assert await _alone(harbour) is engine
    del harbour.barred["tiny@2"]
    await until(lambda: harbour.serves("two", 2))
    assert await harbour.says("two") == "2"


async def test_what_is_barred_is_not_even_loaded_with_the_others(harbour: Harbour) -> None:
    await harbour.ready(one=1)
    harbour.barred["tiny@2"] = Forbidden("tiny@2 has no release.")
    await harbour.bind("two", 2)
    await harbour.ready(three=3)
    assert {path.name for engine in harbour.engines for path in engine.launch.adapters} == {"1", "3"}


async def test_a_dead_engine_comes_back_for_all(harbour: Harbour) -> None:
    await harbour.ready(base=BASE, one=1, two=2)
    engine = await _alone(harbour)
    made = len(harbour.engines)
    await engine.crash()
    await until(lambda: not harbour.serves("one", 1))
    await until(lambda: all(harbour.serves(name, n) for name, n in (("base", BASE), ("one", 1), ("two", 2))))
    assert [await harbour.says(name) for name in ("base", "one", "two")] == ["", "1", "2"]
    assert len(harbour.engines) == made + 1, "one start for all of them"


async def test_a_sick_engine_is_replaced_for_all(harbour: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_POLL_READY_S", 0.01)
    await harbour.ready(one=1, two=2)
    engine = await _alone(harbour)
    engine.healthy = False
    await until(lambda: len(harbour.engines) > 1 and harbour.engines[-1] is not engine)
    await until(lambda: harbour.serves("one", 1) and harbour.serves("two", 2))
    assert await _alone(harbour) is not engine
    assert [await harbour.says(name) for name in ("one", "two")] == ["1", "2"]


@pytest.mark.parametrize("first", [True, False])
async def test_an_adapter_with_which_no_engine_starts_harms_nobody(
    sqlite_database: Database, tmp_path: Path, first: bool
) -> None:
    harbour = Harbour(Deployments(sqlite_database), Rollouts(sqlite_database), tmp_path, poison="2")
    if first:
        await harbour.bind("two", 2)
    await harbour.controller.start()
    try:
        await harbour.ready(base=BASE, one=1)
        await harbour.bind("two", 2)

        async def told() -> bool:
            return "It choked." in (await harbour.seen("two")).last_error

        await until(told)
        await harbour.ready(three=3)
        assert [await harbour.says(name) for name in ("base", "one", "three")] == ["", "1", "3"]
        assert not harbour.serves("two", 2)
        harbour.poison = ""
        await until(lambda: harbour.serves("two", 2))
        assert await harbour.says("two") == "2"
    finally:
        await harbour.controller.stop()


@pytest.mark.parametrize("change", [{"context_tokens": 128}, {"parallel": 2}, {"owner": "key_1"}])
async def test_what_differs_is_not_shared(harbour: Harbour, change: dict[str, Any]) -> None:
    await harbour.ready(one=1)
    await harbour.bind("two", 2, **change)
    await until(lambda: harbour.serves("two", 2))
    assert [[path.name for path in engine.launch.adapters] for engine in harbour.engines] == [["1"], ["2"]]
    assert await _count(harbour) == 2


async def test_two_names_of_a_whole_model_have_their_own_engines(harbour: Harbour) -> None:
    await harbour.ready(base=BASE)
    await harbour.ready(also=BASE)
    await until(_is(lambda: _count(harbour), 2))
    await harbour.ready(one=1)
    await until(_is(lambda: _count(harbour), 2))
    urls = {name: harbour.routes.pick(name).url for name in ("base", "also", "one")}
    assert urls["one"] == urls["base"] != urls["also"]
    assert [await harbour.says(name) for name in urls] == ["", "", "1"]


async def test_replicas_of_a_deployment_have_their_own_engines(harbour: Harbour) -> None:
    await harbour.bind("one", 1, replicas=2)
    await harbour.bind("two", 2, replicas=2)
    await until(lambda: all(len(harbour.routes._ready.get(name, ())) == 2 for name in ("one", "two")))
    await until(_is(lambda: _count(harbour), 2))


async def test_both_sides_of_a_canary_share(harbour: Harbour) -> None:
    await harbour.ready(chat=1)
    rollout = await asyncio.to_thread(
        harbour.rollouts.start, "chat", version=harbour.version(2), plan=Plan(steps=(50,), hold_s=3600, least=10**6)
    )
    found: set[tuple[str, str]] = set()

    def both() -> bool:
        for request in map(str, range(20)):
            upstream = harbour.routes.pick("chat", request=request)
            found.add((upstream.version, upstream.url))
        return {version for version, _ in found} == {"tiny@1", "tiny@2"}

    await until(both)
    engine = await _alone(harbour)
    upstreams: list[Upstream] = [harbour.routes.pick("chat", request=str(n)) for n in range(20)]
    assert {one.url for one in upstreams} == {engine.address.url}
    await asyncio.to_thread(harbour.rollouts.promote, rollout, "By hand.")
    await until(lambda: harbour.serves("chat", 2))
    assert await harbour.says("chat") == "2"
    assert await _alone(harbour) is engine


async def test_an_engine_without_adapters_says_so(harbour: Harbour) -> None:
    harbour.features = frozenset({Feature.CHAT, Feature.COMPLETIONS})
    await harbour.ready(base=BASE)
    await harbour.bind("one", 1)

    async def told() -> bool:
        return "tiny@1 is an adapter, and the engine 'fake' takes whole" in (await harbour.seen("one")).last_error

    await until(told)
    assert harbour.serves("base", BASE)
    assert isinstance(harbour.routes.get("base").capabilities, Capabilities)


async def _completion(upstream: Upstream) -> str:
    body = {"prompt": "one two three four five six", "max_tokens": 24, "temperature": 0, **upstream.choice}
    status, answer = await post(Address(url=upstream.url, api_key=upstream.api_key), "/v1/completions", **body)
    assert status == 200
    return str(answer["choices"][0]["text"])


def _children() -> set[int]:
    """The processes of llama.cpp that this one has started; other tests may have some, too."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "llamacpp_child" in (path.parent / "cmdline").read_text():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


async def _after(harbour: Harbour, others: set[int], **numbers: int) -> dict[str, str]:
    """What these say once they are served, by one process besides the others."""
    for name, number in numbers.items():
        await harbour.bind(name, number, engine="llamacpp", parallel=2)
        await until(lambda name=name, number=number: harbour.serves(name, number))
    await until(lambda: len(_children() - others) == 1)
    return {name: await _completion(harbour.routes.pick(name)) for name in numbers}


@pytest.mark.fault
async def test_one_process_of_llamacpp_holds_the_base_for_all(harbour: Harbour) -> None:
    pytest.importorskip("xllamacpp", reason="the CPU engine is not installed")
    others = _children()
    for number in (1, 2):
        write_tiny_adapter(harbour.folder / f"{number}.gguf", harbour.base, seed=number).rename(
            harbour.folder / str(number)
        )
    lone = await _after(harbour, others, base=BASE)
    said = await _after(harbour, others, base=BASE, one=1, two=2)
    assert said["base"] == lone["base"]
    assert len(set(said.values())) == 3

    async def shared() -> bool:
        replicas = [one for name in said for one in (await harbour.seen(name)).replicas]
        return {(one.pid, one.sharing) for one in replicas} == {(pid, 3) for pid in _children() - others}

    await until(shared)
    (pid,) = _children() - others
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not harbour.serves("one", 1))
    async with asyncio.timeout(DEADLINE_S):
        assert await _after(harbour, others, base=BASE, one=1, two=2) == said
    (again,) = _children() - others
    assert again != pid


@pytest.mark.fault
async def test_a_file_that_is_no_adapter_reaches_no_engine(harbour: Harbour) -> None:
    others = _children()
    (harbour.folder / "1").write_bytes(harbour.base.read_bytes())
    await harbour.bind("one", 1, engine="llamacpp")

    async def told() -> bool:
        return "is no LoRA adapter for" in (await harbour.seen("one")).last_error

    await until(told)
    assert (await harbour.seen("one")).state is State.FAILED
    assert _children() == others
