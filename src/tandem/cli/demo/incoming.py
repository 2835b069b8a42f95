"""A canary with traffic: the demo asks the deployment again and again while a better version comes in beside."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from openai import AsyncOpenAI, OpenAIError

from tandem.cli.context import notes
from tandem.flows import start_rollout
from tandem.kit import clock
from tandem.kit.errors import NotFound
from tandem.serve import Plan, Rollout, RolloutState
from tandem.server import House

PREFIX, SUFFIX = "import os\n\ndef read(path):\n    with open(path) as file:\n        return ", "\n\nread('a')\n"
"""A program with a gap."""

# Three steps of three seconds and thirty requests: enough for the demo's eyes; `tandem rollout start` takes a minute
# and fifty.
PLAN = Plan(steps=(10, 50, 100), hold_s=3.0, least=30)
_CLIENTS = 4
_LOOK_S = 0.2
_LONGEST_S = 180.0


@dataclass(slots=True)
class Traffic:
    """What clients saw meanwhile."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)


async def let_in(
    house: House, name: str, *, ref: str, url: str, key: str, plan: Plan = PLAN
) -> tuple[Rollout, Traffic]:
    """Let a version in beside the one that the deployment serves, or go on with a rollout that is under way.

    Being cancelled takes the version back.

    Raises:
        Forbidden: it has no release in force.
    """
    rollout = await asyncio.to_thread(_begun, house, name, ref, plan)
    notes.print(
        f"{rollout.version} comes in beside {rollout.stable}; {_CLIENTS} clients ask for completions meanwhile."
    )
    async with _asking(name, url=url, key=key) as traffic:
        try:
            return await _followed(house, rollout), traffic
        except asyncio.CancelledError:
            with contextlib.suppress(NotFound):
                house.rollouts.roll_back(house.rollouts.of(rollout.id), "The demo was stopped.")
            raise


def _begun(house: House, name: str, ref: str, plan: Plan) -> Rollout:
    try:
        return house.rollouts.of(name)
    except NotFound:
        return start_rollout(house, name, ref=ref, plan=plan)


async def _followed(house: House, rollout: Rollout) -> Rollout:
    """Tell of each step until the rollout is over; one that takes too long is taken back."""
    share, deadline = 0.0, clock.monotonic_seconds() + _LONGEST_S
    while rollout.is_active:
        if rollout.share != share:
            share = rollout.share
            notes.print(f"  {share:4.0%} of the requests go to {rollout.version}")
        await asyncio.sleep(_LOOK_S)
        rollout = await asyncio.to_thread(house.rollouts.get, rollout.id)
        if rollout.is_active and clock.monotonic_seconds() > deadline:
            why = f"It took longer than {_LONGEST_S:.0f} s."
            rollout = await asyncio.to_thread(house.rollouts.roll_back, rollout, why)
    ended = "is what it serves now" if rollout.state is RolloutState.PROMOTED else "was taken back"
    notes.print(f"  {rollout.version} {ended}. {rollout.reason}")
    return rollout


@contextlib.asynccontextmanager
async def _asking(name: str, *, url: str, key: str) -> AsyncIterator[Traffic]:
    traffic = Traffic()
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        clients = [asyncio.create_task(_ask(client, name, traffic)) for _ in range(_CLIENTS)]
        try:
            yield traffic
        finally:
            for one in clients:
                one.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _ask(client: AsyncOpenAI, name: str, traffic: Traffic) -> None:
    while True:
        try:
            await client.completions.create(model=name, prompt=PREFIX, suffix=SUFFIX, temperature=0, max_tokens=8)
        except OpenAIError as error:
            traffic.failed.append(str(error))
            await asyncio.sleep(_LOOK_S)
        else:
            traffic.answered += 1
