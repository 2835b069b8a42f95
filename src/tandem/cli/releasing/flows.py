"""`tandem flows`: durable stories from a recipe to clients, which go on after whatever ended their process."""

import asyncio
import contextlib
import os
import signal
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, screen, table
from tandem.cli.deploy import running_server
from tandem.cli.training.train import PlacementFile, System, Workers, read_placement, read_recipe
from tandem.flows import (
    STORIES,
    Flow,
    FlowState,
    Order,
    StepState,
    cancel_flow,
    executing,
    executor_role,
    go_on_with_flows,
    runs_under_way,
    stop,
)
from tandem.kit.errors import Conflict, InvalidRequest
from tandem.kit.log import setup_logging
from tandem.serve import DeployOptions, Mode, Plan, check_engine
from tandem.server import House
from tandem.spec import Placement

app = typer.Typer(help="Flows: stories of several steps that survive any interruption.", no_args_is_help=True)

_OPTIONS, _PLAN = DeployOptions(), Plan()
_LOOK_S = 0.5
_PAGE = 200
_SHORT = 21  # characters of an id that tell it apart: `flow_`, the time, and four more digits
_STEP_MARKS = {StepState.DONE: "done", StepState.FAILED: "failed", StepState.CURRENT: "now", StepState.AHEAD: ""}

Which = Annotated[str, typer.Argument(metavar="ID", help="A flow's id, or its beginning.")]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it to `tandem up`, and do not wait.")]


