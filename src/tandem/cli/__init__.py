"""The `tandem` command: one thin file for each room."""

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> None:
    """Run the command line; an error that a person can act on ends with its remedy and exit status 1."""
    try:
        # Importing takes a second, in which Ctrl-C must end as quietly as later.
        from tandem.cli.app import app
        from tandem.kit.errors import TandemError
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        app()
    except TandemError as error:
        _fail(error.message, error.remedy)
    except OSError as error:  # the disk or the network of this machine; a fault of ours has another type
        _fail(f"{error}.", "Check the place that it names, its owner and its space.")


def _fail(message: str, remedy: str) -> NoReturn:
    from rich.text import Text

    from tandem.cli.context import notes

    notes.print(Text("Error:", style="bold red"), message, soft_wrap=True)
    if remedy:
        notes.print(remedy, soft_wrap=True)
    sys.exit(1)
