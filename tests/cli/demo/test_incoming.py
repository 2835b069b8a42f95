"""A version that comes in while clients ask: to the end without a failed request, or taken back when stopped."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.cli.demo.incoming import let_in
from tandem.kit.config import Settings
from tandem.serve import DeployOptions, Plan, RolloutState
from tandem.server import House
from tests.serving import Served, pulled, released, running, tiny_model, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def served(settings: Settings, tmp_path: Path) -> Iterator[Served]:
    """`coder` bound to its first version; the second one is released too."""
    house = House.open(settings)
    for size in (512, 256):
        released(house, pulled(house, "coder", tiny_model(tmp_path, context_length=size, fim=True)))
    first = house.registry.resolve("coder@1")
    house.deployments.bind("coder", version=first, options=DeployOptions(), engine="fake")
    with running(house) as one:
        yield one


async def test_it_comes_to_all_and_no_request_fails(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(steps=(50, 100), hold_s=0.0, least=5)
    rollout, traffic = await let_in(served.house, "coder", ref="coder@2", url=served.url, key=served.key, plan=plan)
    assert rollout.state is RolloutState.PROMOTED
    assert traffic.answered >= 10
    assert traffic.failed == []
    assert served.house.deployments.get("coder").version == "coder@2"
    said = capsys.readouterr().err
    assert "coder@2 comes in beside coder@1" in said
    assert "50% of the requests go to coder@2" in said
    assert "coder@2 is what it serves now." in said


async def test_one_that_is_under_way_goes_on(served: Served) -> None:
    house = served.house
    version = house.registry.resolve("coder@2")
    begun = house.rollouts.start("coder", version=version, plan=Plan(steps=(50, 100), hold_s=0.0, least=5))
    rollout, _ = await let_in(house, "coder", ref="coder@2", url=served.url, key=served.key)
    assert (rollout.id, rollout.state) == (begun.id, RolloutState.PROMOTED)


async def test_stopped_it_is_taken_back(served: Served) -> None:
    plan = Plan(steps=(50, 100), hold_s=3600.0, least=5)
    work = asyncio.create_task(let_in(served.house, "coder", ref="coder@2", url=served.url, key=served.key, plan=plan))
    await asyncio.to_thread(wait_until, served.house.rollouts.active)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert served.house.rollouts.get("coder").state is RolloutState.ROLLED_BACK
    assert served.house.deployments.get("coder").version == "coder@1"
