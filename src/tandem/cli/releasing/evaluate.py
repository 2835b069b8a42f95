"""`tandem evaluate` and `tandem evals`: what suites measure of a version becomes signed evidence."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, step_bars, table
from tandem.cli.releasing.charter import As
from tandem.evals import Suite, add_suite, cut_gaps, find_suite, load_suites
from tandem.flows import Asking, Found, Watcher
from tandem.flows import evaluate as evaluate_version
from tandem.kit.config import load_settings
from tandem.kit.errors import InvalidRequest

app = typer.Typer(help="Suites: what they ask, and how to make one from your own code.", no_args_is_help=True)

_SHORT = 19  # characters of a digest that tell it apart: `sha256:` and twelve digits
_EXAMPLES = 3


def evaluate(
    ref: Annotated[str, typer.Argument(help="A version, such as coder@3, or a model's name for its newest.")],
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", "-s", help="A suite; can be repeated. Default: those that the charter asks for."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask only the first so many cases: for a look, since it makes no evidence.")
    ] = None,
    transcripts: Annotated[
        Path | None, typer.Option(help="A folder for copies of the logs, which `inspect view` shows.")
    ] = None,
    as_member: As = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a version on a private endpoint, and file what is found as signed evidence."""
    if transcripts is not None:
        _make_folder(transcripts)
    house = open_house()
    asking = Asking(suites=tuple(suite or ()), limit=limit, member=as_member, transcripts=transcripts)
    with watching(hidden=quiet or as_json) as watcher:
        found = asyncio.run(evaluate_version(ref, house, asking=asking, watcher=watcher))
    emit(
        [_record(one) for one in found],
        as_json=as_json,
        quiet=quiet,
        bare=[one.digest for one in found if one.digest],
        shown=_shown(found),
    )


@app.command("list")
def list_command(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the suites: those that ship with Tandem and your own."""
    suites = load_suites(load_settings().home)
    rows = [
        (one.name, one.kind, len(one.cases), "Tandem's" if one.shipped else "yours", one.digest[:_SHORT])
        for one in suites
    ]
    emit(
        [_suite_record(one) for one in suites],
        as_json=as_json,
        quiet=quiet,
        bare=[one.name for one in suites],
        shown=table(("suite", "kind", "cases", "whose", "digest"), rows, empty=""),
    )


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show a suite: its settings, its digest and its first cases; with --json all of them."""
    suite = find_suite(name, load_settings().home)
    cases = [msgspec.to_builtins(case) for case in suite.cases]
    facts = {"kind": suite.kind, "cases": len(suite.cases), "digest": suite.digest, "about": suite.about}
    rows = [*facts.items(), *msgspec.to_builtins(suite.settings).items()]
    emit(
        _suite_record(suite) | {"settings": msgspec.to_builtins(suite.settings), "cases": cases},
        as_json=as_json,
        quiet=quiet,
        bare=suite.digest,
        shown=Group(table(("", suite.name), rows, empty=""), *_examples(cases)),
    )


@app.command("cut")
def cut_command(
    name: Annotated[str, typer.Argument(metavar="SUITE", help="The new suite's name.")],
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, help="A folder of Python programs that the model has not been trained on."
        ),
    ],
    count: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many gaps.")] = 300,
    seed: Annotated[int, typer.Option(help="Another seed cuts other gaps.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a fill-in-the-middle suite of your own from Python code."""
    home = load_settings().home
    cases = cut_gaps(folder.absolute(), count=count, seed=seed)
    suite = add_suite(home, name, kind="code", about=f"Gaps in the Python functions of {folder.name}.", cases=cases)
    shown = f"{name} has {len(cases)} cases.\nNext: tandem evaluate MODEL --suite {name}"
    emit(_suite_record(suite), as_json=as_json, quiet=quiet, bare=suite.digest, shown=shown)


def _make_folder(folder: Path) -> None:
    """Make the folder now: what is asked may take hours, and only then is something written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"Cannot make the folder {folder}: {error.strerror}.", remedy="Choose another one.", param="transcripts"
        ) from error


@contextmanager
def watching(*, hidden: bool) -> Iterator[Watcher]:
    """A line for what is done, and a bar for each suite, on the error stream so that the result can be piped."""
    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with step_bars(*columns, hidden=hidden) as (_, report):

        def stage(words: str) -> None:
            if not hidden:
                notes.print(f"{words} ...")

        yield Watcher(stage=stage, progress=report)


def _shown(found: list[Found]) -> RenderableType:
    rows = [
        (one.suite.name, metric.name, f"{metric.value:.4g}", f"{metric.low:.4g} to {metric.high:.4g}", metric.samples)
        for one in found
        for metric in one.measured.metrics
    ]
    grid = table(("suite", "metric", "value", "95 %", "cases"), rows, empty="Nothing was measured.")
    return Group(grid, *(_closing(one) for one in found))


def _closing(found: Found) -> str:
    name, measured = found.suite.name, found.measured
    said = f"{name}: {measured.answered} answered, {measured.filtered} filtered, {measured.failed} failed"
    if not found.suite.cases:
        return f"{name}: it has no cases yet; its evidence {found.digest[:_SHORT]} says so."
    if not found.digest:
        return f"{said}. Only {len(found.suite.cases)} cases were asked, so this is no evidence."
    return f"{said}. Evidence {found.digest[:_SHORT]}, signed by {' and '.join(found.signed_by)}."


def _record(found: Found) -> dict[str, Any]:
    return {
        "suite": found.suite.name,
        "suite_digest": found.suite.digest,
        "whole": found.suite.whole,
        "metrics": [msgspec.to_builtins(metric) for metric in found.measured.metrics],
        "answered": found.measured.answered,
        "filtered": found.measured.filtered,
        "failed": found.measured.failed,
        "evidence": found.digest,
        "transcripts": found.evidence.transcripts if found.evidence is not None else "",
        "signed_by": found.signed_by,
    }


def _suite_record(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "kind": suite.kind,
        "about": suite.about,
        "cases": len(suite.cases),
        "digest": suite.digest,
        "shipped": suite.shipped,
    }


def _examples(cases: list[dict[str, Any]]) -> Iterator[RenderableType]:
    for case in cases[:_EXAMPLES]:
        yield table(("", case["id"]), [(key, value) for key, value in case.items() if key != "id"], empty="")
