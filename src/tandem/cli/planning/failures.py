"""`tandem plan failures` and `simulate`: what failures do to a job, and to fleets of up to 100,000 devices."""

from collections.abc import Iterator
from typing import Annotated

import typer

from tandem.cli.context import AsJson, Quiet, emit
from tandem.cli.planning.options import Explain, Hosts, Rate, System, count, question, seconds, standing
from tandem.cli.planning.show import basis, facts
from tandem.flows.planning import FailuresAnswer, FailuresAsk, SimulationAsk, answer_failures, answer_simulation
from tandem.kit.pages import between, many, percent, span
from tandem.plan.plain import plain
from tandem.plan.reliability import Endurance
from tandem.plan.simulation import DESIGNS
from tandem.plan.units import parse_span_s


def failures(
    useful: Annotated[str, typer.Argument(help="Training that the job needs: 54d, 12h.")],
    system: System = "",
    hosts: Hosts = None,
    rate: Rate = None,
    restart: Annotated[str | None, typer.Option(help="From a failure until training goes on: 10min.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="What training stands still for a save: 30s.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Weights, from which a save's time follows: 405B.")] = None,
    every: Annotated[str | None, typer.Option(help="Training between two saves. Default: the best.")] = None,
    measured: Annotated[
        bool, typer.Option("--measured", help="The rate was measured on jobs of this size, whatever they died of.")
    ] = False,
    runs: Annotated[int, typer.Option(help="Also simulate so many runs.", min=0, max=20_000)] = 0,
    seed: Annotated[int, typer.Option(help="Of the simulation.", min=0)] = 0,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what failures do to a job on a system's hosts: interruptions, best interval, goodput, spare hosts."""
    _, ground = standing()
    said = {
        "system": system,
        "hosts": hosts,
        "useful_s": parse_span_s(useful, what="The training"),
        "failures_per_1000_node_days": rate,
        "restart_s": seconds(restart, what="--restart"),
        "checkpoint_s": seconds(checkpoint, what="--checkpoint"),
        "parameters": count(parameters, what="--parameters"),
        "interval_s": seconds(every, what="--every"),
        "measured": measured,
        "runs": runs,
        "seed": seed,
    }
    answer = answer_failures(question(FailuresAsk, said), ground)
    shown = "\n\n".join([*_shown(answer), basis(answer.derivation, explain=explain)])
    emit(plain(answer), as_json=as_json, quiet=quiet, bare=f"{answer.closed.wall_s.mid:.0f}", shown=shown)


def simulate(
    devices: Annotated[
        list[str] | None, typer.Option(help="A size: 16384, 100k. May be given several times. Default: 1k to 131k.")
    ] = None,
    design: Annotated[
        list[str] | None, typer.Option(help=f"A design: {', '.join(DESIGNS)}. Default: all of them.")
    ] = None,
    parameters: Annotated[str, typer.Option(help="Weights of the model that is trained.")] = "1T",
    lasting: Annotated[str, typer.Option(help="How long is simulated.")] = "28d",
    rate: Rate = None,
    runs: Annotated[int, typer.Option(help="Runs of each design at each size.", min=1, max=100)] = 4,
    seed: Annotated[int, typer.Option(help="Of the failures.", min=0)] = 0,
    system: System = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Simulate fleets over weeks: failures, slow nodes, checkpoint storms, restarts, elastic shrink and growth."""
    _, ground = standing()
    said = {
        "system": system,
        "sizes": tuple(sorted({found for one in devices or () if (found := count(one, what="--devices"))})),
        "designs": tuple(design or ()),
        "parameters": count(parameters, what="--parameters"),
        "span_s": seconds(lasting, what="--lasting"),
        "failures_per_1000_node_days": rate,
        "runs": runs,
        "seed": seed,
    }
    swept = answer_simulation(question(SimulationAsk, said), ground)
    told = "\n".join(f"{one.name:<18} {one.about}" for one in DESIGNS.values() if not design or one.name in design)
    shown = "\n\n".join((swept.text, told, basis(swept.points[-1].derivation, explain=False)))
    bare = [f"{one.design} {one.devices} {one.goodput_share.mid:.4f}" for one in swept.points]
    emit(plain(swept), as_json=as_json, quiet=quiet, bare=bare, shown=shown)


def _shown(answer: FailuresAnswer) -> Iterator[str]:
    yield f"{many(answer.faults.nodes, 'host')}, interrupted each {span(answer.faults.mean_s)}"
    yield _endured(answer.closed)
    if answer.simulated is not None:
        yield _endured(answer.simulated)


def _endured(one: Endurance) -> str:
    return facts(
        (
            ("by", one.method),
            ("interruptions", between(one.interruptions, lambda count: f"{count:,.1f}")),
            ("save each", span(one.interval_s)),
            ("goodput", between(one.goodput_share, percent)),
            ("from start to end", between(one.wall_s, span)),
            (
                "lost",
                f"saving {span(one.saving_s)}, repeated {span(one.repeated_s)}, restarts {span(one.restarting_s)}",
            ),
            ("spare hosts", f"{one.spare_nodes:,}"),
        )
    )
