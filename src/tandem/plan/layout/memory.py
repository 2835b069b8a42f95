"""Memory of a device: weights, gradients, optimizer, activations and logits of the fullest stage of a layout."""

import math
from dataclasses import dataclass

from tandem.plan.catalogue import Cluster
from tandem.plan.layout.job import Job, Layout, Recompute
from tandem.plan.model import ModelSize

_WIDE_BYTES, _NARROW_BYTES = 4, 2  # float32; what products are computed in, whatever is below it
_MOMENTS_BYTES = 8  # AdamW: two of float32
_LOGIT_BYTES = 10  # a logit as it is computed, in float32, and its gradient
_RESERVE_SHARE = 0.05  # fragments of the allocator
_RESERVE_BYTES = 2 * 2**30  # libraries, communication


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a device holds at its fullest; the parts are those of the stage that needs most."""

    weights_bytes: float
    """As computed with, gathered ones included."""
    gradients_bytes: float
    optimizer_bytes: float
    """Weights in float32 and AdamW's two moments."""
    activations_bytes: float
    logits_bytes: float
    reserve_bytes: float
    """Libraries, communication and the allocator's fragments."""
    device_bytes: int
    """What the device has."""

    @property
    def total_bytes(self) -> float:
        """All parts."""
        states = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return states + self.activations_bytes + self.logits_bytes + self.reserve_bytes

    @property
    def fits(self) -> bool:
        """Whether the device has that much."""
        return self.total_bytes <= self.device_bytes


def memory_of(job: Job, layout: Layout, cluster: Cluster) -> Memory:
    """What a device of the layout holds.

    Weights, gradients and optimizer as in arXiv 1910.02054 (mixed precision with AdamW: 16 to 18 bytes a weight), over
    the data and context groups where sharded; activations by `kept_bytes`.
    """
    states = _states(job, layout)
    tokens = layout.micro_tokens(job) / layout.tensor
    layers = math.ceil(job.model.layers / layout.pipeline)
    kept = kept_bytes(job.model, layout.recompute)
    # The layer that is computed again stands in memory whole.
    again = kept_bytes(job.model, "none") - kept if layout.recompute != "none" else 0.0
    # Sequences are gathered for the products of a tensor group: input, result and gradient of the layer that computes.
    again += 3 * 2.0 * job.model.width * layout.tensor if layout.tensor > 1 else 0.0
    first = tokens * (layers * kept * _in_flight(job, layout) + again)
    last = tokens * (layers * kept + again) if layout.pipeline > 1 else first
    logits = tokens * job.model.vocab * _LOGIT_BYTES
    fuller_last = last + logits >= first
    return Memory(
        weights_bytes=states[0],
        gradients_bytes=states[1],
        optimizer_bytes=states[2],
        activations_bytes=last if fuller_last else first,
        logits_bytes=logits if fuller_last else 0.0,
        reserve_bytes=_RESERVE_BYTES + _RESERVE_SHARE * cluster.accelerator.memory_bytes,
        device_bytes=cluster.accelerator.memory_bytes,
    )


def kept_bytes(model: ModelSize, recompute: Recompute) -> float:
    """Bytes that a layer keeps of a token for the backward pass, whole, before tensor parallelism divides them.

    As arXiv 2205.05198 counts them for GPT (34 h), for gated layers, grouped heads, fused kernels and no dropout, two
    bytes each: the inputs of both norms and their results, queries, keys, values, attention's result (12 h + 4 k), and
    gate, up and their product (6 f). Selective recomputation keeps the layer's input, attention's result and every
    second product of matrices, as torchtitan does (8 h + 2 k + 2 f); full keeps the layer's input only (2 h).
    """
    if recompute == "full":
        return 2.0 * model.width
    if recompute == "selective":
        return 8.0 * model.width + 2.0 * model.kv_width + 2.0 * model.ffn
    return 12.0 * model.width + 4.0 * model.kv_width + 6.0 * model.ffn


def stage_parameters(model: ModelSize, layout: Layout) -> float:
    """Weights of a device's share of the fullest stage, gathered: its layers and a table; all tables if it is alone."""
    if layout.pipeline == 1:
        return model.parameters / layout.tensor
    layers = math.ceil(model.layers / layout.pipeline)
    return (layers * model.layer_parameters + model.embedding_parameters) / layout.tensor


def _in_flight(job: Job, layout: Layout) -> float:
    """Micro-batches whose activations the first stage keeps: as many as there are stages; interleaved more
    (arXiv 2205.05198, section 4.2.3).
    """
    stages = layout.pipeline
    extra = (stages - 1) / layout.chunks if layout.chunks > 1 else 0.0
    return min(float(layout.micro_batches(job)), stages + extra)


def _states(job: Job, layout: Layout) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer."""
    held = stage_parameters(job.model, layout)
    trained = held * min(1.0, job.trained / job.model.parameters)
    master = _WIDE_BYTES if job.precision != "fp32" else 0
    working = _NARROW_BYTES if job.precision != "fp32" else _WIDE_BYTES
    if not layout.sharded:
        return held * working, trained * _WIDE_BYTES, trained * (master + _MOMENTS_BYTES)
    group = layout.data * layout.context
    optimizer = trained * (master + _MOMENTS_BYTES) / group
    if layout.pipeline > 1:
        return held * working, trained * _WIDE_BYTES, optimizer
    # The layer that computes and the next one are there as a whole, or the table.
    whole = max(2 * job.model.layer_parameters, job.model.embedding_parameters) / layout.tensor
    # Frozen weights are sharded as they are computed with; trained ones are cast from those of the optimizer.
    kept = held * working / group if job.frozen or not master else 0.0
    return kept + whole * working, trained * _WIDE_BYTES / group + min(whole, trained) * _WIDE_BYTES, optimizer
