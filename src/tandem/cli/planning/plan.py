"""`tandem plan`: from money, devices for a time, or a loss to a model and what it takes; one dial first."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from tandem import flows
from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, save
from tandem.cli.planning import catalogue, failures, funding, layout, runs, serving, systems
from tandem.cli.planning.options import Explain, Hosts, Html, Price, System, goal, question
from tandem.cli.planning.quote import page_of, write_plan
from tandem.flows import Quoted
from tandem.flows.planning import QuoteAsk
from tandem.kit.errors import InvalidRequest
from tandem.plan.plain import plain
from tandem.plan.report import report

app = typer.Typer(
    help="Plans: what to train for money or time, on what, how long, how much; and what serving takes.",
    invoke_without_command=True,
)
app.command("layout")(layout.layout)
app.command("failures")(failures.failures)
app.command("serving")(serving.serving)
app.command("systems")(systems.systems)
app.command("funding")(funding.funding)
app.command("simulate")(failures.simulate)
app.command("catalogue")(catalogue.catalogue)
app.command("factors")(runs.factors)
app.command("run")(runs.run)

Law = Annotated[str, typer.Option(help="The scaling law: epoch, or chinchilla.")]
Precision = Annotated[str, typer.Option(help="What products are computed in: bf16, fp8, fp4, fp16, fp32.")]
Context = Annotated[int | None, typer.Option(help="Tokens of a sequence. Default: what is usual for the size.", min=1)]
Within = Annotated[str | None, typer.Option(help="The longest that the run may take. Default: 90d.")]
Parameters = Annotated[str | None, typer.Option(help="Weights of the model. Default: the best number.")]


@app.callback()
def plan(
    context: typer.Context,
    budget: Annotated[str | None, typer.Option(help="Money in US dollars: 250000, 250k, 1.5M.")] = None,
    devices: Annotated[str | None, typer.Option(help="Devices and time: 512x30d; on this machine 1x2h.")] = None,
    loss: Annotated[float | None, typer.Option(help="The loss to reach, in nats a token.")] = None,
    system: System = "",
    hosts: Hosts = None,
    price: Price = None,
    parameters: Parameters = None,
    sequence: Context = None,
    law: Law = "epoch",
    precision: Precision = "bf16",
    within: Within = None,
    write: Annotated[
        Path | None, typer.Option(help="Write recipe and placement to this folder.", file_okay=False)
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model in the recipe.")] = "",
    html: Html = None,
    against: Annotated[
        str | None, typer.Option(help="Compare a finished run with what is predicted without it.")
    ] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plan a run: give --budget, --devices or --loss, and read what to train, on what, how long and how much.

    `--system local` plans for this machine; `--write FOLDER` leaves a recipe and a placement for `tandem train`.
    """
    if context.invoked_subcommand is not None:
        _refuse_others(context, f"`tandem plan {context.invoked_subcommand}`")
        return
    if against is not None:
        _refuse_others(context, "`tandem plan --against`", but=("against", "explain", "as_json", "quiet"))
        runs.against(against, explain=explain, as_json=as_json, quiet=quiet)
        return
    if name and write is None:
        raise InvalidRequest("--name is for the recipe that --write leaves.", remedy="Give --write FOLDER too.")
    ask = _ask(
        **goal(budget=budget, devices=devices, loss=loss, parameters=parameters, within=within),
        system=system,
        hosts=hosts,
        price=price,
        context=sequence,
        law=law,
        precision=precision,
    )
    found = asyncio.run(flows.quoted(ask, house=open_house()))
    shown = page_of(found.quote, explain=explain) + _left(found, write=write, name=name, html=html)
    emit(plain(found.quote), as_json=as_json, quiet=quiet, bare=str(found.quote.model.parameters), shown=shown)


def _ask(**said: object) -> QuoteAsk:
    if said["budget_usd"] is said["devices"] is said["target_loss_nats"] is None:
        raise InvalidRequest(
            "A plan begins with money, devices for a time, or a loss.",
            remedy="tandem plan --budget 250000, --devices 512x30d or --loss 2.1; tandem plan --help lists the rest.",
        )
    return question(QuoteAsk, said)


def _refuse_others(context: typer.Context, what: str, *, but: Collection[str] = ()) -> None:
    """Refuse options of a new plan where none is made: they would change nothing."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in but and source is not None and source.name != "DEFAULT":
            raise InvalidRequest(
                f"{option.opts[0]} is for a new plan, and {what} makes none.",
                remedy="Leave it out, or write it behind the name of the command.",
            )


def _left(found: Quoted, *, write: Path | None, name: str, html: Path | None) -> str:
    """Write what was asked for; returns what is to be done next."""
    told = ""
    if write is not None:  # first, since it refuses to overwrite: then there is no report either
        recipe, placement = write_plan(found.quote, found.cluster, write, name=name)
        told = f"\n\nNext: tandem train {recipe} --placement {placement}"
    if html is not None:
        save(html, report(found.quote, found.cluster, factor=found.factor).encode())
        notes.print(f"The report is {html}", soft_wrap=True)
    return told
