"""`tandem plan run`, `--against` and `factors`: what a run should take here, what it took, and what that taught."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tandem import flows
from tandem.cli.context import AsJson, Quiet, emit, open_house, table
from tandem.cli.planning.options import Explain
from tandem.cli.planning.show import basis, facts
from tandem.cli.training.train import read_placement, read_recipe
from tandem.kit.pages import between, percent, rate, span
from tandem.plan.plain import plain
from tandem.plan.workshop import Forecast, Stages
from tandem.spec import Placement

_STAGES = ("start", "train", "evaluate", "checkpoint", "export", "lost")


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/code-fim-small.toml.", dir_okay=False)],
    placement: Annotated[Path | None, typer.Option(help="A TOML file that says where.", dir_okay=False)] = None,
    system: Annotated[str | None, typer.Option(help="The system. Default: the placement's, or local.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the work.", min=1)] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say how long a recipe will take on this machine, stage by stage, by its measured speed and own runs."""
    wanted = read_recipe(recipe, ())
    placed = read_placement(placement, system=system, workers=workers, otherwise=Placement()) or Placement()
    found = asyncio.run(flows.predicted(wanted, placed, house=open_house()))
    shown = f"{facts(_forecast(found))}\n\n{basis(found.derivation, explain=explain)}"
    emit(plain(found), as_json=as_json, quiet=quiet, bare=f"{found.stages.wall_s:.1f}", shown=shown)


def _forecast(found: Forecast) -> Iterator[tuple[str, str]]:
    yield "from start to end", span(found.stages.wall_s)
    yield "speed", f"{rate(found.tokens_per_s)}, {span(found.step_s)} a step, MFU {percent(found.mfu_share)}"
    yield "of it", _stages(found.stages)


def _stages(stages: Stages) -> str:
    return ", ".join(f"{name} {span(getattr(stages, f'{name}_s'))}" for name in _STAGES)


def against(run: str, *, explain: bool, as_json: bool, quiet: bool) -> None:
    """Print a finished run next to what is predicted without it."""
    found = flows.against(run, house=open_house())
    said, took = found.predicted.stages, found.measured
    rows = [
        (name.removesuffix("_s"), span(getattr(said, name)), span(getattr(took, name)), f"{ratio:.2f}")
        for name, ratio in found.ratios.items()
    ]
    heading = f"{found.run} ({found.name}) on {found.system}"
    verdict = "as expected" if found.expected else "not as expected"
    learnt = f"Calibration of {found.system}: {between(found.factor.ratio, lambda one: f'{one:.2f}')}"
    shown = "\n\n".join(
        (
            heading,
            "\n".join(
                f"{a:<12} {b:>14} {c:>14} {d:>7}" for a, b, c, d in [("", "predicted", "measured", "ratio"), *rows]
            ),
            f"Training was {verdict}. {learnt}, from {len(found.factor.runs)} other runs.",
            basis(found.predicted.derivation, explain=explain),
        )
    )
    bare = f"{found.ratios.get('wall_s', 1.0):.4f}"
    emit(plain(found), as_json=as_json, quiet=quiet, bare=bare, shown=shown)


def factors(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show how far predictions were from own runs, by system: what plans are multiplied with."""
    found = flows.calibration(open_house())
    rows = [
        (name, between(one.ratio, lambda ratio: f"{ratio:.3f}"), f"{len(one.runs)} runs") for name, one in found.items()
    ]
    emit(
        plain(dict(found)),
        as_json=as_json,
        quiet=quiet,
        bare=[f"{name} {one.ratio.mid:.4f}" for name, one in found.items()],
        shown=table(
            ("system", "measured by predicted", "learnt from"),
            rows,
            empty="No run has taught anything yet. Next: tandem train recipes/code-fim-tiny.toml",
        ),
    )
