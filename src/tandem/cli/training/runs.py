"""The `tandem runs` commands: list, show, watch, stop, resume, compare, report."""

import asyncio
from typing import Annotated, Any

import typer
from rich.console import Console, Group

from tandem import flows
from tandem.cli.context import AsJson, Quiet, emit, open_house, screen, table
from tandem.cli.training.facts import brief, differences, losses_at_equal_tokens, measures, record, rows
from tandem.cli.training.train import (
    NoWatch,
    PlacementFile,
    System,
    Workers,
    check_workshop,
    finish,
    follow,
    read_placement,
)
from tandem.cli.training.watch import on_q, watch_run
from tandem.compute import on_interrupt
from tandem.flows import Listener
from tandem.kit.errors import NotFound
from tandem.server import House
from tandem.spec import Run, Story, read_story

app = typer.Typer(help="Runs: list them, look at one, watch, stop, resume and compare.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="The run's id, the beginning of it, or a recipe's name for its newest run.")]

_PAGE = 200  # runs read at a time
_SHORT_ID = 14  # characters that hold the time to a quarter of a second
_HINT = "q leaves the view; the run goes on."


@app.command("list")
def list_command(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the runs, the newest first."""
    house = open_house()
    found: list[Run] = []
    while page := house.runs.newest(limit=_PAGE, after=found[-1].run_id if found else None):
        found += page
    shown = [
        (
            run.run_id[:_SHORT_ID],
            run.version or run.name,
            run.state.value,
            f"{run.step:,}/{run.steps:,}" if run.steps else f"{run.step:,}",
            f"{run.evaluation['loss']:.4f}" if run.evaluation.get("loss") else "",
            brief(run)["created_at"][5:16].replace("T", " "),
        )
        for run in found
    ]
    emit(
        [brief(run) for run in found],
        as_json=as_json,
        quiet=quiet,
        bare=[run.run_id for run in found],
        shown=table(
            ("run", "model", "state", "step", "loss", "began"),
            shown,
            empty="No runs yet. Next: tandem train recipes/code-fim-tiny.toml",
        ),
    )


@app.command("show")
def show_command(run: Ref, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show all that is known of a run: time by cause, planned and actual, attempts, checkpoints, environment."""
    house = open_house()
    found, story = _found(house, run)
    known = record(story, house.runs.folder(found.run_id))
    told = list(rows(known))
    wide = max(len(key) for key, _ in told)
    shown = "\n".join(f"{key:<{wide}}  {value}" for key, value in told)
    emit(known, as_json=as_json, quiet=quiet, bare=found.run_id, shown=shown)


@app.command("watch")
def watch_command(run: Ref, no_watch: NoWatch = False, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Follow a run until it is over or paused, whoever trains it; q or Ctrl-C leaves, and the run goes on."""
    house = open_house()
    found, _ = _found(house, run)
    asyncio.run(_watched(house, found.run_id, hidden=as_json or quiet, plain=no_watch))
    found, story = _found(house, found.run_id)
    shown = f"{found.run_id} is {found.state.value}" + (f": {found.reason}" if found.reason else ".")
    known = record(story, house.runs.folder(found.run_id))
    emit(known, as_json=as_json, quiet=quiet, bare=found.state.value, shown=shown)


async def _watched(house: House, run_id: str, *, hidden: bool, plain: bool) -> None:
    leave = asyncio.Event()
    console = Console(quiet=True) if hidden else screen
    with on_interrupt(leave.set), on_q(leave):
        await watch_run(house.runs.folder(run_id), console=console, leave=leave, hint=_HINT, plain=plain)


@app.command("stop")
def stop_command(
    run: Ref,
    cancel: Annotated[bool, typer.Option("--cancel", help="For good: the run cannot be resumed.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Pause a run, saved; `tandem runs resume` goes on with it. With --cancel it ends for good."""
    house = open_house()
    found, _ = _found(house, run)
    stopped = asyncio.run(flows.stop(found.run_id, house=house, cancel=cancel))
    shown = f"{stopped.run_id} is {stopped.state.value} at step {stopped.step:,}."
    if not stopped.state.over:
        shown += f"\nNext: tandem runs resume {stopped.run_id}"
    emit(brief(stopped), as_json=as_json, quiet=quiet, bare=stopped.state.value, shown=shown)


@app.command("resume")
def resume_command(
    run: Ref,
    system: System = None,
    workers: Workers = None,
    placement: PlacementFile = None,
    no_watch: NoWatch = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was paused or whose supervisor died, here or with another placement."""
    house = open_house()
    found, _ = _found(house, run)
    current = house.runs.placement(found.run_id)
    placed = read_placement(placement, system=system, workers=workers, otherwise=current)
    check_workshop()

    async def story(listener: Listener) -> Run:
        return await flows.resume(found.run_id, house=house, listener=listener, placement=placed)

    finish(house, follow(house, story, hidden=as_json or quiet, plain=no_watch), as_json=as_json, quiet=quiet)


@app.command("compare")
def compare_command(first: Ref, second: Ref, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show how two runs differ: keys of recipe and placement, measurements, loss at equal tokens."""
    house = open_house()
    (one, left), (other, right) = _found(house, first), _found(house, second)
    value = _compared(left, right)
    names = (one.run_id[:_SHORT_ID], other.run_id[:_SHORT_ID])
    told, heard = measures(left), measures(right)
    losses = [
        (f"{tokens:,.0f}", f"{here:.4f}", f"{there:.4f}", f"{there - here:+.4f}")
        for tokens, here, there in value["loss_at_equal_tokens"]
    ]
    shown = Group(
        table(("differs", *names), value["differences"], empty="The same recipe on the same placement."),
        "",
        table(("measured", *names), [(key, told[key], heard[key]) for key in told], empty=""),
        "",
        table(("loss at tokens", *names, "difference"), losses, empty="They have no tokens in common."),
    )
    bare = ["\t".join(map(str, row)) for row in value["differences"]]
    emit(value, as_json=as_json, quiet=quiet, bare=bare, shown=shown)


def _compared(left: Story, right: Story) -> dict[str, Any]:
    first = {"recipe": left.recipe, "placement": left.placement}
    second = {"recipe": right.recipe, "placement": right.placement}
    return {
        "runs": [left.run.run_id, right.run.run_id],
        "differences": differences(first, second),
        "measured": [measures(left), measures(right)],
        "loss_at_equal_tokens": losses_at_equal_tokens(left.series("loss"), right.series("loss")),
    }


@app.command("report")
def report_command(
    run: Ref,
    browse: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say where the report of a run is, one HTML file; --open shows it."""
    house = open_house()
    found, _ = _found(house, run)
    path = house.runs.folder(found.run_id).report
    if not path.exists():
        raise NotFound(
            f"Run {found.run_id} has no report yet: it is {found.state.value}.",
            remedy=f"It is written when an attempt ends. Until then: tandem runs show {found.run_id}",
        )
    emit({"report": str(path)}, as_json=as_json, quiet=quiet, bare=str(path), shown=str(path))
    if browse:
        typer.launch(path.as_uri())


def _found(house: House, ref: str) -> tuple[Run, Story]:
    run = house.runs.resolve(ref)
    return run, read_story(house.runs.folder(run.run_id))
