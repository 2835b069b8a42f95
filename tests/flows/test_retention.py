"""Retention across rooms: whoever refers to bytes is asked, and a version goes only when nobody does."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.flows import remove_version, retention
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, NotFound
from tandem.server import House
from tests.history import adapted, chartered, deployed, measured, opened, released, trained


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path) -> Iterator[House]:
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def collected(house: House) -> set[str]:
    """What a collection of everything that is old takes, after all blobs have become so."""
    for held in house.registry.blobs.digests():
        os.utime(house.registry.blobs.local(held.digest), (1, 1))
    gone = retention(house).collect(older_than_s=3600, dry_run=False, progress=lambda *_: None)
    return {one.name for one in gone if one.kind == "blob"}


def test_what_any_room_refers_to_stays(house: House) -> None:
    version, other = trained(house), trained(house, "run_0002", size=256, seed=1)
    release = released(house, version)
    transcripts = {house.evidence.get(digest).evidence.transcripts for digest in release.release.evidence}
    assert len(transcripts) == 2
    house.registry.blobs.put(house.settings.home / "tandem.db")
    needless = {held.digest for held in house.registry.blobs.digests()} - transcripts
    needless -= {version.artifact.digest, other.artifact.digest}
    assert len(needless) == 1
    assert collected(house) == needless
    verified = retention(house).verify(lambda *_: None)
    assert (verified.faults, verified.elsewhere) == ((), 0)


def test_a_removed_version_frees_its_bytes(house: House) -> None:
    version = trained(house)
    assert remove_version("coder@1", house=house) == version
    with pytest.raises(NotFound):
        remove_version("coder@1", house=house)
    assert collected(house) == {version.artifact.digest}


def test_the_bytes_of_a_binding_to_go_back_to_stay(house: House) -> None:
    first, second = trained(house), trained(house, "run_0002", size=256, seed=1)
    deployed(house, first)
    deployed(house, second)
    remove_version(first.ref, house=house)
    assert collected(house) == set()
    house.deployments.remove("code")
    assert collected(house) == {first.artifact.digest}


def test_a_deployment_whose_bytes_are_gone_is_a_fault(house: House) -> None:
    version = trained(house)
    deployed(house, version)
    house.registry.blobs.delete(version.artifact.digest)
    (fault,) = retention(house).verify(lambda *_: None).faults
    assert (fault.what, fault.state) == (version.artifact.digest, "missing")
    assert fault.owners == ("version coder@1", "deployment code with coder@1")


def test_who_refers_to_a_version_keeps_it(house: House) -> None:
    version = trained(house)
    release = released(house, version)
    deployed(house, version)
    model = {"parent": "coder@1", "parent_sha256": version.artifact.digest}
    trained(house, "run_0002", size=256, name="tuned", model=model)
    with pytest.raises(Conflict) as caught:
        remove_version("coder", house=house)
    for owner in ("deployment code has it", f"release {release.digest[:19]} is in force", "run run_0002 began from it"):
        assert owner in caught.value.message
    house.deployments.remove("code")
    (signer,) = house.members.signers(house.charters.current().charter, "sign")
    house.releases.withdraw(release.digest, reason="a test", signer=signer)
    with pytest.raises(Conflict, match=r"removed: the run run_0002 began from it\."):
        remove_version("coder", house=house)
    assert remove_version("tuned", house=house).ref == "tuned@1"


def test_a_parent_whose_bytes_have_another_name_may_go(house: House) -> None:
    version = trained(house)
    model = {"parent": "coder@1", "parent_sha256": version.artifact.digest}
    trained(house, "run_0002", size=256, name="tuned", model=model)
    house.registry.add("copy", task=version.task, artifact=version.artifact, origin="file:x", facts={})
    assert remove_version("coder", house=house) == version
    assert collected(house) == set()


def test_evidence_alone_does_not_keep_a_version_but_its_bytes(house: House) -> None:
    version = trained(house)
    chartered(house)
    measured(house, version, edit_similarity=0.5)
    remove_version("coder@1", house=house)
    assert collected(house) == set()


def test_an_adapter_needs_its_base(house: House) -> None:
    base = trained(house)
    tuned = adapted(house, base)
    with pytest.raises(Conflict, match=r"removed: .*tuned@1 is an adapter of it"):
        remove_version("coder", house=house)
    deployed(house, tuned)
    house.registry.remove("coder")
    assert collected(house) == set()
    house.registry.blobs.delete(base.artifact.digest)
    (fault,) = retention(house).verify(lambda *_: None).faults
    assert (fault.what, fault.state) == (base.artifact.digest, "missing")
    assert {"version tuned@1, whose base it is", "deployment code with tuned@1"} <= set(fault.owners)


def test_what_a_release_let_out_with_a_base_keeps_both(house: House) -> None:
    tuned = adapted(house, trained(house), name="coder")
    released(house, tuned)
    for ref in ("coder@2", "coder@1"):
        house.registry.remove(ref)
    shutil.rmtree(house.settings.home / "runs")
    house.runs.reindex()
    assert collected(house) == {tuned.whole}, "nobody is to be trained from it any more"


def test_what_was_trained_from_an_adapter_needs_it(house: House) -> None:
    tuned = adapted(house, trained(house))
    adapted(house, tuned, "run_0003", seed=2, name="further")
    assert collected(house) == set()
    with pytest.raises(Conflict, match="the run run_0003 began from it"):
        remove_version("tuned", house=house)
    assert remove_version("further", house=house).ref == "further@1"
