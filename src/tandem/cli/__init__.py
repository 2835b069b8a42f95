"""The `tandem` command: one thin file for each room."""

import sys
from typing import NoReturn

import typer
from rich.markup import escape

import tandem
from tandem.cli import demo, deploy, doctor, keys, models, up, usage
from tandem.cli.context import AsJson, Quiet, emit, notes
from tandem.kit.errors import TandemError

__all__ = ["app", "main"]

app = typer.Typer(
    name="tandem",
    help="One platform for the whole path of a model, on your own machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("deploy")(deploy.deploy)
app.command("undeploy")(deploy.undeploy)
app.command("status")(deploy.status)
app.command("usage")(usage.usage)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


@app.command()
def version(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Print the version."""
    number = tandem.__version__
    emit({"version": number}, as_json=as_json, quiet=quiet, bare=number, shown=number)


def main() -> None:
    """Run the command line; an error that a person can act on ends with its remedy and exit status 1."""
    try:
        app()
    except TandemError as error:
        _fail(error.message, error.remedy)
    except OSError as error:  # the disk or the network of this machine; a fault of ours has another type
        _fail(f"{error}.", "Check the place that it names, its owner and its space.")


def _fail(message: str, remedy: str) -> NoReturn:
    notes.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    if remedy:
        notes.print(remedy, markup=False, soft_wrap=True)
    sys.exit(1)