@app.command()
def start(
    story: Annotated[str, typer.Argument(help=f"{', '.join(STORIES)}; ship is all of them.")],
    what: Annotated[str, typer.Argument(metavar="RECIPE|MODEL", help="A recipe's file, or a version such as coder@3.")],
    name: Annotated[str, typer.Option("--name", "-n", help="The deployment that it comes to.")] = "",
    system: System = None,
    workers: Workers = None,
    placement: PlacementFile = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a key of the recipe.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Train even what was trained before.")] = False,
    suite: Annotated[list[str] | None, typer.Option("--suite", "-s", help="A suite; can be repeated.")] = None,
    as_member: Annotated[str, typer.Option("--as", help="The member whose key signs the evidence.")] = "",
    engine: Annotated[str, typer.Option(help="The engine that runs it.")] = "llamacpp",
    context: Annotated[int, typer.Option(help="Tokens of one request.")] = _OPTIONS.context_tokens,
    parallel: Annotated[int, typer.Option(help="Requests at once.")] = _OPTIONS.parallel,
    replicas: Annotated[int, typer.Option(help="Engines that share the load.")] = _OPTIONS.replicas,
    canary: Annotated[str, typer.Option(help="Come in beside what serves, by these percentages: 5,25,50.")] = "",
    hold: Annotated[float, typer.Option(help="The least seconds of each step of the canary.")] = _PLAN.hold_s,
    least: Annotated[int, typer.Option(help="The least requests of each step of the canary.")] = _PLAN.least,
    detach: Detach = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Begin a flow, and follow it until it has ended or waits for somebody.

    If no server runs, this command goes on with it meanwhile; whatever is left, the next one does.
    """
    check_engine(engine)
    order = Order(
        again=again,
        suites=tuple(suite or ()),
        member=as_member,
        name=name,
        plan=_plan(canary, hold=hold, least=least),
        **_subject(what, changes or [], _placed(placement, system, workers)),
        **_changed(engine=engine, context_tokens=context, parallel=parallel, replicas=replicas),
    )
    house = open_house()
    flow = house.flows.start(story, order, by="command line")
    _finish(flow if detach else _followed(house, flow), as_json=as_json, quiet=quiet)


@app.command("list")
def list_command(
    state: Annotated[FlowState | None, typer.Option(help="Only those of this state.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the newest flows, each with what it does or why it waits."""
    found = open_house().flows.page(limit=_PAGE, state=state)
    emit(
        [asdict(one) for one in found],
        as_json=as_json,
        quiet=quiet,
        bare=[one.id for one in found],
        shown=_listed(found) if found else "No flows. Next: tandem flows start ship RECIPE --name NAME",
    )


@app.command()
def show(which: Which, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show a flow: its steps with their times, where it is, why it waits, and what it has made."""
    flow = open_house().flows.get(which)
    emit(asdict(flow), as_json=as_json, quiet=quiet, bare=flow.state.value, shown=_drawn(flow))


@app.command()
def follow(which: Which, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Follow a flow until it has ended or waits, and go on with it where no server does."""
    house = open_house()
    _finish(_followed(house, house.flows.get(which)), as_json=as_json, quiet=quiet)


@app.command()
def cancel(which: Which, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """End a flow: its run is paused, saved, and its rollout goes back."""
    house = open_house()
    flow = cancel_flow(house, which)
    for run in runs_under_way(house, flow):
        with notes.status(f"Pausing {run.run_id} ..."), contextlib.suppress(Conflict):  # it has just ended
            asyncio.run(stop(run.run_id, house=house))
    emit(asdict(flow), as_json=as_json, quiet=quiet, bare=flow.state.value, shown=f"{flow.id} is cancelled.")


@app.command()
def retry(which: Which, detach: Detach = False, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Go on with a flow that failed, at the step that did, or with one that was cancelled."""
    house = open_house()
    flow = house.flows.retry(which)
    _finish(flow if detach else _followed(house, flow), as_json=as_json, quiet=quiet)


@app.command()
def work(until_eof: Annotated[bool, typer.Option("--until-eof", hidden=True)] = False) -> None:
    """Go on with all flows until Ctrl-C, where nobody else does; `tandem up` has this done by itself."""
    house = open_house()
    setup_logging(house.settings.log_level, house.settings.log_format, secrets=house.settings.secrets)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopping.set())
    if until_eof:
        threading.Thread(target=_wait_for_end_of_input, args=(stopping,), daemon=True).start()
    go_on_with_flows(house, house.flows, stopping=stopping)


def _wait_for_end_of_input(stopping: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stopping.set()


def _followed(house: House, flow: Flow) -> Flow:
    """The flow when it has ended or waits, executed by this process where no other one does it."""
    with notes.status(f"{flow.id} ...") as status, contextlib.ExitStack() as stack:
        ours, told = False, ""
        while True:
            if not ours:
                ours = _executed_here(house, flow, stack)
            flow = house.flows.get(flow.id)
            if flow.state.over or flow.state is FlowState.WAITING:
                return flow
            status.update(f"{flow.step or flow.story}: {flow.why}")
            if flow.step != told:
                told = flow.step
                notes.print(f"{_moment(flow.updated_at)}  {told}")
            _pause()


def _executed_here(house: House, flow: Flow, stack: contextlib.ExitStack) -> bool:
    """Become the executor of this one flow, unless another process is the executor."""
    if running_server(house.settings) is not None:
        return False  # whose executor begins within seconds
    with contextlib.ExitStack() as taken:
        try:
            taken.enter_context(executor_role(house.settings))
        except Conflict:
            return False
        taken.enter_context(executing(house, house.flows, only=flow.id))
        stack.enter_context(taken.pop_all())
    return True


def _pause() -> None:
    threading.Event().wait(_LOOK_S)


def _finish(flow: Flow, *, as_json: bool, quiet: bool) -> None:
    """Print where a flow is and what somebody can do now; exit status 1 if it failed or was cancelled."""
    emit(asdict(flow), as_json=as_json, quiet=quiet, bare=flow.id, shown=_drawn(flow))
    if not (as_json or quiet) and (words := _next(flow)):
        screen.print(words, soft_wrap=True)
    if flow.state in {FlowState.FAILED, FlowState.CANCELLED}:
        raise typer.Exit(1)


def _listed(flows: list[Flow]) -> RenderableType:
    """A row for each flow; where the terminal is narrow, only the last column is broken."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("id", "story", "state", "step"):
        grid.add_column(heading, no_wrap=True)
    grid.add_column("why")
    for one in flows:
        grid.add_row(one.id[:_SHORT], one.story, one.state.value, one.step, Text(one.why))
    return grid


def _drawn(flow: Flow) -> RenderableType:
    rows = [
        (_STEP_MARKS[step.state], step.name, _moment(step.began_at), _seconds(step.began_at, step.ended_at))
        for step in flow.steps
    ]
    made = {key: value for key, value in flow.facts.items() if isinstance(value, str)}
    head = f"{flow.id}  {flow.story}: {flow.state}{f', {flow.why}' if flow.why else ''}"
    parts: list[RenderableType] = [head, table(("", "step", "began", "seconds"), rows, empty="")]
    if made:
        parts.append(table(("made", ""), list(made.items()), empty=""))
    return Group(*parts)


def _next(flow: Flow) -> str:
    """What somebody can do about it now."""
    if flow.state in {FlowState.FAILED, FlowState.CANCELLED}:
        return f"Next: tandem flows retry {flow.id}"
    if flow.state is FlowState.WAITING and flow.step == "signatures":
        return f"Next: tandem release sign {flow.facts.get('version', '')}, then tandem flows follow {flow.id}"
    if flow.state is FlowState.WAITING and flow.step == "request":
        return f"Next: tandem release review {flow.facts.get('version') or flow.order.get('model', '')}"
    return "" if flow.state.over else f"Next: tandem flows follow {flow.id}"


def _subject(what: str, changes: list[str], placement: Placement | None) -> dict[str, Any]:
    path = Path(what)
    if path.suffix != ".toml" and not path.is_file():
        return {"model": what}
    return {"recipe": read_recipe(path, changes)} | ({"placement": placement} if placement is not None else {})


def _placed(path: Path | None, system: str | None, workers: int | None) -> Placement | None:
    return read_placement(path, system=system, workers=workers, otherwise=Placement())


def _changed(*, engine: str, **options: int) -> dict[str, Any]:
    """What of the serving differs from the usual: the rest is not said, since most stories have no use for it."""
    made = DeployOptions(**options)
    return ({"engine": engine} if engine != Order().engine else {}) | ({"options": made} if made != _OPTIONS else {})


def _plan(canary: str, *, hold: float, least: int) -> Plan | None:
    if not canary:
        return None
    try:
        steps = tuple(int(part) for part in canary.split(","))
    except ValueError:
        raise InvalidRequest(f"The steps are {canary!r}.", remedy="Write percentages, such as 5,25,50.") from None
    return Plan(mode=Mode.CANARY, steps=steps if steps[-1:] == (100,) else (*steps, 100), hold_s=hold, least=least)


def _moment(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(began: int | None, ended: int | None) -> str:
    return f"{(ended - began) / 1000:.1f}" if began is not None and ended is not None else ""
