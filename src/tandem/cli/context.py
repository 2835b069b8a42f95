"""What commands share: the opened house, the three ways to print a result, and the one place where errors end."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, TaskID
from rich.table import Table
from rich.text import Text

from tandem.kit.config import load_settings
from tandem.kit.errors import InvalidRequest
from tandem.kit.lines import write_whole
from tandem.server import House

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare result alone.")]

# Names and errors may hold brackets, which must not be read as markup.
screen = Console(highlight=False, markup=False, emoji=False)
"""Where results go."""
notes = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Where progress and remarks go, so that a result can be piped."""


def open_house(**overrides: Any) -> House:
    """The house in TANDEM_HOME with its database migrated."""
    return House.open(load_settings(**overrides))


def emit(value: Any, *, as_json: bool, quiet: bool, bare: str | Iterable[str], shown: RenderableType) -> None:
    """Print a result: `value` as JSON, or `bare` text (one item a line), or `shown` for people."""
    if as_json:
        _write(json.dumps(value, indent=2, default=str) + "\n")
    elif quiet:
        lines = [bare] if isinstance(bare, str) else bare
        _write("".join(f"{line}\n" for line in lines))
    else:
        # Text is for copying: a line that the console breaks would not work when pasted.
        screen.print(shown, soft_wrap=isinstance(shown, str | Text))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()  # `tandem up` goes on for days, and whoever reads its pipe waits for the URL


def save(path: Path, data: bytes) -> None:
    """Write a file that somebody named, whole or not at all; through a link, or into a pipe, as it comes.

    Raises:
        InvalidRequest: it cannot be written there.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(data)
        else:
            write_whole(path, data)
    except OSError as error:
        raise InvalidRequest(f"Cannot write {path}: {error.strerror}.", remedy="Check the path.") from error


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> RenderableType:
    """Rows for people; `empty` says what to do when there are none."""
    grid = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return grid if grid.row_count else empty


@contextmanager
def step_bars(
    *columns: ProgressColumn, hidden: bool
) -> Iterator[tuple[Progress, Callable[[str, int, int | None], None]]]:
    """A bar for each step, on the error stream so that the result can be piped; and what tells (step, done, total)."""
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=notes, disable=hidden) as bars:

        def report(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=None)
            bars.update(tasks[step], completed=done, total=total)

        yield bars, report
