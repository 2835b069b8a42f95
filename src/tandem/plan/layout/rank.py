"""Layouts ranked by their predicted time of a step: the best, the next ones and why they lose, and what cannot be."""

from bisect import bisect_left
from dataclasses import dataclass, replace

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import many
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Derivation, Step
from tandem.plan.flops import FORMULAS
from tandem.plan.layout.job import Job, Layout, check_layout
from tandem.plan.layout.memory import Memory, memory_of
from tandem.plan.layout.search import Found, spreads, variants
from tandem.plan.layout.step_time import StepTime, step_time
from tandem.plan.layout.words import memory_words, slower_words
from tandem.plan.units import GIB_BYTES

_MOST_DOUBLINGS = 12  # how much larger a cluster is looked for when nothing fits
_REJECTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A layout that fits, with what it needs and takes."""

    layout: Layout
    memory: Memory
    step: StepTime
    why: str
    """Why it is the best, or why it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A layout that cannot be."""

    layout: Layout
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Layouts from the fastest on."""

    best: Candidate
    others: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    examined: int
    """How many layouts were reckoned."""
    derivation: Derivation


def rank_layouts(
    job: Job, cluster: Cluster, *, factor_ratio: float = 1.0, keep: int = 5, tensor_across_hosts: bool = False
) -> Ranking:
    """The layouts of a job on all devices of a cluster, from the fastest; `keep` of them at most.

    Each has another division of the devices: of those that differ in the rest only the fastest counts.

    Raises:
        InvalidRequest: none fits, or nothing divides; names the nearest that works.
    """
    cluster.accelerator.peak_of(job.precision)  # refuses what the device has not, before all else
    fastest: dict[tuple[int, ...], tuple[Found, StepTime]] = {}
    small: list[Found] = []
    undealt: list[Layout] = []
    examined = 0
    for spread in spreads(job, cluster, tensor_across_hosts=tensor_across_hosts):
        found = list(variants(job, spread, cluster))
        examined += len(found)
        if not found:
            undealt.append(spread)
        small += sorted((one for one in found if not one.memory.fits), key=_needed)[:1]
        for one in found:
            if one.memory.fits:
                step = step_time(job, one.layout, cluster, factor_ratio=factor_ratio)
                key = (spread.tensor, spread.pipeline, spread.context, one.layout.sharded)
                if key not in fastest or step.total_s < fastest[key][1].total_s:
                    fastest[key] = one, step
    if not fastest:
        raise _refusal(job, cluster, small, undealt)
    order = sorted(fastest.values(), key=lambda pair: (pair[1].total_s, pair[0].memory.total_bytes))
    candidates = _candidates(order[: max(1, keep)], considered=len(order))
    return Ranking(
        best=candidates[0],
        others=candidates[1:],
        rejected=_rejected(job, small, undealt, fits=set(fastest)),
        examined=examined,
        derivation=_derivation(job, candidates[0], cluster, examined=examined, factor_ratio=factor_ratio),
    )


def candidate_of(
    job: Job, layout: Layout, cluster: Cluster, *, factor_ratio: float = 1.0, tensor_across_hosts: bool = False
) -> Candidate:
    """A layout that a person named.

    Raises:
        InvalidRequest: it cannot be, or it does not fit; names the nearest that does.
    """
    cluster.accelerator.peak_of(job.precision)  # refuses what the device has not, before all else
    check_layout(job, layout, cluster, tensor_across_hosts=tensor_across_hosts)
    memory = memory_of(job, layout, cluster)
    if not memory.fits:
        raise InvalidRequest(
            f"{layout.words}: {memory_words(memory)}.", remedy=_smaller(job, layout, cluster), param="layout"
        )
    step = step_time(job, layout, cluster, factor_ratio=factor_ratio)
    return Candidate(layout=layout, memory=memory, step=step, why=f"As asked; {memory_words(memory)}.")


def _derivation(job: Job, best: Candidate, cluster: Cluster, *, examined: int, factor_ratio: float = 1.0) -> Derivation:
    """How a layout was found, with the numbers put in."""
    step, memory = best.step, best.memory
    device = cluster.accelerator
    steps = (
        Step(
            what="layout",
            formula="the shortest predicted step of all divisions of the devices that fit in memory",
            value=f"{best.layout.words}; {examined:,} examined",
        ),
        Step(
            what="memory of a device",
            formula="weights + gradients + optimizer + activations + logits + reserve",
            value=memory_words(memory),
            source="arXiv 1910.02054, arXiv 2205.05198",
        ),
        Step(
            what="time of a step",
            formula="computing + tensor, pipeline, context and data parallelism that nothing hides + optimizer",
            value=f"{step.total_s:.3g} s for {job.tokens:,} tokens, {step.tokens_per_s:,.0f} tokens/s",
            source="docs/reference/planner.md",
        ),
        Step(
            what="utilisation",
            formula=f"{FORMULAS[step.convention]}, by {step.peak_flops / 1e12:,.1f} TFLOP/s a device ({job.precision})",
            value=f"{100 * step.mfu_share:.1f} % of peak (hardware FLOP {100 * step.hfu_share:.1f} %)",
        ),
    )
    warnings = []
    if job.precision not in device.reached_share:
        warnings.append(
            f"No published run tells what {job.precision} products reach on {device.name}; "
            f"{100 * device.reached_flops(job.precision) / step.peak_flops:.0f} % of the peak is assumed."
        )
    if factor_ratio != 1:
        warnings.append(f"Times are those of the model times {factor_ratio:.3g}, the calibration of {cluster.name}.")
    convention = f"{step.convention.value}: {FORMULAS[step.convention]}"
    return Derivation(steps=steps, rows=cluster.rows, conventions=(convention,), warnings=tuple(warnings))


