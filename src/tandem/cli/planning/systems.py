"""`tandem plan systems`: which of several systems should have a run, and what more money would buy."""

from typing import Annotated

import typer

from tandem.cli.context import AsJson, Quiet, emit
from tandem.cli.planning.options import Explain, goal, question, standing, usd
from tandem.cli.planning.show import basis
from tandem.flows.planning import SystemsAsk, answer_systems, rules_of
from tandem.plan.plain import plain
from tandem.plan.systems import Offer


def systems(
    budget: Annotated[str | None, typer.Option(help="Money in US dollars: 250000, 250k, 1.5M.")] = None,
    devices: Annotated[str | None, typer.Option(help="Devices and time: 512x30d.")] = None,
    loss: Annotated[float | None, typer.Option(help="The loss to reach, in nats a token.")] = None,
    more: Annotated[str | None, typer.Option(help="A second tranche on top of --budget: what would it buy?")] = None,
    system: Annotated[
        list[str] | None, typer.Option(help="One of them; may be given several times. Default: all of the catalogue.")
    ] = None,
    parameters: Annotated[str | None, typer.Option(help="Weights of the model. Default: the best number.")] = None,
    law: Annotated[str, typer.Option(help="The scaling law: epoch, or chinchilla.")] = "epoch",
    precision: Annotated[str, typer.Option(help="What products are computed in: bf16, fp8, fp4, fp16, fp32.")] = "bf16",
    within: Annotated[str | None, typer.Option(help="The longest that the run may take. Default: 90d.")] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare systems for one run: what each makes of it, which the charter allows, which should have it, and why."""
    house, ground = standing()
    said = {
        "systems": tuple(system or ()),
        "more_usd": usd(more, what="--more"),
        **goal(budget=budget, devices=devices, loss=loss, parameters=parameters, within=within),
        "law": law,
        "precision": precision,
    }
    ask = question(SystemsAsk, said)
    answer = answer_systems(ask, ground, rules=rules_of(house.charters, house.runs))
    choice = answer.choice
    parts = ["\n".join(map(_offer, choice.offers))]
    derivation = choice.derivation
    if answer.more is not None:
        parts.append(answer.more.why)
        derivation = derivation.then(answer.more.derivation)
    shown = "\n\n".join([*parts, basis(derivation, explain=explain)])
    emit(plain(answer), as_json=as_json, quiet=quiet, bare=choice.recommended, shown=shown)


def _offer(one: Offer) -> str:
    mark = "yes" if one.allowed else "no "
    risks = "".join(f"\n       {risk}" for risk in one.risks)
    return f"  {mark}  {one.system}: {one.why}{risks}"
