"""`tandem plan layout`: memory and time of a training step by how it is spread over devices."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.context import AsJson, Quiet, emit
from tandem.cli.planning.options import Explain, Hosts, Price, System, count, question, standing
from tandem.cli.planning.show import basis, facts
from tandem.cli.training.train import read_recipe
from tandem.flows.planning import LayoutAnswer, LayoutAsk, answer_layout, pinned
from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import percent, short, size, span
from tandem.plan.layout import Candidate
from tandem.plan.plain import plain
from tandem.plan.units import parameters_text

Degree = Annotated[int | None, typer.Option(help="Devices that share it so; names one layout to look at.", min=1)]


def layout(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe; or name a model by --parameters.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Weights of the model: 8B, 135M.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of a sequence, where no recipe says.", min=1)] = 4096,
    samples: Annotated[int | None, typer.Option(help="Sequences of a step. Default: the recipe's, or 256.")] = None,
    system: System = "",
    hosts: Hosts = None,
    price: Price = None,
    data: Degree = None,
    tensor: Degree = None,
    pipeline: Degree = None,
    context_devices: Annotated[int | None, typer.Option(help="Devices that share a sequence.", min=1)] = None,
    micro_samples: Annotated[
        int | None, typer.Option(help="Sequences at once, in a layout of your own. Default: 1.", min=1)
    ] = None,
    recompute: Annotated[
        str | None, typer.Option(help="none, selective or full, in a layout of your own. Default: selective.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="In it each data-parallel copy holds the whole state.")
    ] = False,
    keep: Annotated[int, typer.Option(help="How many layouts are shown.", min=1, max=50)] = 5,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the best layout of a training step on a system: memory of a device, time, and why the others lose."""
    house, ground = standing()
    degrees = {"data": data, "tensor": tensor, "pipeline": pipeline, "context": context_devices}
    said = {
        "system": system,
        "hosts": hosts,
        "price": price,
        "recipe": pinned(read_recipe(recipe, ()), house) if recipe else None,
        "parameters": count(parameters, what="--parameters"),
        "context": context,
        "samples": samples,
        "layout": _named(degrees, micro_samples=micro_samples, recompute=recompute, whole=whole),
        "keep": keep,
    }
    ask = question(LayoutAsk, said)
    answer = answer_layout(ask, ground, file=house.registry.file)
    best = answer.asked or answer.ranking.best
    shown = "\n\n".join(_shown(answer, best))
    emit(
        plain(answer),
        as_json=as_json,
        quiet=quiet,
        bare=best.layout.words,
        shown=f"{shown}\n\n{basis(answer.ranking.derivation, explain=explain)}",
    )


def _named(
    degrees: Mapping[str, int | None], *, micro_samples: int | None, recompute: str | None, whole: bool
) -> dict[str, object] | None:
    """The layout that the options name, if they name one."""
    given = {name: many for name, many in degrees.items() if many is not None}
    if given:
        return {
            **given,
            "sharded": not whole,
            "micro_samples": micro_samples or 1,
            "recompute": recompute or "selective",
        }
    if micro_samples or recompute or whole:
        raise InvalidRequest(
            "--micro-samples, --recompute and --whole are of a layout of your own, and none is named.",
            remedy="Name how many devices share what: --data, --tensor, --pipeline, --context-devices.",
        )
    return None


def _shown(answer: LayoutAnswer, best: Candidate) -> Iterator[str]:
    model = answer.job.model
    yield f"{parameters_text(model.parameters)} weights, {answer.job.samples:,} sequences of {model.context:,} tokens"
    yield _candidate(best)
    others = [one for one in (answer.ranking.best, *answer.ranking.others) if one is not best]
    if others:
        yield "Others\n" + "\n".join(f"  {span(one.step.total_s):>10}  {one.layout.words}: {one.why}" for one in others)
    if answer.ranking.rejected:
        told = "\n".join(f"  {one.layout.words}: {one.why}" for one in answer.ranking.rejected)
        yield f"Cannot be\n{told}"


def _candidate(one: Candidate) -> str:
    memory, step = one.memory, one.step
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "reserve")
    held = ", ".join(f"{name} {size(getattr(memory, f'{name}_bytes'))}" for name in parts)
    times = ("compute", "tensor", "pipeline", "context", "data", "optimizer")
    spent = ", ".join(
        f"{name} {span(took)}" for name in times if (took := getattr(step, f"{name}_s")) > 0.001 * step.total_s
    )
    return facts(
        (
            ("layout", one.layout.words),
            ("step", f"{span(step.total_s)}: {spent}"),
            ("speed", f"{short(step.tokens_per_s)} tokens/s, MFU {percent(step.mfu_share)}"),
            ("memory", f"{size(memory.total_bytes)} of {size(memory.device_bytes)} a device: {held}"),
            ("why", one.why),
        )
    )
