"""Plans written down: the recipe and the placement of a way to train, as tables, for what the workshop can run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster
from tandem.plan.layout import Candidate, Job, Layout, memory_of, step_time
from tandem.plan.layout.job import divisors
from tandem.plan.quote.answer import Quote
from tandem.plan.quote.pace import Way
from tandem.plan.reliability import Faults
from tandem.plan.scaling import peak_rate
from tandem.plan.units import GIB_BYTES, YEAR_S, parameters_text

EXAMPLE_DATA: tuple[Mapping[str, Any], ...] = ({"format": "code", "source": "stdlib:", "license": "PSF-2.0"},)
"""What is always there: Python's own standard library."""

_MOST_VOCAB, _LEAST_VOCAB = 2**18, 263  # of a recipe's tokenizer
_MOST_TOKENS = 2**40  # that a recipe's budget can say; beyond it says steps
_WARM_UP_STEPS, _WARM_UP_PARTS = 2_000, 50  # steps, or a fiftieth of all (arXiv 2401.02954 takes 2,000)
_LONG_CONTEXT, _LONG_THETA = 8_192, 500_000.0  # Llama 3's rotary base for long contexts
_MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A recipe and a placement, as `spec.parse_recipe` and `spec.parse_placement` read them."""

    recipe: dict[str, Any]
    placement: dict[str, Any]
    warnings: tuple[str, ...]
    """Where the workshop cannot do what was planned, and what is still to be filled in."""


def written(
    quote: Quote,
    cluster: Cluster,
    *,
    way: Way | None = None,
    name: str = "",
    data: Sequence[Mapping[str, Any]] = EXAMPLE_DATA,
) -> Written:
    """The recipe and the placement of a quote on its system, or of one of its alternatives.

    The workshop has data parallelism, whole or sharded, and keeps all activations; where the best layout needs more
    than that, the placement is the best of those that it has, and a warning says so.

    Raises:
        InvalidRequest: no recipe can say it: the vocabulary is too large or too small for the workshop's tokenizer.
    """
    chosen = way or quote
    if not _LEAST_VOCAB <= chosen.model.vocab <= _MOST_VOCAB:
        raise InvalidRequest(
            f"The workshop's tokenizer has {_LEAST_VOCAB} to {_MOST_VOCAB:,} tokens, the plan {chosen.model.vocab:,}.",
            remedy=f"Ask for a vocabulary of {min(max(chosen.model.vocab, _LEAST_VOCAB), _MOST_VOCAB):,}.",
            param="vocab",
        )
    runnable, doubts = _runnable(quote, chosen, cluster)
    return Written(
        recipe=_recipe(quote, chosen, name=name or f"plan-{parameters_text(chosen.model.parameters)}", data=data),
        placement=_placement(quote, chosen, cluster, runnable),
        warnings=(*doubts, *_warnings(quote, chosen, data)),
    )


def _recipe(quote: Quote, way: Way, *, name: str, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shape = way.model.shape
    if way.model.context >= _LONG_CONTEXT:
        shape = msgspec.structs.replace(shape, rope_theta=_LONG_THETA)
    tokens = way.tokens <= _MOST_TOKENS
    return {
        "name": name,
        "about": f"{parameters_text(way.model.parameters)} weights, {parameters_text(way.tokens)} tokens, as planned.",
        "precision": "fp32" if quote.ask.precision == "fp32" else "bf16",
        "model": {"shape": msgspec.to_builtins(shape)},
        "tokenizer": {"vocab": way.model.vocab},
        "data": [dict(one) for one in data],
        "objective": {"name": "lm"},
        "optimizer": {
            "lr": float(f"{peak_rate(way.flop):.2g}"),
            "warmup_steps": min(_WARM_UP_STEPS, way.steps // _WARM_UP_PARTS),
        },
        "batch": {"samples": way.samples, "context": way.model.context},
        "budget": {"tokens": way.tokens} if tokens else {"steps": way.steps},
    }


def _placement(quote: Quote, way: Way, cluster: Cluster, runnable: Candidate) -> dict[str, Any]:
    layout = runnable.layout
    faults = Faults.of(cluster.of_hosts(way.hosts), checkpoint_s=1.0)
    limits: dict[str, float] = {}
    if quote.ask.span_s is not None:
        # As long as nine of ten such runs take: a limit at the mean would pause every other one just before its end.
        limits["wall_s"] = float(math.ceil(max(quote.ask.span_s, way.wall_s.high)))
    if quote.ask.budget_usd is not None:
        limits["usd"] = float(quote.ask.budget_usd)
    return {
        "system": cluster.name,
        "workers": layout.devices,
        "sharding": "fsdp" if layout.sharded else "ddp",
        # A device by itself: the workshop finds by its caches or free memory what goes through at once.
        "micro_samples": layout.micro_samples if layout.devices > 1 else 0,
        # The interval is left to the workshop, which measures what a save costs.
        "checkpoints": {"mtbf_s": round(min(faults.mean_s, YEAR_S), 1)},
        **({"limits": limits} if limits else {}),
    }


def _runnable(quote: Quote, way: Way, cluster: Cluster) -> tuple[Candidate, list[str]]:
    """The fastest layout that the workshop has, and in words what that costs against the planned one."""
    job = Job(model=way.model, samples=way.samples, precision=quote.ask.precision)
    workers = _dealt(way, cluster)
    every = _layouts(job, workers, cluster.of_hosts(math.ceil(workers / cluster.host.devices)))
    fitting = [one for one in every if one.memory.fits]
    best = min(fitting, key=lambda one: one.step.total_s) if fitting else every[-1]
    doubts = []
    if not fitting:
        needed, there = best.memory.total_bytes / GIB_BYTES, best.memory.device_bytes / GIB_BYTES
        doubts.append(
            f"The workshop cannot run this placement: it has data parallelism and keeps all activations, so a device "
            f"needs {needed:,.1f} GiB and has {there:,.1f}. Ask for a smaller model or a shorter context, or use a "
            f"trainer that can do {way.layout.layout.words}."
        )
    elif _beyond(way.layout.layout):
        ratio = way.layout.step.tokens_per_s / best.step.tokens_per_s
        doubts.append(
            f"The best layout ({way.layout.layout.words}) needs what the workshop does not have: it has data "
            f"parallelism only. The placement is the best of that ({best.layout.words}), and takes {ratio:.3g} times "
            "as long."
        )
    if workers < way.devices:
        doubts.append(
            f"{way.samples:,} sequences are dealt to {workers:,} workers, not to all {way.devices:,} devices."
        )
    return best, doubts


def _dealt(way: Way, cluster: Cluster) -> int:
    """The most workers, on whole hosts or a part of one, that the batch can be dealt to."""
    each = cluster.host.devices
    return max(
        workers
        for workers in divisors(way.samples)
        if workers <= way.devices and (workers <= each or workers % each == 0)
    )


def _layouts(job: Job, workers: int, cluster: Cluster) -> list[Candidate]:
    """Those that the workshop has, from the largest to the smallest of what a device holds."""
    share = job.samples // workers
    at_once = [2**power for power in range(_MOST_AT_ONCE.bit_length()) if share % 2**power == 0]
    every = [
        Layout(data=workers, sharded=sharded, micro_samples=micro)
        for sharded in ((False, True) if workers > 1 else (False,))
        for micro in reversed([one for one in at_once if one <= _MOST_AT_ONCE])
    ]
    return [
        Candidate(layout=one, memory=memory_of(job, one, cluster), step=step_time(job, one, cluster), why="")
        for one in every
    ]


def _beyond(layout: Layout) -> bool:
    """Whether the workshop lacks something that a layout needs."""
    plain = replace(layout, tensor=1, pipeline=1, context=1, chunks=1, recompute="none")
    return plain != layout


def _warnings(quote: Quote, way: Way, data: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    if quote.ask.precision not in {"fp32", "bf16"}:
        found.append(f"The workshop has no {quote.ask.precision}: the recipe says bf16, which is slower.")
    if tuple(data) == EXAMPLE_DATA:
        found.append(
            f"The data are an example, Python's standard library: name yours. The plan counts on "
            f"{parameters_text(way.tokens)} tokens that are seen once; up to four times is nearly as good "
            "(arXiv 2305.16264)."
        )
    if quote.ask.budget_usd is not None:
        found.append("The limit in the placement is the whole budget: a run that takes longer than expected is paused.")
    return found
