"""The `tandem registry` commands: verify what is kept, and collect what nothing needs any more."""

import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tandem import flows
from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, step_bars, table
from tandem.kit.errors import InvalidRequest
from tandem.registry import Rubbish

app = typer.Typer(help="The registry's bytes: check them, and clear away what nothing needs.", no_args_is_help=True)

_SPAN = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_DIGITS = re.compile(r"[0-9a-f]{64}")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


@app.command()
def verify(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Read again all that anything refers to, and compare; exit status 1 if something is damaged or missing."""
    with step_bars(*_columns(), hidden=as_json or quiet) as (_, progress):
        verified = flows.retention(open_house()).verify(progress)
    rows = [(fault.state, fault.what, "; ".join(fault.owners)) for fault in verified.faults]
    whole = f"{verified.checked} checked, {_size(verified.size)}: all as it was."
    emit(
        asdict(verified),
        as_json=as_json,
        quiet=quiet,
        bare=["\t".join(row) for row in rows],
        shown=table(("state", "what", "needed by"), [(row[0], _short(row[1]), row[2]) for row in rows], empty=whole),
    )
    if verified.elsewhere:
        notes.print(f"{verified.elsewhere} that are referred to are on other machines, and were not checked.")
    if rows:
        notes.print("Pull or train the models again, or bring the files from a copy.")
        raise typer.Exit(1)


@app.command()
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    older_than: Annotated[
        str, typer.Option(help="Leave alone what arrived within this time: 24h, 7d. What runs now may need it.")
    ] = "24h",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Delete what nothing refers to: blobs, prepared data, and checkpoints of runs that are over."""
    seconds = _seconds(older_than)
    with step_bars(*_columns(), hidden=as_json or quiet) as (_, progress):
        gone = flows.retention(open_house()).collect(older_than_s=seconds, dry_run=dry_run, progress=progress)
    shown = table(
        ("kind", "what", "size"),
        [(one.kind, _short(one.name), _size(one.size)) for one in gone],
        empty=f"Nothing to collect that is older than {older_than}.",
    )
    emit([asdict(one) for one in gone], as_json=as_json, quiet=quiet, bare=[one.name for one in gone], shown=shown)
    if gone:
        notes.print(_total(gone, dry_run=dry_run))


def _total(gone: list[Rubbish], *, dry_run: bool) -> str:
    size = _size(sum(one.size for one in gone))
    return f"{len(gone)} with {size} would go; without --dry-run they do." if dry_run else f"{size} freed."


def _seconds(text: str) -> float:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            f"--older-than is {text[:80]!r}.", remedy="Use a span such as 24h, 90m or 7d.", param="older_than"
        )
    return int(match[1]) * _SECONDS[match[2]]


def _short(name: str) -> str:
    """A digest, alone or in a path, as far as it tells it from others; `--json` and `--quiet` have all of it."""
    return _DIGITS.sub(lambda match: match[0][:12], name)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _columns() -> tuple[ProgressColumn, ...]:
    return (TextColumn("{task.description:>9}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
