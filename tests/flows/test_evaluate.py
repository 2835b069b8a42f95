"""Evaluate: suites run through Inspect on a version behind a private endpoint, and become evidence or nothing."""

import asyncio
import errno
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from inspect_ai.log import read_eval_log_async

from tandem.evals import add_suite
from tandem.evals.cases import Gap, Question
from tandem.flows import Asking, Found, Means, Stand, Watcher, evaluate
from tandem.formats.tiny import write_tiny_gguf
from tandem.kit.config import Settings
from tandem.kit.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from tandem.kit.signing import public_text, signers
from tandem.registry import first_charter
from tandem.serve import Launch
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.fake_script import Script
from tandem.serve.engines.fake_wire import Dialect
from tandem.server import House
from tandem.spec import Artifact, Task, Version
from tests.adapters import add_adapter, write_tiny_adapter
from tests.history import chartered, opened, released

pytestmark = pytest.mark.anyio

SHIPPED = ("quality-chat", "quality-code", "safety-core", "performance", "regression")


class Filtering(FakeEngine):
    """A fake engine that ends answers as a content filter does where the prompt says BLOCKED."""

    async def _generate(
        self, request: web.Request, body: dict[str, object], script: Script, *, dialect: type[Dialect]
    ) -> web.StreamResponse:
        blocked = any("BLOCKED" in piece for piece in script.pieces)
        script = replace(script, finish="content_filter") if blocked else script
        return await super()._generate(request, body, script, dialect=dialect)


class Bench:
    """What versions are stood up with here; `fakes` are the engines that were made."""

    def __init__(self) -> None:
        self.fakes: list[FakeEngine] = []
        self.means = Means(stand=Stand(engine="fake"), engines={"fake": self._make})

    def _make(self, launch: Launch) -> FakeEngine:
        self.fakes.append(Filtering(launch))
        return self.fakes[-1]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path) -> Iterator[House]:
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def add_version(house: House, name: str = "coder", *, seed: int = 0) -> Version:
    """A version from a run that has both a chat template and tokens for gaps."""
    path = write_tiny_gguf(house.settings.home / "made.gguf", fim=True, seed=seed)
    stored = house.registry.blobs.put(path)
    path.unlink()
    return house.registry.add(
        name,
        task=Task.GENERATE,
        artifact=Artifact(digest=stored.digest, size=stored.size, format="gguf"),
        origin=f"run:{seed}",
        facts={"chat_template": True, "fim": True, "context_length": 512},
    )


def add_chat_suite(house: House) -> None:
    """The fake engine says the question again."""
    questions = [
        Question(id="right", prompt="yes", exact=("yes",)),
        Question(id="wrong", prompt="maybe", exact=("yes",)),
        Question(id="filtered", prompt="BLOCKED", exact=("yes",)),
        Question(id="failed", prompt="fake:fail yes", exact=("yes",)),
    ]
    add_suite(house.settings.home, "echo", kind="chat", about="Says it again.", cases=questions)


def add_code_suite(house: House) -> None:
    """The fake engine fills a gap with the line that it is in."""
    again = Gap(id="again", form="line", prefix="a = 1\nb = a\n" + "x" * 4000 + "\ng(", middle="g()", suffix="\nb()\n")
    failed = Gap(id="failed", form="span", prefix="a = 1\nfake:fail b", middle=" = 2", suffix="\n")
    add_suite(house.settings.home, "gaps", kind="code", about="Gaps.", cases=[again, failed])


def numbers(found: Found) -> dict[str, float]:
    return {metric.name: metric.value for metric in found.measured.metrics}


async def test_a_suite_becomes_evidence(house: House, bench: Bench, tmp_path: Path) -> None:
    chartered(house)
    version = add_version(house)
    add_chat_suite(house)
    stages: list[str] = []
    asking = Asking(suites=("echo",), transcripts=tmp_path / "logs")
    (found,) = await evaluate("coder", house, asking=asking, watcher=Watcher(stage=stages.append), means=bench.means)
    assert numbers(found) == {"accuracy": 0.5}
    filed = house.evidence.get(found.digest)
    assert filed.signed_by == found.signed_by == ("ada of lab",)
    assert signers(filed.envelope) == {public_text(house.members.key("ada"))}
    evidence = filed.evidence
    assert (evidence.version, evidence.digest) == (version.ref, version.artifact.digest)
    assert (evidence.suite, evidence.suite_digest) == ("echo", found.suite.digest)
    assert (evidence.answered, evidence.filtered, evidence.failed) == (2, 1, 1)
    assert evidence.engine == "fake"
    assert evidence.runner.startswith("inspect-ai ")
    assert evidence.hardware["cores"] > 0
    (copy,) = (tmp_path / "logs").iterdir()
    assert copy.read_bytes() == house.registry.blobs.local(evidence.transcripts).read_bytes()
    samples = (await read_eval_log_async(str(copy))).samples
    assert samples is not None
    assert {sample.id for sample in samples} == {"right", "wrong", "filtered", "failed"}
    assert stages == ["Standing coder@1 up"]


