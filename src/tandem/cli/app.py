"""All commands, in one table."""

import typer

import tandem
from tandem.cli import demo, deploy, doctor, keys, models, up, usage
from tandem.cli.context import AsJson, Quiet, emit
from tandem.cli.training import runs, train

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
app.command("train")(train.train)
app.command("usage")(usage.usage)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")
app.add_typer(keys.app, name="keys")


@app.command()
def version(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Print the version."""
    number = tandem.__version__
    emit({"version": number}, as_json=as_json, quiet=quiet, bare=number, shown=number)
