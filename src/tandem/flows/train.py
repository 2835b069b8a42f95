"""Train: a recipe becomes a version of the registry, by a run that survives whatever happens to it meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tandem.compute import (
    Lease,
    Pace,
    Supervisor,
    System,
    Wish,
    forget_wish,
    held,
    make_wish,
    on_interrupt,
    open_system,
    write_report,
)
from tandem.compute import prepare as prepare_in_child
from tandem.flows import plan
from tandem.flows.allowance import check_allowance
from tandem.kit import clock
from tandem.kit.errors import Conflict
from tandem.registry import Datasets, Registry, register_run
from tandem.spec import Happened, Job, Placement, Recipe, Run, RunState, recipe_id

_LOOK_S = 0.2


class Rooms(plan.Rooms, Protocol):
    """What the story stands on."""

    @property
    def datasets(self) -> Datasets: ...


Prepare = Callable[..., Awaitable[Recipe]]
"""As `tandem.compute.prepare`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who wants to know how it goes: the preparation's steps, and the run once it is there to be watched."""

    progress: Callable[[str, int, int | None], None] = lambda _step, _done, _total: None
    began: Callable[[Run], None] = lambda _run: None


SILENT = Listener()


async def train(
    recipe: Recipe,
    placement: Placement,
    *,
    house: Rooms,
    listener: Listener = SILENT,
    again: bool = False,
    system: System | None = None,
    prepare: Prepare = prepare_in_child,
) -> Run:
    """Train a recipe; returns the run when it is over or paused. What has been trained before is not trained again.

    Ctrl-C pauses the run, saved.

    Raises:
        NotFound: the parent or the system is not there.
        Forbidden: the charter does not let it be trained there, or cost that much.
        TandemError: the recipe cannot be prepared.
    """
    await asyncio.to_thread(check_allowance, house, placement)
    system = system or open_system(placement.system, house.settings)
    parent = await asyncio.to_thread(parent_of, recipe, house.registry)
    pinned = await prepare(recipe, home=house.settings.home, parent=parent, progress=listener.progress)
    if not again and (done := await asyncio.to_thread(house.runs.succeeded, recipe_id(pinned))) is not None:
        return done
    run = await asyncio.to_thread(house.runs.create, pinned, placement)
    await asyncio.to_thread(house.datasets.record, run.run_id, pinned)
    return await resume(run.run_id, house=house, listener=listener, system=system)


async def resume(
    run_id: str,
    *,
    house: Rooms,
    listener: Listener = SILENT,
    placement: Placement | None = None,
    system: System | None = None,
    pace: Pace | None = None,
) -> Run:
    """Supervise a run: adopt the workers that an earlier supervisor left, or go on from the last checkpoint.

    A `placement` replaces the run's own from the next attempt on.

    Raises:
        NotFound: there is no such run.
        Conflict: it is over, or somebody else supervises it.
        Forbidden: the charter no longer lets it be trained there, or cost that much.
    """
    run = house.runs.read(run_id)
    _refuse_if_over(run)
    await asyncio.to_thread(check_allowance, house, placement or house.runs.placement(run_id), run_id=run_id)
    folder = house.runs.folder(run_id)
    async with held(folder, seconds=house.settings.lease_s) as lease:
        if placement is not None:
            house.runs.place(run_id, placement)
        supervisor = _supervisor(run, house, lease, system=system, pace=pace)
        forget_wish(folder)
        listener.began(run)
        with on_interrupt(supervisor.interrupt):
            finished = await supervisor.supervise()
        if finished:
            version = await asyncio.to_thread(register_run, run, house.registry, house.runs, house.datasets)
            await supervisor.say(Happened.REGISTERED, version=version.ref)
            await supervisor.say(Happened.SUCCEEDED)
            await asyncio.to_thread(plan.leave_outcome, run_id, house=house)
        await write_report(folder)
    return house.runs.read(run_id)


async def stop(
    run_id: str, *, house: Rooms, cancel: bool = False, system: System | None = None, pace: Pace | None = None
) -> Run:
    """Pause a run, saved, or cancel it for good; whoever supervises it does that, or we do where nobody does.

    Raises:
        NotFound: there is no such run.
        Conflict: it is over, or its supervisor does not react.
    """
    run = house.runs.read(run_id)
    _refuse_if_over(run)
    folder, wish = house.runs.folder(run_id), Wish.CANCEL if cancel else Wish.PAUSE
    make_wish(folder, wish)
    deadline = clock.monotonic_seconds() + house.settings.stop_grace_s + house.settings.lease_s
    while True:
        try:
            async with held(folder, seconds=house.settings.lease_s) as lease:
                run = house.runs.read(run_id)
                if not run.state.over and (cancel or run.state is not RunState.PAUSED):
                    await _supervisor(run, house, lease, system=system, pace=pace).end_now(wish)
                    await write_report(folder)
                forget_wish(folder)
                return house.runs.read(run_id)
        except Conflict:
            if clock.monotonic_seconds() > deadline:
                raise
            await asyncio.sleep(_LOOK_S)


def parent_of(recipe: Recipe, registry: Registry) -> tuple[Path, str] | None:
    """The file of the parent and its digest: that of a pinned recipe, or of what its name means now.

    Raises:
        NotFound: it is not there.
        InvalidRequest: it is an adapter that nobody merged.
    """
    if recipe.model.shape is not None:
        return None
    digest = recipe.model.parent_sha256 or registry.whole(recipe.model.parent)
    return registry.file(digest), digest


def _refuse_if_over(run: Run) -> None:
    if run.state.over:
        how = f"{run.state} ({run.reason})" if run.reason else run.state
        raise Conflict(f"Run {run.run_id} is over: {how}.", remedy="Begin a new one with `tandem train`.")


def _supervisor(run: Run, house: Rooms, lease: Lease, *, system: System | None, pace: Pace | None) -> Supervisor:
    placement, recipe = house.runs.placement(run.run_id), house.runs.recipe(run.run_id)
    job = Job(
        run_id=run.run_id,
        folder=str(house.runs.folder(run.run_id).path),
        home=str(house.settings.home),
        attempt=0,
        recipe=recipe,
        placement=placement,
        planned=plan.planned(recipe, placement, house=house),
    )
    return Supervisor(
        system or open_system(placement.system, house.settings),
        house.runs.log(run.run_id),
        lease,
        job=job,
        pace=pace or Pace(stop_grace_s=house.settings.stop_grace_s),
    )
