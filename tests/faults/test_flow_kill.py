"""A flow whose process is killed at each boundary of its steps goes on at the right one, and acts once."""

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.flows import Flow, FlowState, StepState
from tandem.kit import clock
from tandem.serve import DeployOptions, RolloutState
from tandem.server import House
from tests.flows.stand_ins import KILLED, noted, opened, ordered, sign
from tests.serving import DEADLINE_S, pulled, tiny_model

pytestmark = pytest.mark.fault

REPOSITORY = Path(__file__).parent.parent.parent
STEPS = ["prepare", "train", "evaluate", "request", "signatures", "deploy", "rollout"]
AMID = {"train": ["amid:train"], "evaluate": ["amid:evaluate"]}
"""Steps that have several effects are killed between those, too."""
POINTS = [point for step in [*STEPS, "end"] for point in (*AMID.get(step, ()), f"before:{step}", f"after:{step}")]
SIGKILL = -9


@pytest.fixture
def house(home: Path, migrated_sqlite: Path, tmp_path: Path) -> Iterator[House]:
    """A house that serves a released version under the name that the flow will take over."""
    house = opened(home, migrated_sqlite)
    base = pulled(house, "base", tiny_model(tmp_path, "base"))
    asked = house.releases.request(base.ref, by="ada")
    house.releases.sign(asked.digest, [house.members.key("ada")])
    house.deployments.bind("code", version=base, options=DeployOptions(), engine="fake")
    yield house
    house.flows.close()
    house.db.close()


@pytest.mark.timeout(300)
def test_a_kill_at_each_boundary_changes_nothing(house: House) -> None:
    flow = house.flows.start("ship", ordered(), by="ada")
    ends = []
    while not ends or ends[-1] == SIGKILL:
        ends.append(lived(house, flow.id, POINTS))
    assert ends == [SIGKILL] * len(POINTS) + [0]
    assert noted(house, KILLED) == POINTS, "each once, in the order of the story"
    check_effects(house, house.flows.get(flow.id))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", POINTS)
def test_one_kill_changes_nothing(house: House, point: str) -> None:
    flow = house.flows.start("ship", ordered(), by="ada")
    assert [lived(house, flow.id, [point]), lived(house, flow.id, [point])] == [SIGKILL, 0]
    check_effects(house, house.flows.get(flow.id))


def lived(house: House, flow: str, points: list[str]) -> int:
    """Go on with the flow in a process of its own, do what it waits for, and say how the process ended."""
    command = [sys.executable, "-m", "tests.flows.stand_ins", str(house.settings.home), flow, *points]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = clock.monotonic_seconds() + DEADLINE_S
            while process.poll() is None:
                assert clock.monotonic_seconds() < deadline, house.flows.get(flow)
                help_on(house, house.flows.get(flow))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
        finally:
            process.kill()
    return process.returncode


def help_on(house: House, flow: Flow) -> None:
    """What people do: sign what waits for a signature, and promote the candidate."""
    if flow.state is FlowState.WAITING and flow.step == "signatures" and "release" in flow.facts:
        if house.releases.get(flow.facts["release"]).missing:
            sign(house, flow)
    elif flow.state is FlowState.WAITING and flow.step == "rollout" and "rollout" in flow.facts:
        rollout = house.rollouts.get(flow.facts["rollout"])
        if rollout.is_active:
            house.rollouts.promote(rollout, "It does well.")


def check_effects(house: House, flow: Flow) -> None:
    assert (flow.state, flow.tries) == (FlowState.SUCCEEDED, 1)
    assert [(step.name, step.state) for step in flow.steps] == [(name, StepState.DONE) for name in STEPS]
    runs = house.runs.newest()
    assert [(run.run_id, run.version) for run in runs] == [(flow.facts["run"], "coder@1")]
    versions = [version.ref for version in house.registry.versions()]
    assert sorted(versions) == ["base@1", "coder@1"]
    evidence = house.evidence.page(version="coder@1")
    assert Counter(one.evidence.suite for one in evidence) == {"quality-code": 1, "regression": 1}
    assert {one.evidence.suite: one.digest for one in evidence} == flow.facts["evidence"]
    assert Counter(line for line in noted(house) if line != "prepared") == {
        "measured quality-code": 1,
        "measured regression": 1,
    }
    releases = [one for one in house.releases.page() if one.release.version == "coder@1"]
    assert [one.digest for one in releases] == [flow.facts["release"]]
    rollouts = house.rollouts.rollouts("code")
    assert [(one.id, one.state) for one in rollouts] == [(flow.facts["rollout"], RolloutState.PROMOTED)]
    deployment = house.deployments.get("code")
    assert (deployment.version, deployment.revision) == ("coder@1", 2)
    assert runs[0].attempt == 1, "its workers were adopted, or had ended"
