"""The steps of flows that train and measure: prepare, train, evaluate."""

import asyncio
import contextlib
from typing import Any

import msgspec

from tandem.compute import Wish, heartbeats, make_wish
from tandem.evals import find_suite
from tandem.flows.allowance import check_allowance
from tandem.flows.durable.flow import run_id
from tandem.flows.durable.work import Work
from tandem.flows.evaluate import Asking, Watcher
from tandem.flows.train import parent_of, resume
from tandem.kit.errors import Conflict
from tandem.spec import Happened, Recipe, Run, RunState, Version, recipe_id


async def prepare(work: Work) -> dict[str, Any]:
    """Make the data ready, and pin the recipe to digests; what is ready already is not made again."""
    recipe, house = work.order.recipe, work.house
    assert recipe is not None, "the order was checked"
    await asyncio.to_thread(check_allowance, house, work.order.placement)
    parent = await asyncio.to_thread(parent_of, recipe, house.registry)

    def progress(step: str, done: int, total: int | None) -> None:
        work.tell(f"prepares: {step}, {done:,}{f' of {total:,}' if total else ''}")

    pinned = await work.hands.prepare(recipe, home=house.settings.home, parent=parent, progress=progress)
    return {"recipe": msgspec.to_builtins(pinned)}


async def train(work: Work) -> dict[str, Any]:
    """Supervise the flow's run until it has made a version; a run that was paused by hand is waited for.

    Raises:
        Conflict: the run failed, or was cancelled.
    """
    house, pinned = work.house, msgspec.convert(work.facts["recipe"], Recipe)
    done = await asyncio.to_thread(house.runs.succeeded, recipe_id(pinned))
    if done is not None and not work.order.again:
        return {"run": done.run_id, "version": done.version}
    run = await asyncio.to_thread(_made, work, pinned)
    while not run.state.over:
        if run.state is RunState.PAUSED and not await asyncio.to_thread(_shall_go_on, work, run):
            work.tell(f"paused run ({run.reason}): `tandem runs resume {run.run_id}` goes on", waits=True)
            await work.look_again()
        else:
            async with work.turn(f"training on {work.order.placement.system}"):
                await _supervised(work, run)
        run = await asyncio.to_thread(house.runs.read, run.run_id)
    if run.state is not RunState.SUCCEEDED:
        raise Conflict(
            f"Run {run.run_id} {run.state}{f': {run.reason}' if run.reason else ''}.",
            remedy=f"`tandem flows retry {work.flow.id}` trains again.",
        )
    return {"run": run.run_id, "version": run.version}


async def evaluate(work: Work) -> dict[str, Any]:
    """Measure what the order names, or what the charter asks for; what this flow has measured already is kept."""
    version = await work.version()
    names = await asyncio.to_thread(_suites, work, version)
    measured = await asyncio.to_thread(_measured, work, version, names)
    missing = tuple(name for name in names if name not in measured)
    if missing:
        async with work.turn("evaluation"):
            await work.hands.evaluate(
                version.ref,
                work.house,
                asking=Asking(suites=missing, member=work.order.member or None),
                watcher=_watcher(work, version),
            )
        measured = await asyncio.to_thread(_measured, work, version, names)
    return {"version": version.ref, "evidence": measured}


def _made(work: Work, pinned: Recipe) -> Run:
    """The newest run of this flow, if it is good for this try, else a new one; the same after a kill."""
    runs, tries = work.house.runs, work.flow.tries
    for attempt in range(tries, 0, -1):
        own = run_id(work.flow.id, attempt)
        if runs.folder(own).events.exists() and (attempt == tries or not runs.read(own).state.over):
            break
    else:
        own = run_id(work.flow.id, tries)
    run = runs.create(pinned, work.order.placement, run_id=own)
    work.house.datasets.record(run.run_id, pinned)
    return run


def _shall_go_on(work: Work, run: Run) -> bool:
    """Whether somebody retried the flow after its run was paused."""
    paused = [event.at for event in work.house.runs.events(run.run_id) if event.kind is Happened.PAUSED]
    return bool(paused) and (work.flow.retried_at or 0) > paused[-1]


async def _supervised(work: Work, run: Run) -> None:
    """Supervise a run until it is over, paused, or somebody else's.

    If the flow is cancelled meanwhile, the run is paused, saved. If only the executor stops, the workers go on, and
    the next executor adopts them.
    """
    house, system = work.house, work.hands.system(work.order.placement.system, work.house.settings)
    going = asyncio.create_task(resume(run.run_id, house=house, system=system, pace=work.hands.pace))
    telling = asyncio.create_task(_following(work, run))
    try:
        await asyncio.shield(going)
    except Conflict as error:
        work.tell(error.message, waits=True)
        await work.look_again()
    except asyncio.CancelledError:
        if not work.leaving():  # else all that is on this loop is cancelled, and a second time would cut it short
            make_wish(house.runs.folder(run.run_id), Wish.PAUSE)
        await asyncio.wait({going})
        raise
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


async def _following(work: Work, run: Run) -> None:
    folder, placement = work.house.runs.folder(run.run_id), work.order.placement
    while True:
        run = await asyncio.to_thread(work.house.runs.read, run.run_id)
        beats = await asyncio.to_thread(heartbeats, folder.attempt(run.attempt), placement.workers)
        step = max((beat.step for beat in beats), default=run.step)
        of = f" of {run.steps:,}" if run.steps else ""
        work.tell(f"trains on {placement.system}: step {step:,}{of}")
        await work.look_again()


def _suites(work: Work, version: Version) -> tuple[str, ...]:
    """The suites of the order, or those that the charter's clauses for this class of version ask for, each once."""
    if work.order.suites:
        return tuple(dict.fromkeys(work.order.suites))
    one = work.house.charters.current().charter.class_of(version)
    return tuple(dict.fromkeys(clause.suite for clause in one.clauses)) if one is not None else ()


def _measured(work: Work, version: Version, names: tuple[str, ...]) -> dict[str, str]:
    """The evidence by suite that was measured since the flow began, by the editions of the suites that hold now."""
    if not names:
        return {}
    editions = {name: find_suite(name, work.house.settings.home).digest for name in names}
    found: dict[str, str] = {}
    for digest, one in work.house.evidence.of(version.artifact.digest).items():
        if one.measured_at >= work.flow.created_at and editions.get(one.suite) == one.suite_digest:
            found.setdefault(one.suite, digest)
    return found


def _watcher(work: Work, version: Version) -> Watcher:
    def progress(suite: str, done: int, total: int | None) -> None:
        work.tell(f"evaluates {version.ref}: {suite}, {done:,}{f' of {total:,}' if total else ''}")

    return Watcher(stage=lambda words: work.tell(f"evaluates {version.ref}: {words}"), progress=progress)