def _candidates(order: list[tuple[Found, StepTime]], *, considered: int) -> tuple[Candidate, ...]:
    first, best = order[0]
    why = f"The fastest of {considered} divisions of the devices that fit; {memory_words(first.memory)}."
    found = [Candidate(layout=first.layout, memory=first.memory, step=best, why=why)]
    for one, step in order[1:]:
        why = slower_words(one.layout, step, best_layout=first.layout, best=best)
        found.append(Candidate(layout=one.layout, memory=one.memory, step=step, why=why))
    return tuple(found)


def _rejected(
    job: Job, small: list[Found], undealt: list[Layout], *, fits: set[tuple[int, ...]]
) -> tuple[Rejected, ...]:
    """Those that fail by least, of every kind of failure."""
    for_memory = [
        Rejected(layout=one.layout, why=f"It does not fit: {memory_words(one.memory)}.")
        for one in sorted(small, key=_needed)
        if (one.layout.tensor, one.layout.pipeline, one.layout.context, one.layout.sharded) not in fits
    ]
    for_batch = [
        Rejected(layout=one, why=f"{job.samples} sequences cannot be dealt to {one.data} groups of devices.")
        for one in undealt
    ]
    return (*for_memory[:_REJECTED], *for_batch[: _REJECTED - min(_REJECTED, len(for_memory))])


def _needed(found: Found) -> float:
    return found.memory.total_bytes


def _refusal(job: Job, cluster: Cluster, small: list[Found], undealt: list[Layout]) -> InvalidRequest:
    if not small:
        groups = min((layout.data for layout in undealt), default=1)
        return InvalidRequest(
            f"A batch of {job.samples} sequences cannot be dealt to {many(cluster.devices, 'device')} of "
            f"{cluster.name}.",
            remedy=f"Use a batch that is a multiple of {groups}, such as {_multiple(job.samples, groups)}, "
            "or another number of devices.",
            param="samples",
        )
    nearest = min(small, key=_needed)
    return InvalidRequest(
        f"The model of {job.model.parameters:,} weights does not fit on {many(cluster.devices, 'device')} of "
        f"{cluster.name}: at best ({nearest.layout.words}), {memory_words(nearest.memory)}.",
        remedy=_larger(job, cluster),
        param="devices",
    )


def _larger(job: Job, cluster: Cluster) -> str:
    """What would fit: more hosts, else nothing but a smaller model."""
    doubled = (cluster.hosts << times for times in range(1, _MOST_DOUBLINGS + 1))
    most = next((hosts for hosts in doubled if _fitting(job, cluster.of_hosts(hosts))), None)
    if most is None:
        device_gib = cluster.accelerator.memory_bytes / GIB_BYTES
        larger = f"devices with more than {device_gib:.0f} GiB"
        return f"No number of such devices is enough: use {larger}, or a shorter context."
    # Not every number above the least one fits, since groups have to divide it: the one that is found does.
    between = range(most // 2 + 1, most)
    hosts = most // 2 + 1 + bisect_left(between, True, key=lambda n: _fitting(job, cluster.of_hosts(n)) is not None)
    wider = cluster.of_hosts(hosts)
    found = _fitting(job, wider)
    assert found is not None
    batch = (
        ""
        if job.samples % found.layout.data == 0
        else f" and a batch of {_multiple(job.samples, found.layout.data)} sequences"
    )
    return f"{hosts} hosts ({wider.devices} devices){batch} are enough: {found.layout.words}."


def _fitting(job: Job, cluster: Cluster) -> Found | None:
    """A layout that fits where the batch suits any number of groups, so that memory alone decides."""
    roomy = replace(job, samples=cluster.devices)
    return next(
        (one for spread in spreads(job, cluster) for one in variants(roomy, spread, cluster) if one.memory.fits), None
    )


def _smaller(job: Job, layout: Layout, cluster: Cluster) -> str:
    """The nearest layout that fits: with the same division of the devices, else with another."""
    for one in variants(job, replace(layout, micro_samples=1, chunks=1, recompute="none"), cluster):
        if one.memory.fits:
            return f"{one.layout.words} fits."
    return f"{rank_layouts(job, cluster).best.layout.words} fits."


def _multiple(number: int, unit: int) -> int:
    """The multiple of `unit` that is nearest to `number`, and no less than one."""
    return max(1, round(number / unit)) * unit