async def test_transcripts_that_cannot_be_copied_cost_no_evidence(
    house: House, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chartered(house)
    add_version(house)
    add_chat_suite(house)

    def full(*_paths: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(OSError, match="No space left"):
        await evaluate("coder", house, asking=Asking(suites=("echo",), transcripts=tmp_path), means=bench.means)
    assert [one.evidence.suite for one in house.evidence.page()] == ["echo"]


async def test_evidence_on_an_adapter_names_its_base(house: House, bench: Bench, tmp_path: Path) -> None:
    chartered(house)
    base = add_version(house)
    path = write_tiny_adapter(tmp_path / "adapter.gguf", house.registry.path(base), seed=1)
    tuned = add_adapter(house.registry, path, base, name="tuned")
    add_chat_suite(house)
    (found,) = await evaluate("tuned", house, asking=Asking(suites=("echo",)), means=bench.means)
    evidence = house.evidence.get(found.digest).evidence
    assert (evidence.digest, evidence.base) == (tuned.artifact.digest, base.artifact.digest)
    assert [len(engine.launch.adapters) for engine in bench.fakes] == [1]


async def test_each_shipped_suite_runs_and_a_part_of_one_is_no_evidence(house: House, bench: Bench) -> None:
    chartered(house)
    add_version(house)
    found = await evaluate("coder", house, asking=Asking(suites=SHIPPED, limit=3), means=bench.means)
    by_name = {one.suite.name: one for one in found}
    assert list(by_name) == list(SHIPPED)
    for name in SHIPPED[:-1]:
        assert by_name[name].evidence is None
        assert by_name[name].digest == ""
        assert by_name[name].measured.answered == 3
    assert numbers(by_name["quality-chat"]).keys() == {"accuracy"}
    assert numbers(by_name["quality-code"]).keys() >= {"exact_match", "parse_rate", "edit_similarity_gain"}
    assert numbers(by_name["safety-core"]).keys() == {"refusal_rate", "over_refusal_rate"}
    assert numbers(by_name["performance"])["tokens_per_s"] > 0
    assert numbers(by_name["regression"]) == {"failures": 0.0}
    assert [one.evidence.suite for one in house.evidence.page()] == ["regression"], "the one that was asked whole"


async def test_the_charters_class_says_what_is_asked_and_the_release_is_asked_too(house: House, bench: Bench) -> None:
    chartered(house)
    released(house, add_version(house, seed=1))
    version = add_version(house, seed=2)
    add_code_suite(house)
    by_class = await evaluate(version.ref, house, asking=Asking(limit=2), means=bench.means)
    assert [one.suite.name for one in by_class] == ["quality-code", "regression"]
    assert numbers(by_class[0])["exact_match_vs_release"] == 0.0
    assert [fake.launch.alias for fake in bench.fakes] == ["candidate", "release"]
    (found,) = await evaluate(version.ref, house, asking=Asking(suites=("gaps",)), means=bench.means)
    assert found.evidence is not None
    assert found.evidence.baseline == "the most similar earlier line"
    assert (found.evidence.answered, found.evidence.failed) == (1, 1)
    assert numbers(found)["edit_similarity_vs_release"] == 0.0


async def test_the_release_itself_is_not_compared_with_itself(house: House, bench: Bench) -> None:
    chartered(house)
    version = add_version(house)
    released(house, version)
    (found, _) = await evaluate(version.ref, house, asking=Asking(limit=1), means=bench.means)
    assert [fake.launch.alias for fake in bench.fakes] == ["candidate"]
    assert "exact_match_vs_release" not in numbers(found)


async def test_being_cancelled_files_nothing_and_stops_everything(house: House, bench: Bench) -> None:
    chartered(house)
    add_version(house)
    question = Question(id="q", prompt="fake:hang", exact=("x",))
    add_suite(house.settings.home, "slow", kind="chat", about="Never ends.", cases=[question])
    running = asyncio.create_task(evaluate("coder", house, asking=Asking(suites=("slow",)), means=bench.means))
    async with asyncio.timeout(60):
        while not (bench.fakes and bench.fakes[0].active):
            await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert house.evidence.page() == []
    assert bench.fakes[0].active == 0
    with pytest.raises(Unavailable, match="not running"):
        _ = bench.fakes[0].address


async def test_who_may_not_sign_does_not_wait(house: House, bench: Bench) -> None:
    with pytest.raises(NotFound, match="no charter"):
        await evaluate(add_version(house).ref, house, asking=Asking(suites=("performance",)), means=bench.means)
    public = house.members.make("ada")
    text = first_charter("home", {"lab": {"ada": public}}, solo=True)
    house.charters.propose(
        text.replace(f'key = "{public}"', f'key = "{public}"\nrights = ["sign", "amend"]'), [house.members.key("ada")]
    )
    asking = Asking(suites=("performance",), member="ada")
    with pytest.raises(Forbidden, match="may not evaluate"):
        await evaluate("coder", house, asking=asking, means=bench.means)
    assert not bench.fakes


async def test_a_look_needs_no_charter(house: House, bench: Bench) -> None:
    add_version(house)
    asking = Asking(suites=("performance",), limit=1)
    (found,) = await evaluate("coder", house, asking=asking, means=bench.means)
    assert found.measured.answered == 1


async def test_a_charter_that_asks_for_nothing(house: House, bench: Bench) -> None:
    chartered(house)
    version = add_version(house)
    other = house.registry.add(
        "pulled", task=version.task, artifact=version.artifact, origin="file:x.gguf", facts=version.facts
    )
    with pytest.raises(InvalidRequest, match="asks for no evidence on pulled@1"):
        await evaluate(other.ref, house, means=bench.means)
