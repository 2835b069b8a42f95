"""Trained models: a LoRA run is an adapter on its parent where that gives what was trained, otherwise merged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem.flows.train import parent_of
from tandem.formats import facts, read_header, write_tiny_gguf
from tandem.kit.config import Settings
from tandem.kit.errors import IntegrityError, InvalidRequest
from tandem.registry import describe
from tandem.server import House
from tandem.spec import Artifact, Version
from tests.adapters import write_tiny_adapter
from tests.history import adapted, export_adapted, opened, registered, trained
from tests.run_folders import recipe, write_run


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path) -> Iterator[House]:
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def begun(house: House, parent: Version, run_id: str = "run_0002") -> Path:
    """The export folder of a LoRA run that is not registered yet."""
    model = {"parent": parent.ref, "parent_sha256": parent.artifact.digest}
    folder = write_run(house.settings.home, run_id, name="tuned", model=model, adapter={})
    export_adapted(folder, house.registry.file(parent.artifact.digest))
    return folder.export


def merged(house: House, export: Path) -> bool:
    """Whether the version is the merged model, whole."""
    artifact = registered(house, "run_0002").artifact
    digest = house.registry.blobs.put(export / "model.gguf").digest
    assert artifact.base == "" or artifact.digest != digest
    return artifact.digest == digest


def test_an_adapter_goes_with_its_parent(house: House) -> None:
    parent = trained(house)
    version = adapted(house, parent)
    export = house.runs.folder("run_0002").export
    adapter = export / "adapter.gguf"
    assert version.artifact == Artifact(
        digest=house.registry.blobs.put(adapter).digest,
        size=adapter.stat().st_size,
        format="gguf",
        base=parent.artifact.digest,
    )
    assert house.registry.path(version).read_bytes() == adapter.read_bytes()
    of_merged = facts(read_header(export / "model.gguf"))
    assert {key: version.facts[key] for key in of_merged} == of_merged
    assert version.facts["merged"] == house.registry.blobs.put(export / "model.gguf").digest
    assert version.facts["parent"] == parent.artifact.digest
    assert registered(house, "run_0002") == version
    assert house.registry.versions() == [parent, version]


def test_what_is_trained_from_an_adapter_begins_from_the_merged_model(house: House) -> None:
    version = adapted(house, trained(house))
    loose = recipe(model={"parent": "tuned"})
    path, digest = parent_of(loose, house.registry) or (Path(), "")
    assert digest == version.whole == version.facts["merged"]
    assert path.read_bytes() == (house.runs.folder("run_0002").export / "model.gguf").read_bytes()
    further = adapted(house, version, "run_0003", seed=2, name="further")
    assert (further.artifact.base, further.facts["parent"]) == (digest, digest)
    assert house.registry.path(further).is_file()
    card = describe(further, registry=house.registry, runs=house.runs, datasets=house.datasets).markdown()
    assert "tuned@1" in card
    assert "served on its base" in card


def test_an_adapter_that_nobody_merged_is_no_parent(house: House) -> None:
    version = adapted(house, trained(house))
    stored = house.registry.blobs.put(house.runs.folder("run_0002").export / "model.gguf")
    artifact = Artifact(digest=stored.digest, size=stored.size, format="gguf", base=version.artifact.base)
    house.registry.add("bare", task=version.task, artifact=artifact, origin="file:x", facts={})
    with pytest.raises(InvalidRequest, match="bare@1 is an adapter alone"):
        parent_of(recipe(model={"parent": "bare"}), house.registry)


@pytest.mark.parametrize("differs", [{"chat": False}, {"fim": True}, {"context_length": 256}])
def test_what_is_asked_in_another_way_than_its_parent_is_merged(house: House, differs: dict[str, Any]) -> None:
    export = begun(house, trained(house))
    write_tiny_gguf(export / "model.gguf", **{"context_length": 512, "seed": 1, **differs})
    assert merged(house, export)


def test_without_its_parent_it_is_merged(house: House) -> None:
    parent = trained(house)
    export = begun(house, parent)
    house.registry.blobs.delete(parent.artifact.digest)
    assert merged(house, export)


def test_what_an_older_program_merged_stays_so(house: House) -> None:
    parent = trained(house)
    export = begun(house, parent)
    stored = house.registry.blobs.put(export / "model.gguf")
    artifact = Artifact(digest=stored.digest, size=stored.size, format="gguf")
    before = house.registry.add("tuned", task=parent.task, artifact=artifact, origin="run:run_0002", facts={})
    assert merged(house, export)
    assert registered(house, "run_0002") == before


def test_an_adapter_of_something_else_is_no_version(house: House, tmp_path: Path) -> None:
    parent = trained(house)
    export = begun(house, parent)
    other = write_tiny_gguf(tmp_path / "other.gguf", fim=True)
    wrong = write_tiny_adapter(tmp_path / "wrong.gguf", other, seed=1)
    data = wrong.read_bytes().replace(b"blk.1", b"blk.7")
    (export / "adapter.gguf").write_bytes(data)
    with pytest.raises(IntegrityError, match="is half of nothing in it"):
        registered(house, "run_0002")
    assert house.registry.versions() == [parent]
