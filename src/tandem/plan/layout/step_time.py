"""Time of a step: products, attention and memory traffic of a device, and the communication that nothing hides."""

import math
from dataclasses import dataclass, replace

from tandem.plan.catalogue import Accelerator, Cluster, Precision
from tandem.plan.flops import Convention, utilisation
from tandem.plan.layout.collectives import Wires, wires_of
from tandem.plan.layout.job import Job, Layout, Recompute
from tandem.plan.layout.memory import kept_bytes, stage_parameters

# Constants of kernels, fitted on published rows: docs/reference/planner.md says which, and shows the others.
_TRAFFIC_RATIO = 9.3  # bytes read and written by the operations between products, by the bytes kept
_LAYER_S = 1e-3  # starting the kernels of a layer, forward and backward
_OPTIMIZER_BYTES = 30.0  # read and written a weight
_TENSOR_EXPOSED_SHARE = 1.0
_DATA_HIDDEN_SHARE = 0.7  # of computing, behind which gathering and reducing can hide
_STRAGGLER_SHARE = 0.005  # of a step, for each doubling of the hosts
_RING_SHARE = 0.1  # by which attention takes longer for each doubling of its ring
_FORWARD_AGAIN: dict[Recompute, float] = {"none": 0.0, "selective": 0.5, "full": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The parts of a step in seconds; they add up."""

    compute_s: float
    tensor_s: float
    """Tensor-parallel communication that computing does not hide."""
    pipeline_s: float
    """The bubble, and handing over between stages."""
    context_s: float
    data_s: float
    """Gathering weights and reducing gradients where computing does not hide it, and waiting for the slowest host."""
    optimizer_s: float
    tokens_per_s: float
    """Of all devices."""
    mfu_share: float
    """Model FLOP of the convention, by the peak of all devices."""
    hfu_share: float
    """The same with what is computed twice."""
    convention: Convention
    peak_flops: float
    """Of one device, dense, in the job's precision."""

    @property
    def total_s(self) -> float:
        """All parts."""
        return self.compute_s + self.tensor_s + self.pipeline_s + self.context_s + self.data_s + self.optimizer_s

    def scaled(self, ratio: float) -> "StepTime":
        """The same step where all of it takes `ratio` times as long."""
        return replace(
            self,
            compute_s=ratio * self.compute_s,
            tensor_s=ratio * self.tensor_s,
            pipeline_s=ratio * self.pipeline_s,
            context_s=ratio * self.context_s,
            data_s=ratio * self.data_s,
            optimizer_s=ratio * self.optimizer_s,
            tokens_per_s=self.tokens_per_s / ratio,
            mfu_share=self.mfu_share / ratio,
            hfu_share=self.hfu_share / ratio,
        )


def step_time(
    job: Job,
    layout: Layout,
    cluster: Cluster,
    *,
    factor_ratio: float = 1.0,
    convention: Convention = Convention.A,
) -> StepTime:
    """The predicted time of a step; `factor_ratio` is what own runs took by what was predicted for them."""
    parts = {name: factor_ratio * part_s for name, part_s in _parts(job, layout, cluster).items()}
    tokens_per_s = job.tokens / sum(parts.values())
    peak = cluster.accelerator.peak_of(job.precision)
    flop = job.model.token_flop(convention) * (2 / 3 if job.frozen else 1.0)
    mfu = utilisation(token_flop=flop, tokens_per_s=tokens_per_s, peak_flops=peak * cluster.devices)
    return StepTime(
        **parts,
        tokens_per_s=tokens_per_s,
        mfu_share=mfu,
        hfu_share=mfu * (1 + _FORWARD_AGAIN[layout.recompute] / 3),
        convention=convention,
        peak_flops=peak,
    )


def _parts(job: Job, layout: Layout, cluster: Cluster) -> dict[str, float]:
    """The parts of a step by the names of `StepTime`."""
    device, wires = cluster.accelerator, wires_of(layout, cluster)
    many, layers = layout.micro_batches(job), job.model.layers
    layer_s = _layer_s(job, layout, device)
    stage_layers = math.ceil(layers / layout.pipeline)
    # Stages are balanced as well as whole layers allow, the logits counted.
    compute_s = max(stage_layers * layer_s, (layers * layer_s + _logits_s(job, layout, device)) / layout.pipeline)
    tensor_s = stage_layers * _tensor_s(job, layout, wires)
    context_s = stage_layers * _context_s(job, layout, device, wires)
    busy_s = compute_s + tensor_s + context_s
    slowest_s = many * busy_s * _STRAGGLER_SHARE * math.log2(cluster.hosts)
    return {
        "compute_s": many * compute_s,
        "tensor_s": many * tensor_s,
        "context_s": many * context_s,
        "pipeline_s": _pipeline_s(job, layout, wires, busy_s=busy_s),
        "data_s": _data_s(job, layout, wires, compute_s=many * compute_s) + slowest_s,
        "optimizer_s": _optimizer_s(job, layout, device),
    }


def _passes(job: Job, layout: Layout) -> float:
    """Passes over a layer's products: forward, two backward, and forward again; frozen weights have no gradient."""
    return (2 if job.frozen else 3) + _FORWARD_AGAIN[layout.recompute]


def _layer_s(job: Job, layout: Layout, device: Accelerator) -> float:
    """Of a micro-batch, forward and backward."""
    model, tokens = job.model, layout.micro_tokens(job)
    weights = model.layer_parameters - 2 * model.width
    products = _passes(job, layout) * 2.0 * weights * tokens / layout.tensor
    again = _FORWARD_AGAIN[layout.recompute] / 3
    traffic = _TRAFFIC_RATIO * (1 + again) * kept_bytes(model, "none") * tokens / layout.tensor
    return (
        products / device.reached_flops(job.precision)
        + _attention_s(job, layout, device)
        + traffic / device.memory_bytes_per_s
        + _LAYER_S * (1 + again)
    )


def _attention_s(job: Job, layout: Layout, device: Accelerator) -> float:
    """Of a layer and a micro-batch: half the square of the context, forward two products, backward five."""
    passes = 3.5 + (1.0 if layout.recompute == "full" else 0.0)
    flop = passes * 2.0 * job.model.width * job.model.context * layout.micro_tokens(job) / layout.tensor
    ring = 1 + _RING_SHARE * math.log2(layout.context)
    return ring * flop / (device.peak_of(wide_of(device)) * device.attention_share)


def _logits_s(job: Job, layout: Layout, device: Accelerator) -> float:
    """The output layer's products in the wide precision, and the traffic of its logits."""
    tokens, vocab = layout.micro_tokens(job), job.model.vocab
    products = (2 if job.frozen else 3) * 2.0 * vocab * job.model.width * tokens / layout.tensor
    traffic = 24.0 * vocab * tokens / layout.tensor  # bytes
    return products / device.reached_flops(wide_of(device)) + traffic / device.memory_bytes_per_s


def wide_of(device: Accelerator) -> Precision:
    """What attention and logits are computed in, whatever the products are."""
    known: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
    return next(precision for precision in known if precision in device.peak_flops)


def _tensor_s(job: Job, layout: Layout, wires: Wires) -> float:
    """Of a layer and a micro-batch: two all-reduces forward and two backward (arXiv 1909.08053)."""
    if layout.tensor == 1:
        return 0.0
    times = 4 + (2 if layout.recompute == "full" else 0)
    sent = 2 * (layout.tensor - 1) / layout.tensor * 2.0 * layout.micro_tokens(job) * job.model.width
    return _TENSOR_EXPOSED_SHARE * times * sent / wires.tensor_bytes_per_s


def _context_s(job: Job, layout: Layout, device: Accelerator, wires: Wires) -> float:
    """Of a layer and a micro-batch: keys and values of the others, hidden behind attention (arXiv 2310.01889)."""
    if layout.context == 1:
        return 0.0
    held = 2 * 2.0 * layout.micro_tokens(job) * job.model.kv_width / min(layout.tensor, job.model.kv_heads)
    sent_s = 3 * (layout.context - 1) * held / wires.context_bytes_per_s
    return max(0.0, sent_s - _attention_s(job, layout, device)) + 3 * (layout.context - 1) * wires.hop_s


def _pipeline_s(job: Job, layout: Layout, wires: Wires, *, busy_s: float) -> float:
    """Of a step: the bubble (arXiv 2104.04473), and handing over activations and their gradients."""
    if layout.pipeline == 1:
        return 0.0
    sent = 2 * 2.0 * layout.micro_tokens(job) * job.model.width / layout.tensor
    handover_s = layout.micro_batches(job) * layout.chunks * sent / wires.stage_bytes_per_s
    return (layout.pipeline - 1) / layout.chunks * busy_s + handover_s


def _data_s(job: Job, layout: Layout, wires: Wires, *, compute_s: float) -> float:
    """Of a step: what computing does not hide of gathering weights and reducing gradients."""
    group = layout.data * layout.context
    if group == 1:
        return 0.0
    held, part = stage_parameters(job.model, layout), (group - 1) / group
    trained = held * min(1.0, job.trained / job.model.parameters)
    many = layout.micro_batches(job)
    if not layout.sharded:
        sent, times = 2 * 4.0 * trained, 2.0
    elif layout.pipeline > 1:
        sent, times = 2.0 * held + 4.0 * trained, 2.0
    else:
        sent, times = many * (4.0 * held + 4.0 * trained), 3.0 * many
    layers = math.ceil(job.model.layers / layout.pipeline)
    taken_s = sent * part / wires.data_bytes_per_s + times * layers * wires.data_latency_s
    hidden = compute_s if layout.sharded and layout.pipeline == 1 else 2 / 3 * compute_s / many
    return max(taken_s - _DATA_HIDDEN_SHARE * hidden, wires.data_latency_s)


def _optimizer_s(job: Job, layout: Layout, device: Accelerator) -> float:
    held = stage_parameters(job.model, layout) * min(1.0, job.trained / job.model.parameters)
    shards = layout.data * layout.context if layout.sharded else 1
    return _OPTIMIZER_BYTES * held / shards / device.memory_bytes_per_s
