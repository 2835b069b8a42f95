"""The register: numbers without gaps, one version for the same bytes, and files that are what they were."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.kit.blobs import Blobs
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from tandem.registry import Registry
from tandem.spec import Artifact, Task, Version


@pytest.fixture
def registry(database: Database, tmp_path: Path) -> Registry:
    return Registry(database, Blobs(f"file://{tmp_path / 'blobs'}"))


def add(registry: Registry, name: str = "coder", *, data: str = "0") -> Version:
    artifact = Artifact(digest=f"sha256:{data:0>64}", size=10, format="gguf")
    facts = {"parameters": 2**40, "fim": True, "name": None}
    return registry.add(name, task=Task.GENERATE, artifact=artifact, origin="file:x.gguf", facts=facts)


def stored(registry: Registry, folder: Path, data: bytes = b"weights") -> Version:
    path = folder / "model.gguf"
    path.write_bytes(data)
    digest, size = registry.blobs.put(path)
    artifact = Artifact(digest=digest, size=size, format="gguf")
    return registry.add("coder", task=Task.EMBED, artifact=artifact, origin="hf:a/b@1#m.gguf", facts={})


def test_versions_are_numbered_and_come_back_whole(registry: Registry) -> None:
    first, second, other = add(registry), add(registry, data="1"), add(registry, "chat")
    assert [version.ref for version in (first, second, other)] == ["coder@1", "coder@2", "chat@1"]
    assert registry.resolve("coder@1") == first
    assert registry.resolve("coder") == second
    assert registry.resolve("chat") == other


def test_the_same_bytes_keep_their_version(registry: Registry) -> None:
    first = add(registry)
    add(registry, data="1")
    assert add(registry) == first
    assert len(registry.versions()) == 2


def test_many_at_once_get_their_own_numbers(registry: Registry) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda number: add(registry, data=str(number % 4)), range(8)))
    assert sorted({version.number for version in versions}) == [1, 2, 3, 4]
    assert [version.number for version in registry.versions()] == [1, 2, 3, 4]


def test_pages_show_each_version_once(registry: Registry) -> None:
    for name in ("b", "a", "c"):
        for data in ("1", "2", "3"):
            add(registry, name, data=data)
    seen: list[str] = []
    while page := registry.versions(limit=2, after=seen[-1] if seen else None):
        assert len(page) <= 2
        seen += [version.ref for version in page]
    assert seen == [f"{name}@{number}" for name in "abc" for number in (1, 2, 3)]
    assert registry.versions(limit=1, after="b")[0].ref == "b@1"


@pytest.mark.parametrize("ref", ["codr", "coder@2", "coder@0", ""])
def test_what_is_not_there_is_said(registry: Registry, ref: str) -> None:
    add(registry)
    with pytest.raises(NotFound, match=repr(ref)) as caught:
        registry.resolve(ref)
    assert "tandem models pull" in caught.value.remedy
    assert ("Did you mean coder?" in caught.value.message) == (ref != "")


@pytest.mark.parametrize("ref", ["coder@", "coder@x", "coder@-1", "coder@1@2", "coder@²", "coder@99999999999"])
def test_a_number_that_is_none_is_refused(registry: Registry, ref: str) -> None:
    with pytest.raises(InvalidRequest, match="reference"):
        registry.resolve(ref)


@pytest.mark.parametrize("name", ["", "a@1", "a/b", "../x", "-x", ".x", "é", "a b", "x" * 65])
def test_names_are_plain(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        add(registry, name)
    assert registry.versions() == []


def test_an_origin_is_remembered(registry: Registry) -> None:
    version = add(registry)
    assert registry.pulled("coder", "file:x.gguf") == version
    assert registry.pulled("coder", "file:y.gguf") is None
    assert registry.pulled("chat", "file:x.gguf") is None


def test_the_file_is_read_once_while_it_is_untouched(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = stored(registry, tmp_path)
    checks: list[str] = []
    verify = registry.blobs.verify
    monkeypatch.setattr(registry.blobs, "verify", lambda digest: (checks.append(digest), verify(digest)))
    path = registry.path(version)
    assert path.read_bytes() == b"weights"
    assert registry.file(version.artifact.digest) == path
    assert checks == [version.artifact.digest]


@pytest.mark.parametrize("same_size", [True, False])
def test_a_damaged_file_is_noticed_and_the_pull_named(registry: Registry, tmp_path: Path, same_size: bool) -> None:
    version = stored(registry, tmp_path)
    registry.path(version).write_bytes(b"WEIGHTS" if same_size else b"")
    with pytest.raises(IntegrityError, match=r"coder@1 is damaged") as caught:
        registry.path(version)
    assert caught.value.remedy == "Pull it again: tandem models pull hf:a/b@1#m.gguf --name coder"
    assert stored(registry, tmp_path) == version
    assert registry.path(version).read_bytes() == b"weights"


def test_a_file_whose_times_were_set_back_is_read_again(registry: Registry, tmp_path: Path) -> None:
    version = stored(registry, tmp_path)
    path = registry.path(version)
    before = path.stat()
    with path.open("r+b") as file:  # the same inode, the same size
        file.write(b"WEIGHTS")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    with pytest.raises(IntegrityError, match=r"coder@1 is damaged"):
        registry.path(version)


def test_a_missing_file_is_noticed(registry: Registry, tmp_path: Path) -> None:
    version = stored(registry, tmp_path)
    registry.path(version)
    registry.blobs.delete(version.artifact.digest)
    with pytest.raises(IntegrityError, match="coder@1 is gone"):
        registry.path(version)
    with pytest.raises(IntegrityError, match="A model's file is gone"):
        registry.file("sha256:" + "0" * 64)


def numbered(registry: Registry, digit: str, name: str = "model") -> Version:
    artifact = Artifact(digest=f"sha256:{digit * 64}", size=1, format="gguf")
    return registry.add(name, task=Task.GENERATE, artifact=artifact, origin="file:x", facts={})


def test_a_removed_version_is_gone_and_its_number_stays_its_own(registry: Registry) -> None:
    first, second = numbered(registry, "1"), numbered(registry, "2")
    assert registry.remove("model") == second
    assert registry.versions() == [first]
    assert registry.resolve("model") == first
    assert registry.find("model", second.artifact.digest) is None
    assert registry.with_digest(second.artifact.digest) == []
    assert registry.from_origin("file:x") == [first]
    with pytest.raises(NotFound):
        registry.resolve("model@2")
    with pytest.raises(NotFound):
        registry.remove("model@2")
    assert registry.known("model@2") == second
    assert numbered(registry, "3").ref == "model@3", "old answers speak of model@2"


def test_the_same_bytes_bring_a_removed_version_back(registry: Registry) -> None:
    first = numbered(registry, "1")
    registry.remove("model@1")
    assert numbered(registry, "1") == first
    assert registry.resolve("model") == first


def test_versions_are_found_by_their_bytes_and_their_origin(registry: Registry) -> None:
    found = [numbered(registry, "1", "b"), numbered(registry, "1", "a")]
    numbered(registry, "2", "c")
    assert registry.with_digest(found[0].artifact.digest) == found[::-1]
    assert [version.name for version in registry.from_origin("file:x")] == ["a", "b", "c"]
    assert registry.from_origin("file:y") == []


def test_adapters_are_found_by_their_base_and_by_what_they_were_merged_to(registry: Registry) -> None:
    base, merged = numbered(registry, "1", "base"), numbered(registry, "3", "merged")
    artifact = Artifact(digest=f"sha256:{'2':0>64}", size=1, format="gguf", base=base.artifact.digest)
    more = {"task": Task.GENERATE, "origin": "run:1", "facts": {"merged": merged.artifact.digest}}
    adapter = registry.add("tuned", artifact=artifact, **more)
    assert registry.resolve("tuned") == adapter
    assert registry.on_base(base.artifact.digest) == [adapter]
    assert registry.with_weights(merged.artifact.digest) == [merged, adapter]
    assert registry.with_weights(adapter.artifact.digest) == [adapter]
    assert registry.with_weights(base.artifact.digest) == [base]
    assert [one.whole for one in (base, adapter)] == [base.artifact.digest, merged.artifact.digest]
    other = replace(artifact, base=merged.artifact.digest)
    with pytest.raises(Conflict, match="tuned@1 has the same bytes for another base"):
        registry.add("tuned", artifact=other, **more)
    registry.remove("tuned@1")
    assert registry.with_weights(merged.artifact.digest) == [merged]
    assert registry.with_weights(merged.artifact.digest, ever=True) == [merged, adapter]
    assert registry.on_base(base.artifact.digest) == []
