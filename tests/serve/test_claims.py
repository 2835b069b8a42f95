"""Claims: which bytes serving needs, now and for going back."""

from dataclasses import replace

import pytest

from tandem.kit.db import Database
from tandem.serve import Deployments, DeployOptions, Plan, Rollouts, Use, uses
from tandem.spec import Artifact, Task, Version


def version(number: int, name: str = "coder") -> Version:
    artifact = Artifact(digest=f"sha256:{str(number) * 64}", size=1, format="gguf")
    return Version(name=name, number=number, task=Task.GENERATE, artifact=artifact, origin="file:x")


def use(number: int, deployment: str = "code", *, current: bool) -> Use:
    return Use(deployment, f"coder@{number}", version(number).artifact.digest, current)


@pytest.fixture
def deployments(database: Database) -> Deployments:
    return Deployments(database)


def bind(deployments: Deployments, number: int, name: str = "code") -> None:
    deployments.bind(name, version=version(number), options=DeployOptions(), engine="fake")


def test_nothing_is_needed_at_first(database: Database) -> None:
    assert uses(database) == []


def test_what_serves_and_what_served_before(database: Database, deployments: Deployments) -> None:
    for number in (1, 2, 1, 3):
        bind(deployments, number)
    bind(deployments, 2, "other")
    assert uses(database) == [
        use(3, current=True),
        use(2, "other", current=True),
        use(1, current=False),
        use(2, current=False),
    ]
    deployments.remove("code")
    assert uses(database) == [use(2, "other", current=True)]


def test_both_sides_of_a_rollout_as_long_as_it_goes(database: Database, deployments: Deployments) -> None:
    bind(deployments, 1)
    rollouts = Rollouts(database)
    rollout = rollouts.start("code", version=version(2), plan=Plan())
    assert uses(database) == [use(1, current=True), use(2, current=True)]
    rollouts.roll_back(rollout, "a test")
    assert uses(database) == [use(1, current=True)]


def test_an_adapter_needs_its_base_too(database: Database, deployments: Deployments) -> None:
    base = version(9).artifact.digest
    adapters = [replace(one, artifact=replace(one.artifact, base=base)) for one in (version(1), version(2))]
    deployments.bind("code", version=adapters[0], options=DeployOptions(), engine="fake")
    rollouts = Rollouts(database)
    rollout = rollouts.start("code", version=adapters[1], plan=Plan())
    both = [replace(use(number, current=True), base=base) for number in (1, 2)]
    assert uses(database) == both
    rollouts.promote(rollout, "a test")
    assert deployments.get("code").base == base
    assert uses(database) == [both[1], replace(both[0], current=False)]
