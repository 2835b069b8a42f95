"""`tandem train`: a recipe becomes a version, while bars and then the live view show how it goes."""

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

import tandem
from tandem import flows
from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, step_bars
from tandem.cli.training.facts import record
from tandem.cli.training.watch import watch_run
from tandem.compute import OVER_LIMITS
from tandem.flows import Listener
from tandem.kit.errors import InvalidRequest, MissingPrerequisite
from tandem.server import House
from tandem.spec import (
    Placement,
    Recipe,
    Run,
    RunFolder,
    RunState,
    load_placement,
    load_recipe,
    read_story,
)

TORCH = "pip install 'torch==2.13.0'"
EXTRA = "pip install 'tandem-platform[train]'"
_PATHS = ("file:", "folder:")
_HINT = "Ctrl-C pauses the run and loses nothing."

System = Annotated[str | None, typer.Option(help="The system to train on. Default: the placement's, or local.")]
Workers = Annotated[int | None, typer.Option(help="Processes that share the work. Default: the placement's, or 1.")]
PlacementFile = Annotated[
    Path | None, typer.Option("--placement", help="A TOML file that says where and how to train.", dir_okay=False)
]
NoWatch = Annotated[bool, typer.Option("--no-watch", help="Print a line now and then instead of the live view.")]


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/code-fim-small.toml.", dir_okay=False)],
    system: System = None,
    workers: Workers = None,
    placement: PlacementFile = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key of the recipe: optimizer.lr=3e-4. May be given several times."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Train even what was trained before.")] = False,
    no_watch: NoWatch = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train what a recipe describes and register the result; exit status 0 if there is a new version.

    Ctrl-C pauses the run, saved; `tandem runs resume` goes on. What was trained before is not trained again.
    """
    wanted = read_recipe(recipe, changes or ())
    placed = read_placement(placement, system=system, workers=workers, otherwise=Placement())
    check_workshop()
    house = open_house()

    async def story(listener: Listener) -> Run:
        return await flows.train(wanted, placed or Placement(), house=house, listener=listener, again=again)

    finish(house, follow(house, story, hidden=as_json or quiet, plain=no_watch), as_json=as_json, quiet=quiet)


def read_recipe(path: Path, changes: Iterable[str]) -> Recipe:
    """The recipe of a file with changes such as `data.0.source=file:my.txt`.

    Relative paths in the file count from the file's folder, those of a change from the working folder.

    Raises:
        InvalidRequest: it is none, or a change is not `key=value`.
    """
    made = {key: _from(Path.cwd(), value) for key, value in map(_split, changes)}
    recipe = load_recipe(path, made)
    above = path.absolute().parent
    data = tuple(msgspec.structs.replace(one, source=_from(above, one.source)) for one in recipe.data)
    return msgspec.structs.replace(recipe, data=data)


def _split(change: str) -> tuple[str, str]:
    key, equals, value = change.partition("=")
    if not key or not equals:
        raise InvalidRequest(f"--set {change!r} changes nothing.", remedy="Write it like --set optimizer.lr=3e-4.")
    return key.strip(), value.strip()


def _from(folder: Path, source: str) -> str:
    """A source of data whose path, if it has one, does not depend on a working folder."""
    kind = next((kind for kind in _PATHS if source.startswith(kind) and source != kind), None)
    return f"{kind}{folder / Path(source.removeprefix(kind)).expanduser()}" if kind else source


def read_placement(
    path: Path | None, *, system: str | None, workers: int | None, otherwise: Placement
) -> Placement | None:
    """The placement of a file, or `otherwise`, with what the options say; None where nobody says anything.

    Raises:
        InvalidRequest: it is none.
    """
    said: Mapping[str, Any] = {
        key: value for key, value in (("system", system), ("workers", workers)) if value is not None
    }
    if path is None and not said:
        return None
    if workers is not None and workers < 1:
        raise InvalidRequest(f"--workers is {workers}.", remedy="Use 1 or more.", param="workers")
    return msgspec.structs.replace(load_placement(path) if path else otherwise, **said)


def recipes_folder() -> Path:
    """Where the recipes lie that come with Tandem: inside an installed package, or beside `src` in a checkout."""
    package = Path(tandem.__file__).parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent.parent / "recipes"


def check_workshop() -> None:
    """See that what trains is installed, before anything is prepared or started.

    Raises:
        MissingPrerequisite: it is not; the remedy is what to install, in the right order.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPrerequisite("Training needs torch, which is not installed.", remedy=f"{TORCH}\n{EXTRA}")
    missing = [name for name in ("tokenizers", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPrerequisite(
            f"Training needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            remedy=EXTRA,
        )


def follow(house: House, story: Callable[[Listener], Coroutine[None, None, Run]], *, hidden: bool, plain: bool) -> Run:
    """Run a story of training while bars show its preparation and the view its run.

    Raises:
        TandemError: as the story.
    """

    async def followed() -> Run:
        leave = asyncio.Event()
        watching: list[asyncio.Task[object]] = []
        columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with step_bars(*columns, hidden=hidden) as (bars, progress):

            def began(run: Run) -> None:
                bars.stop()
                if not hidden:
                    watching.append(asyncio.create_task(_watch(house.runs.folder(run.run_id), leave, plain=plain)))

            try:
                return await story(Listener(progress=progress, began=began))
            finally:
                leave.set()
                for fault in await asyncio.gather(*watching, return_exceptions=True):
                    if fault is not None:  # the run itself is what it is
                        notes.print(f"The view has stopped: {fault}")

    return asyncio.run(followed())


async def _watch(folder: RunFolder, leave: asyncio.Event, *, plain: bool) -> None:
    await watch_run(folder, console=notes, leave=leave, hint=_HINT, until_ended=False, plain=plain)


def finish(house: House, run: Run, *, as_json: bool, quiet: bool) -> None:
    """Print what became of a run and what to do next; exit status 1 if it made no version."""
    folder = house.runs.folder(run.run_id)
    known = record(read_story(folder), folder)
    bare = run.version or run.run_id
    emit(known, as_json=as_json, quiet=quiet, bare=bare, shown="\n".join(_words(run, folder)))
    if run.state is not RunState.SUCCEEDED:
        raise typer.Exit(1)


def _words(run: Run, folder: RunFolder) -> Iterator[str]:
    step = f"step {run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
    match run.state:
        case RunState.SUCCEEDED:
            yield f"{run.version}  {_losses(run)}".rstrip()
        case RunState.PAUSED:
            yield f"Paused ({run.reason}) at {step}; the state is saved."
        case _:
            yield f"{run.state.value.capitalize()} at {step}" + (f": {run.reason}" if run.reason else ".")
    if folder.report.exists():
        yield f"Report: {folder.report}"
    if run.state is RunState.SUCCEEDED:
        yield f"Next: tandem evaluate {run.version}"
    elif run.state.over:
        yield f"Next: tandem runs show {run.run_id}"
    elif run.reason == OVER_LIMITS:
        yield "It used up the time or the money under `limits` of its placement: raise them in a copy of that file."
        yield f"Next: tandem runs resume {run.run_id} --placement FILE"
    else:
        yield f"Next: tandem runs resume {run.run_id}"


def _losses(run: Run) -> str:
    named = {"loss": "held-out loss", "bits_per_byte": "bits per byte"}
    return ", ".join(f"{name} {run.evaluation[key]:.4f}" for key, name in named.items() if run.evaluation.get(key))
