"""The layouts that are worth a look: divisors only, and as little recomputation as memory asks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tandem.plan.catalogue import Cluster
from tandem.plan.layout.job import RECOMPUTES, Job, Layout, divisors, splits_heads
from tandem.plan.layout.memory import Memory, memory_of

_SHORTEST_PIECE = 2_048  # tokens of a sequence on a device; shorter pieces only add communication
_CHUNKS = (1, 2, 4)
_MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A layout and what it needs; it may not fit."""

    layout: Layout
    memory: Memory


def spreads(job: Job, cluster: Cluster, *, tensor_across_hosts: bool = False) -> Iterator[Layout]:
    """Every way to divide the devices into groups, before the batch is looked at."""
    devices = cluster.devices
    for tensor in divisors(devices):
        if not splits_heads(job.model, tensor) or (cluster.host.devices % tensor and not tensor_across_hosts):
            continue
        for pipeline in divisors(devices // tensor):
            if pipeline > job.model.layers:
                break
            for context in divisors(devices // tensor // pipeline):
                piece = job.model.context // context
                if job.model.context % context or (context > 1 and piece < _SHORTEST_PIECE):
                    continue
                yield Layout(
                    data=devices // tensor // pipeline // context, tensor=tensor, pipeline=pipeline, context=context
                )


def variants(job: Job, spread: Layout, cluster: Cluster) -> Iterator[Found]:
    """What can still be chosen of a way to divide: sharding, chunks, sequences at once, recomputation.

    For each the least recomputation that fits, as less is always faster; where nothing fits, the smallest.
    """
    if job.samples % spread.data:
        return
    kinds = (True, False) if spread.data * spread.context > 1 else (False,)
    for sharded in kinds:
        for chunks in _CHUNKS if spread.pipeline > 1 else (1,):
            if spread.pipeline * chunks <= job.model.layers:
                yield from _at_once(job, replace(spread, sharded=sharded, chunks=chunks), cluster)


def _at_once(job: Job, layout: Layout, cluster: Cluster) -> Iterator[Found]:
    share, micro = job.samples // layout.data, 1
    while micro <= min(share, _MOST_AT_ONCE) and share % micro == 0:
        # Interleaved stages take micro-batches in rounds of as many as there are stages (arXiv 2104.04473).
        if layout.chunks == 1 or share // micro % layout.pipeline == 0:
            found = _least_recomputed(job, replace(layout, micro_samples=micro), cluster)
            yield found
            if not found.memory.fits:
                return
        micro *= 2


def _least_recomputed(job: Job, layout: Layout, cluster: Cluster) -> Found:
    for recompute in RECOMPUTES[:-1]:
        one = replace(layout, recompute=recompute)
        memory = memory_of(job, one, cluster)
        if memory.fits:
            return Found(layout=one, memory=memory)
    smallest = replace(layout, recompute=RECOMPUTES[-1])
    return Found(layout=smallest, memory=memory_of(job, smallest, cluster))
