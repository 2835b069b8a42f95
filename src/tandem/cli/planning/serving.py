"""`tandem plan serving`: hosts, replicas, latency and cost a million tokens for traffic, and when more are due."""

from typing import Annotated

import typer

from tandem.cli.context import AsJson, Quiet, emit
from tandem.cli.planning.options import Explain, Hosts, Price, System, count, question, standing
from tandem.cli.planning.show import basis
from tandem.flows.planning import ServingAsk, answer_serving, size_of_version
from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import many
from tandem.plan.plain import plain
from tandem.plan.serving import ServingPlan, serving_text
from tandem.plan.units import usd_text


def serving(
    model: Annotated[str, typer.Argument(help="A number of weights (8B), or a version of the registry (coder@1).")],
    requests: Annotated[float, typer.Option(help="Requests a second, in the mean.")],
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt, in the mean.", min=1)] = 500,
    answer: Annotated[int, typer.Option(help="Tokens of an answer, in the mean.", min=1)] = 200,
    peak: Annotated[float, typer.Option(help="The busiest hour by the mean.")] = 2.0,
    cached: Annotated[float, typer.Option(help="Share of a prompt's tokens that replicas still have.")] = 0.0,
    growth: Annotated[float, typer.Option(help="By what share requests grow in a month.")] = 0.0,
    first_s: Annotated[float, typer.Option(help="Seconds to the first token at most.")] = 1.0,
    each_s: Annotated[float, typer.Option(help="Seconds for each further token at most.")] = 0.05,
    weights: Annotated[str, typer.Option(help="How weights are stored: f32, f16, bf16, q8_0, fp8.")] = "bf16",
    context: Annotated[int, typer.Option(help="Tokens of the model's context.", min=1)] = 8192,
    spare: Annotated[int, typer.Option(help="Hosts that may fail without a broken promise.", min=0)] = 1,
    months: Annotated[int, typer.Option(help="Months of growth to look ahead.", min=0, max=120)] = 12,
    system: System = "",
    hosts: Hosts = None,
    price: Price = None,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what serving takes: replicas, hosts, latency, cost a million tokens, and when to add a machine."""
    house, ground = standing()
    said = {
        "system": system,
        "hosts": hosts,
        "price": price,
        "context": context,
        "requests_per_s": requests,
        "prompt_tokens": prompt,
        "answer_tokens": answer,
        "peak_ratio": peak,
        "cached_share": cached,
        "growth_share": growth,
        "first_token_s": first_s,
        "token_s": each_s,
        "weights": weights,
        "spare_hosts": spare,
        "months": months,
    }
    said |= {"version": model} if "@" in model else {"parameters": _weights(model)}
    ask = question(ServingAsk, said)
    size = size_of_version(house, ask.version, context=ask.context) if ask.version else None
    plan = answer_serving(ask, ground, model=size)
    parts = [serving_text(plan), *_growth(plan), basis(plan.derivation, explain=explain)]
    emit(plain(plan), as_json=as_json, quiet=quiet, bare=str(plan.cluster.hosts), shown="\n\n".join(parts))


def _weights(text: str) -> int | None:
    try:
        return count(text, what="The model")
    except InvalidRequest as error:
        raise InvalidRequest(
            f"{text[:80]!r} is neither a number of weights nor a version.", remedy="Write 8B, 135M or coder@1."
        ) from error


def _growth(plan: ServingPlan) -> list[str]:
    if len({need.hosts for need in plan.growth}) < 2:
        return []
    steps = [
        f"  in {need.month} months: {many(need.hosts, 'host')}, {usd_text(need.month_usd)} a month"
        for before, need in zip((None, *plan.growth), plan.growth, strict=False)
        if before is None or before.hosts != need.hosts
    ]
    return ["As it grows\n" + "\n".join(steps)]
