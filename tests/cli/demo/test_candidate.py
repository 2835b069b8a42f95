"""A version on its way through the demo: judged by the evidence that is there, signed by the keys that are there."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tandem.cli.demo import candidate
from tandem.cli.demo.candidate import is_released, judged
from tandem.cli.training.train import read_recipe, recipes_folder
from tandem.evals import find_suite
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict
from tandem.kit.signing import signed
from tandem.registry import ReleaseState, Signer, first_charter, sealed
from tandem.server import House
from tandem.spec import Evidence, Metric, Placement, Run, RunState, Version
from tests.compute.stand_ins import DIGEST
from tests.history import BEGAN, opened, trained


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path) -> Iterator[House]:
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def agreed(house: House, *, solo: bool = True) -> None:
    parties = {party: {party: house.members.make(party)} for party in ("lab", "platform")}
    text = first_charter("tests", parties, solo=solo)
    house.charters.propose(text, [house.members.key(party) for party in parties])


def measured(house: House, version: Version, *, gain: float) -> None:
    """Evidence by the present editions of the suites, so that nothing has to be measured."""
    for suite, metrics in (
        ("quality-code", ("edit_similarity", "edit_similarity_gain")),
        ("regression", ("failures",)),
    ):
        document = Evidence(
            version=version.ref,
            digest=version.artifact.digest,
            suite=suite,
            suite_digest=find_suite(suite, house.settings.home).digest,
            metrics=tuple(
                Metric(name=name, value=value, low=value, high=value, samples=9)
                for name in metrics
                for value in (gain if name != "failures" else 0.0,)
            ),
            answered=9,
            filtered=0,
            failed=0,
            transcripts=f"sha256:{'7' * 64}",
            engine="fake",
            hardware={},
            measured_at=BEGAN,
        )
        house.evidence.add(signed(sealed(document), house.members.key("lab")))


def test_the_gate_says_what_is_missing(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    agreed(house)
    version = trained(house)
    measured(house, version, gain=-0.1)
    outcome = judged(house, version, hidden=True)
    assert not outcome.released
    assert ["edit_similarity_gain" in reason for reason in outcome.reasons] == [True]
    said = capsys.readouterr().err
    assert f"{version.ref} was measured before" in said
    assert f"The gate refuses it: {version.ref}" in said
    assert "no   quality-code edit_similarity_gain (lower end) at least 0: -0.1 is under 0" in said
    assert "yes  regression failures at most 0: 0 is not over 0" in said
    assert house.releases.page() == []


def test_what_it_lets_through_is_signed_by_the_keys_that_are_here(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    agreed(house)
    version = trained(house)
    measured(house, version, gain=0.1)
    assert judged(house, version, hidden=True).released
    said = capsys.readouterr().err
    assert f"The gate lets it through: {version.ref}" in said
    assert "Signed by lab of lab and platform of platform; one person holds all keys" in said
    (release,) = house.releases.page()
    assert (release.state, release.release.requested_by) == (ReleaseState.IN_FORCE, "tandem demo")
    assert judged(house, version, hidden=True).released
    assert "is released already" in capsys.readouterr().err
    assert house.releases.page() == [release]


def test_what_somebody_withdrew_stays_so(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    agreed(house)
    version = trained(house)
    measured(house, version, gain=0.1)
    assert judged(house, version, hidden=True).released
    signer = Signer(name="lab", party="lab", key=house.members.key("lab"))
    house.releases.withdraw(house.releases.find(version.ref).digest, reason="It was a test.", signer=signer)
    outcome = judged(house, version, hidden=True)
    assert (outcome.released, outcome.reasons) == (False, ("lab withdrew it: It was a test.",))
    assert "is withdrawn, and the demo leaves it at that" in capsys.readouterr().err
    assert len(house.releases.page()) == 1


def test_a_run_that_was_left_unfinished_goes_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    version = trained(house)
    recipe = read_recipe(recipes_folder() / "code-fim-tiny.toml", ["name=coder", "budget.steps=20"])
    data = tuple(msgspec.structs.replace(one, sha256=DIGEST) for one in recipe.data)
    tokenizer = msgspec.structs.replace(recipe.tokenizer, sha256=DIGEST)
    left = house.runs.create(msgspec.structs.replace(recipe, data=data, tokenizer=tokenizer), Placement())
    told: list[str] = []

    async def resume(run_id: str, **_: object) -> Run:
        told.append(run_id)
        return Run(run_id=run_id, state=RunState.SUCCEEDED, version=version.ref, evaluation={"loss": 5.0})

    async def train(*_: object, **more: object) -> Run:
        return Run(state=RunState.PAUSED, reason="interrupt")

    monkeypatch.setattr(candidate, "resume", resume)
    monkeypatch.setattr(candidate, "train", train)
    assert candidate.trained(house, 20, hidden=True) == version
    assert told == [left.run_id]
    with pytest.raises(Conflict, match="paused: interrupt") as caught:
        candidate.trained(house, 21, hidden=True)
    assert "it goes on from there" in caught.value.remedy


def test_a_party_whose_key_is_elsewhere_is_waited_for(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    agreed(house, solo=False)
    version = trained(house)
    measured(house, version, gain=0.1)
    for path in (house.settings.home / "keys").glob("platform.*"):
        path.unlink()
    outcome = judged(house, version, hidden=True)
    assert (outcome.released, outcome.reasons) == (False, ("it lacks the signature of platform",))
    assert f"It waits for platform: `tandem release export {version.ref} FILE`" in capsys.readouterr().err
    assert not is_released(house, version)


def test_where_two_parties_keys_are_here_nobody_signs_for_both(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    agreed(house, solo=False)
    version = trained(house)
    measured(house, version, gain=0.1)
    assert not judged(house, version, hidden=True).released
    said = capsys.readouterr().err
    assert "Nobody signs it now: The keys of lab and platform are on this machine." in said
    assert house.releases.page()[0].state is ReleaseState.PENDING
