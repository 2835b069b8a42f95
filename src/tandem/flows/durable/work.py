"""What a step of a flow works with: the house, the order, what earlier steps made, and stand-ins for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tandem.compute import Pace, System, open_system
from tandem.compute import prepare as prepare_in_child
from tandem.flows.durable.flow import Flow, Order
from tandem.flows.evaluate import Rooms as EvaluateRooms
from tandem.flows.evaluate import evaluate
from tandem.flows.train import Prepare
from tandem.flows.train import Rooms as TrainRooms
from tandem.kit.config import Settings
from tandem.serve import Deployments, Rollouts
from tandem.spec import Version


class Rooms(TrainRooms, EvaluateRooms, Protocol):
    """What the stories stand on: what training and evaluating do, and where versions are served."""

    @property
    def deployments(self) -> Deployments: ...
    @property
    def rollouts(self) -> Rollouts: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What the steps reach out with; tests give others."""

    prepare: Prepare = prepare_in_child
    system: Callable[[str, Settings], System] = open_system
    evaluate: Callable[..., Awaitable[object]] = evaluate
    pace: Pace | None = None
    look_s: float = 1.0
    """How often is looked whether what a flow waits for has come."""


REAL = Hands()


class Said(NamedTuple):
    """What a step does now, and whether somebody else has to do something first."""

    now: str
    waits: bool


@dataclass(slots=True, kw_only=True)
class Work:
    """What one step of one flow has, while it works."""

    house: Rooms
    hands: Hands
    flow: Flow
    order: Order
    facts: Mapping[str, Any]
    leaving: Callable[[], bool]
    """Whether the executor stops, which is no reason to stop what goes on without it."""
    turns: Mapping[str, asyncio.Lock]
    """By kind of work; see `turn`."""
    said: Said = field(default=Said("", False))

    def tell(self, now: str, *, waits: bool = False) -> None:
        """Say what is done now; it is recorded soon."""
        self.said = Said(now, waits)

    async def look_again(self) -> None:
        """Wait until it is time to look again."""
        await asyncio.sleep(self.hands.look_s)

    @contextlib.asynccontextmanager
    async def turn(self, kind: str) -> AsyncIterator[None]:
        """One thing of a kind at a time, since they would only take the machine from each other."""
        if self.turns[kind].locked():
            self.tell(f"waits for the {kind} of another flow")
        async with self.turns[kind]:
            yield

    async def version(self) -> Version:
        """The version that the flow is about: the one that it trained, or what its model meant at the first look.

        Raises:
            NotFound: there is none.
        """
        ref = str(self.facts.get("version") or self.order.model)
        return await asyncio.to_thread(self.house.registry.resolve, ref)
