"""`tandem rollout` and `tandem rollback`: a new version comes to clients step by step, and the way back."""

from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group, RenderableType

from tandem.cli.context import AsJson, Quiet, emit, open_house, table
from tandem.flows import promote as promote_candidate
from tandem.flows import roll_back, start_rollout
from tandem.kit.errors import InvalidRequest
from tandem.serve import Mode, Plan, Rollout, rollout_facts

app = typer.Typer(help="Rollouts: a new version beside the one that serves.", no_args_is_help=True)

_PLAN = Plan()
_PAGE = 200
_USUAL = ",".join(map(str, _PLAN.steps))

Name = Annotated[str, typer.Argument(help="The deployment.")]
Which = Annotated[str, typer.Argument(help="A deployment, for its newest rollout, or a rollout's id.")]


@app.command()
def start(
    name: Name,
    to: Annotated[str, typer.Option("--to", help="The version that comes, such as coder@4.")],
    canary: Annotated[
        str | None, typer.Option(help=f"Percent of the requests that it answers, step by step. Default: {_USUAL}.")
    ] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Only compare: clients see nothing of it.")] = False,
    hold: Annotated[float, typer.Option(help="The least seconds of each step.")] = _PLAN.hold_s,
    least: Annotated[int, typer.Option(help="The least requests that it answers in each step.")] = _PLAN.least,
    sticky: Annotated[bool, typer.Option(help="A key stays on its side, instead of each request.")] = _PLAN.sticky,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put a released version beside the one that serves. It is rolled back by itself where it is worse."""
    if shadow and canary is not None:
        raise InvalidRequest("A shadow answers no share of the requests.", remedy="Leave out --canary or --shadow.")
    steps = _steps(canary if canary is not None else _USUAL)
    if not shadow and steps[-1:] != (100,):
        steps += (100,)
    mode = Mode.SHADOW if shadow else Mode.CANARY
    plan = Plan(mode=mode, steps=steps, hold_s=hold, least=least, sticky=sticky)
    rollout = start_rollout(open_house(), name, ref=to, plan=plan)
    _tell(rollout, f"{name}: {rollout.version} comes in beside {rollout.stable}.", as_json=as_json, quiet=quiet)


@app.command("list")
def list_rollouts(
    name: Annotated[str | None, typer.Argument(help="Only those of this deployment.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the newest rollouts."""
    found = open_house().rollouts.rollouts(name, limit=_PAGE)
    rows = [(one.id, one.deployment, one.stable, one.version, one.plan.mode, one.words, one.reason) for one in found]
    emit(
        [_facts(one) for one in found],
        as_json=as_json,
        quiet=quiet,
        bare=[one.id for one in found],
        shown=table(
            ("id", "deployment", "from", "to", "mode", "state", "why"),
            rows,
            empty="There were none yet: `tandem rollout start NAME --to REF` begins one.",
        ),
    )


@app.command()
def show(which: Which, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show a rollout with the numbers of both sides and the tests of its last look."""
    rollout = open_house().rollouts.get(which)
    emit(_facts(rollout), as_json=as_json, quiet=quiet, bare=rollout.words, shown=_drawn(rollout))


@app.command()
def pause(name: Name, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Stay at the present step; a regression still ends it."""
    _tell(open_house().rollouts.pause(name), f"The rollout of {name} is paused.", as_json=as_json, quiet=quiet)


@app.command()
def resume(name: Name, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Go on with a paused rollout."""
    _tell(open_house().rollouts.resume(name), f"The rollout of {name} goes on.", as_json=as_json, quiet=quiet)


@app.command()
def promote(name: Name, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Let the new version answer everything now, without the steps that are left."""
    house = open_house()
    deployment = promote_candidate(house, name)
    _tell(house.rollouts.get(name), f"{name} is bound to {deployment.version}.", as_json=as_json, quiet=quiet)


@app.command("rollback")
def roll_back_rollout(name: Name, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """End a rollout: the version before answers everything again, within about a second."""
    rollouts = open_house().rollouts
    rollout = rollouts.roll_back(rollouts.of(name), "Rolled back by hand.")
    _tell(rollout, f"{name} serves {rollout.stable} alone again.", as_json=as_json, quiet=quiet)


def rollback(name: Name, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Go back: end the rollout that is under way, or else serve the version before again."""
    done = roll_back(open_house(), name)
    value: dict[str, Any] = {"deployment": name, "version": done.deployment.version, "rollout": None}
    shown = f"{name} is bound to {done.deployment.version} again."
    if done.rollout is not None:
        value["rollout"] = done.rollout.id
        shown = f"{name} serves {done.rollout.stable} alone again; the rollout to {done.rollout.version} is over."
    emit(value, as_json=as_json, quiet=quiet, bare=done.deployment.version, shown=shown)


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequest(f"The steps are {text!r}.", remedy="Write percentages, such as 5,25,50.") from None


def _tell(rollout: Rollout, shown: str, *, as_json: bool, quiet: bool) -> None:
    emit(_facts(rollout), as_json=as_json, quiet=quiet, bare=rollout.id, shown=shown)


def _facts(rollout: Rollout) -> Any:
    return msgspec.to_builtins(rollout_facts(rollout))


def _drawn(rollout: Rollout) -> RenderableType:
    sides = _facts(rollout)["numbers"]
    steps = ", ".join(
        f"{'>' if place == rollout.step else ''}{step} %" for place, step in enumerate(rollout.plan.steps)
    )
    parts: list[RenderableType] = [
        f"{rollout.deployment}: {rollout.stable} -> {rollout.version}: {rollout.words}",
        rollout.reason,
        f"{rollout.plan.mode}, steps {steps}; {rollout.progress.elapsed_s:.0f} of {rollout.plan.hold_s:g} s, look "
        f"{rollout.progress.looks}",
        table(
            ("", *sides),
            [(name, *(_number(side[name]) for side in sides.values())) for name in sides["stable"]],
            empty="",
        ),
    ]
    if rollout.findings:
        rows = [
            (one.measure, f"{one.stable:.3g}", f"{one.candidate:.3g}", f"{one.p:.2g}", one.test, one.worse)
            for one in rollout.findings
        ]
        parts.append(table(("measure", "stable", "candidate", "p", "test", "worse"), rows, empty=""))
        parts.append(f"Worse is p under {rollout.findings[0].alpha:.2g}.")
    return Group(*(part for part in parts if part != ""))


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
