"""The demo's charter: made once, met by a tiny model, and never in the way of one that is there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.cli.demo.rules import CODER, agree
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict
from tandem.registry import first_charter
from tandem.server import House
from tandem.spec import Artifact, Task, Version
from tests.history import chartered, opened


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path) -> Iterator[House]:
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def version(name: str, origin: str) -> Version:
    artifact = Artifact(digest=f"sha256:{'a' * 64}", size=1, format="gguf")
    return Version(name=name, number=1, task=Task.GENERATE, artifact=artifact, origin=origin)


def test_a_home_without_a_charter_gets_a_solo_one(house: House) -> None:
    charter = agree(house).charter
    assert (charter.mode, charter.needs) == ("solo", {"lab", "platform"})
    classes = {
        name: charter.class_of(version(name, origin))
        for name, origin in ((CODER, "run:1"), ("code-fim-small", "run:2"), ("starter", "pypi:x"))
    }
    assert {name: one and one.name for name, one in classes.items()} == {
        CODER: "tiny-code",
        "code-fim-small": "code",
        "starter": "imported",
    }


def test_a_second_time_nothing_changes(house: House) -> None:
    first = agree(house)
    assert agree(house).digest == first.digest
    assert house.members.names() == ["lab", "platform"]


def test_a_charter_that_is_there_holds(house: House) -> None:
    chartered(house)
    assert agree(house).charter.name == "home"
    assert house.members.names() == ["ada"]


def test_one_that_waits_for_signatures_is_nobody_elses_to_pass_over(house: House) -> None:
    parties = {"lab": {"ada": house.members.make("ada")}, "platform": {"bob": house.members.make("bob")}}
    house.charters.propose(first_charter("ours", parties, solo=False), [house.members.key("ada")])
    with pytest.raises(Conflict, match="waits for signatures") as caught:
        agree(house)
    assert "tandem charter sign" in caught.value.remedy
    assert house.members.names() == ["ada", "bob"]
