"""Cancelling a flow, and with it cleanly what it has started."""

import contextlib
from typing import Protocol

import msgspec

from tandem.compute import Wish, make_wish
from tandem.flows.durable.book import Flows
from tandem.flows.durable.flow import Flow, Order, made_at, run_id
from tandem.kit.errors import Conflict, NotFound
from tandem.registry import Registry, Runs
from tandem.serve import Rollouts
from tandem.spec import Run, RunState


class Rooms(Protocol):
    """What the story stands on."""

    @property
    def registry(self) -> Registry: ...
    @property
    def runs(self) -> Runs: ...
    @property
    def rollouts(self) -> Rollouts: ...
    @property
    def flows(self) -> Flows: ...


def cancel_flow(house: Rooms, flow: str) -> Flow:
    """End a flow: its run is paused, saved, by whoever supervises it, and its rollout goes back. Quick.

    A release that it has requested stays: whether that is refused is the signers' to say.

    Raises:
        NotFound: there is no such flow.
        Conflict: it is over.
    """
    cancelled = house.flows.cancel(flow)
    for run in runs_under_way(house, cancelled):
        make_wish(house.runs.folder(run.run_id), Wish.PAUSE)
    _roll_back(house, cancelled)
    return cancelled


def runs_under_way(house: Rooms, flow: Flow) -> list[Run]:
    """The runs that a flow began, and that go on."""
    ids = [run_id(flow.id, attempt) for attempt in range(1, flow.tries + 1)]
    found = [house.runs.read(own) for own in ids if house.runs.folder(own).events.exists()]
    return [run for run in found if not run.state.over and run.state is not RunState.PAUSED]


def _roll_back(house: Rooms, flow: Flow) -> None:
    order = msgspec.convert(flow.order, Order)
    if order.plan is None:
        return
    with contextlib.suppress(NotFound, Conflict):  # there is none, or it has just ended
        rollout = house.rollouts.of(order.name)
        version = house.registry.resolve(str(flow.facts.get("version") or order.model))
        if rollout.version == version.ref and made_at(rollout.id) >= flow.since:
            house.rollouts.roll_back(rollout, f"Flow {flow.id} was cancelled.")
