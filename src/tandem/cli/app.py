"""All commands, in one table."""

import typer

import tandem
from tandem.cli import deploy, doctor, keys, models, up, usage
from tandem.cli.context import AsJson, Quiet, emit
from tandem.cli.demo import demo
from tandem.cli.planning import plan
from tandem.cli.releasing import charter, evaluate, flows, lineage, registry, release, rollout
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
app.command("rollback")(rollout.rollback)
app.command("status")(deploy.status)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("usage")(usage.usage)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("lineage")(lineage.lineage)
app.add_typer(plan.app, name="plan")
app.add_typer(models.app, name="models")
app.add_typer(registry.app, name="registry")
app.add_typer(charter.app, name="charter")
app.add_typer(evaluate.app, name="evals")
app.add_typer(release.app, name="release")
app.add_typer(rollout.app, name="rollout")
app.add_typer(flows.app, name="flows")
app.add_typer(runs.app, name="runs")
app.add_typer(keys.app, name="keys")


@app.command()
def version(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Print the version."""
    number = tandem.__version__
    emit({"version": number}, as_json=as_json, quiet=quiet, bare=number, shown=number)
