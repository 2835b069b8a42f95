"""What `tandem plan --budget` prints: the plan of a run on one page, its report, and its recipe and placement."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from tandem.cli.context import notes, save
from tandem.cli.planning.show import basis, facts
from tandem.kit.errors import Conflict
from tandem.kit.pages import between, many, percent, short, size, span
from tandem.plan import Cluster
from tandem.plan.quote import Quote, Way, written
from tandem.plan.units import flop_text, parameters_text, usd_text
from tandem.spec import parse_recipe

RECIPE, PLACEMENT = "recipe.toml", "placement.toml"


def page_of(found: Quote, *, explain: bool) -> str:
    """The answer on one page."""
    return "\n\n".join([*_page(found), basis(found.derivation, explain=explain)])


def _page(found: Quote) -> Iterator[str]:
    yield (
        f"Train {parameters_text(found.model.parameters)} weights on {parameters_text(found.tokens)} tokens "
        f"with {many(found.devices, 'device')} of {found.system}"
    )
    yield facts(_facts(found))
    if found.alternatives:
        told = "\n".join(f"  {one.name}: {one.why}" for one in found.alternatives)
        yield f"Instead\n{told}"


def _facts(found: Way) -> Iterator[tuple[str, str]]:
    model, step, memory = found.model, found.layout.step, found.layout.memory
    yield "loss", _loss(found)
    yield "time", between(found.wall_s, span)
    if found.cost_usd.mid:
        yield "cost", between(found.cost_usd, usd_text)
    shape = f"{many(model.layers, 'layer')} of width {model.width:,}, {many(model.heads, 'head')}"
    yield "model", f"{shape}, context {model.context:,}"
    yield "computing", f"{flop_text(found.flop)}, {many(found.steps, 'step')} of {many(found.samples, 'sequence')}"
    yield "layout", f"{many(found.hosts, 'host')}: {found.layout.layout.words}"
    yield "speed", f"{short(step.tokens_per_s)} tokens/s, MFU {percent(step.mfu_share)}, {span(step.total_s)} a step"
    yield "memory", f"{size(memory.total_bytes)} of {size(memory.device_bytes)} a device"
    interruptions = between(found.interruptions, lambda count: f"{count:,.0f}")
    yield "failures", f"{interruptions}, so save each {span(found.checkpoint_every_s)}"
    yield "goodput", between(found.goodput_share, percent)
    if found.spare_hosts:
        yield "standing by", f"{many(found.spare_hosts, 'more host')} to replace failed ones at once; not in the cost"


def _loss(found: Way) -> str:
    told = between(found.loss_nats, lambda nats: f"{nats:.3f}")
    if not found.knows_loss:
        return (
            f"not known: the law says {told}, and guessing is {found.guessing_nats:.1f}; it does not reach down so far"
        )
    return f"{told} nats a token"


def write_plan(found: Quote, cluster: Cluster, folder: Path, *, name: str) -> list[Path]:
    """Write the recipe and the placement of a plan to a folder; returns both files.

    Raises:
        Conflict: one of them is there already.
        InvalidRequest: the workshop cannot say this plan, or a model cannot have this name.
    """
    made = written(found, cluster, name=name)
    parse_recipe(made.recipe, where="of the plan")
    files = {folder / RECIPE: made.recipe, folder / PLACEMENT: made.placement}
    for path in files:
        if path.exists():
            raise Conflict(f"{path} is there already.", remedy="Name another folder, or move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, told in files.items():
        save(path, msgspec.toml.encode(told))
    for warning in made.warnings:
        notes.print(f"Mind: {warning}")
    return list(files)
