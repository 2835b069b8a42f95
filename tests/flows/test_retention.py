"""Retention across rooms: whoever refers to bytes is asked, and a version goes only when nobody does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.flows import remove_version, retention
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, NotFound
from tandem.server import House
from tests.history import chartered, deployed, measured, opened, released, trained


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
