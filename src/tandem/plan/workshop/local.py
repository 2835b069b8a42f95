"""Runs of the workshop on paper: how long each stage takes on a CPU, or on another device that runs were measured on.

A step's time is a sum of products, each of a quantity that follows from the shapes and a rate that was measured:
products of matrices and attention at the measured peak, what passes through the layers and the vocabulary, the calls
of each layer, and the weights that the optimizer moves. The rates are fitted on whole runs (`make bench-plan`).
"""

import math
from dataclasses import dataclass
from typing import Literal

from tandem.kit.errors import InvalidRequest
from tandem.plan.derivation import Derivation, Step
from tandem.plan.flops import FORMULAS, Convention
from tandem.plan.model import ModelSize
from tandem.plan.reliability.formulas import workshop_interval_s
from tandem.plan.workshop.calibration import Factor

_MICRO_TOKENS = 2048  # that go through a CPU at once where the placement does not say: the workshop's own number
_NEWTON_SCHULZ = 5  # steps of Muon
_WEIGHT_BYTES = 4  # of fp32
_TABLE_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 1.0625}  # of a weight in the exported GGUF
_HALF_GAIN = 2.1  # the peak of bf16 by that of fp32, on the machine that the rates of CPUs were measured on


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the workshop does in a run, as far as its time depends on it."""

    model: ModelSize
    trained: int
    """Weights that are trained: all of them, or an adapter's."""
    optimizer: Literal["adamw", "muon"]
    half: bool
    """Whether the recipe lets products of matrices be computed in bf16."""
    samples: int
    """Sequences of a step."""
    sample_tokens: int
    """Tokens of a sequence on average: the context for packed documents, fewer for chats."""
    steps: int
    micro_samples: int
    """Sequences that go through at once; 0 lets the workshop choose."""
    workers: int
    evaluations: int
    evaluated_samples: int
    """Held-out sequences of one evaluation."""
    evaluation_passes: int
    """2 for documents, which are measured once more for bits per byte; else 1."""
    written_tokens: int
    """Tokens that the tasks at the end have the model write."""
    export: Literal["f32", "f16", "q8_0"]
    checkpoint_s: float
    """Seconds between two checkpoints; 0 finds Young's interval."""
    mean_time_to_failure_s: float
    """Between two failures of the system."""

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return self.samples * self.sample_tokens

    @property
    def micro_batches(self) -> int:
        """Of a step on one worker."""
        share = max(1, self.samples // self.workers)
        at_once = self.micro_samples or max(1, _MICRO_TOKENS // self.model.context)
        return math.ceil(share / min(at_once, share))

    @property
    def checkpoint_bytes(self) -> int:
        """The trained weights and what the optimizer knows of each: AdamW two numbers, Muon one."""
        moved = self._matrices if self.optimizer == "muon" else 0
        return _WEIGHT_BYTES * (3 * self.trained - moved)

    @property
    def _matrices(self) -> int:
        """Weights of the layers' matrices."""
        return self.model.layers * (self.model.layer_parameters - 2 * self.model.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a run computes on, all workers together."""

    name: str
    """Such as `measured bf16 GEMM 768x768x768, 2 threads`."""
    peak_flops: float
    """Of the precision that the run computes in."""
    half: bool
    """Whether that is bf16."""
    kind: Literal["cpu", "gpu"] = "cpu"
    """Which rates hold for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was measured of a kind of device. The ratios are times by those at the peak."""

    layers_ratio: float
    """Products of matrices in the layers."""
    head_ratio: float
    """Those of the output layer."""
    attention_ratio: float
    """Attention, all of it counted, though half is masked."""
    channel_s: float
    """What passes through a layer: for each token and channel, those of the width 8 times and of the feed-forward 3."""
    logit_s: float
    """Each token and word of the vocabulary: the softmax and its gradient."""
    call_s: float
    """Each layer of each micro-batch, whatever its size."""
    each_step_s: float
    """Each step, whatever its size: its batch is dealt, its norm taken, its record written."""
    weight_s: float
    """Each trained weight: its gradient, the norm, and the optimizer."""
    muon_ratio: float
    """Muon's products, which a CPU computes in fp32."""
    forward_ratio: float = 0.95
    """An evaluation's forward pass by a third of the step's, without what moves weights."""
    start_s: float = 4.0
    """Processes begin and end, the device is measured."""
    built_s: float = 3e-8
    """Each weight: made once to be trained."""
    written_token_s: float = 2.5e-3
    """Each layer and token that a task has written."""
    checkpoint_s: float = 0.005
    """A checkpoint, whatever its size."""
    checkpoint_bytes_per_s: float = 6.5e8
    """Of the last one, which is waited for."""
    copy_bytes_per_s: float = 4e9
    """Of the others, which are copied and written behind the training."""
    export_s: float = 0.015
    """The exported files, whatever their size."""
    export_bytes_per_s: float = 2e8
    """Written, and read again for their digests."""


STEP_RATES = (
    "layers_ratio",
    "head_ratio",
    "attention_ratio",
    "channel_s",
    "logit_s",
    "call_s",
    "each_step_s",
    "weight_s",
    "muon_ratio",
)
"""The rates that a step's time is a sum of."""

CPU = Rates(
    layers_ratio=1.32,
    head_ratio=2.2,
    attention_ratio=2.95,
    channel_s=1.2e-9,
    logit_s=5.1e-9,
    call_s=1.5e-3,
    each_step_s=6e-3,
    weight_s=3.55e-9,
    muon_ratio=2.45,
)
"""Of a server's CPU with two cores and AVX-512 with bf16 (AMD EPYC 9004), by `make bench-plan`."""

GPU = Rates(
    layers_ratio=1.8,
    head_ratio=2.0,
    attention_ratio=3.0,
    channel_s=1e-11,
    logit_s=1e-11,
    call_s=5e-4,
    each_step_s=3e-3,
    weight_s=2e-11,
    muon_ratio=1.5,
    start_s=15.0,
    built_s=3e-8,
    written_token_s=5e-4,
)
"""A guess, from the memory's bandwidth and some hundred launches for each layer: no run of ours was measured on one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The seconds of a run by what they were for, predicted or measured."""

    start_s: float
    """Processes begin and end, the net is built."""
    train_s: float
    evaluate_s: float
    checkpoint_s: float
    export_s: float
    lost_s: float
    """Steps taken twice after a failure."""

    @property
    def wall_s(self) -> float:
        """All of them."""
        return self.start_s + self.train_s + self.evaluate_s + self.checkpoint_s + self.export_s + self.lost_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run is expected to take."""

    stages: Stages
    step_s: float
    tokens_per_s: float
    mfu_share: float
    """Of the device's peak, by convention A."""
    derivation: Derivation


def quantities(work: Workload, device: Device) -> dict[str, float]:
    """What the rates of a step are multiplied with, by their names; seconds at the peak for ratios, else counts.

    A frozen weight has no gradient of its own, so of three passes two remain (`tandem.spec.flops`). Ratios are by the
    peak of bf16, which a device that computes in fp32 is given for comparison.
    """
    model, tokens = work.model, work.step_tokens
    peak_flops = device.peak_flops if device.half else _HALF_GAIN * device.peak_flops
    passes = 6.0 if work.trained >= model.parameters else 4.0
    matrices = model.layers * (model.layer_parameters - 2 * model.width)
    muon = _muon_flop(model) if work.optimizer == "muon" else 0.0
    return {
        "layers_ratio": passes * tokens * matrices / peak_flops,
        "head_ratio": 6.0 * tokens * model.vocab * model.width / peak_flops,
        "attention_ratio": 12.0 * tokens * model.layers * model.width * work.sample_tokens / peak_flops,
        "channel_s": float(tokens * model.layers * (8 * model.width + 3 * model.ffn)),
        "logit_s": float(tokens * model.vocab),
        "call_s": float(work.micro_batches * model.layers),
        "each_step_s": 1.0,
        "weight_s": float(work.trained),
        "muon_ratio": muon / peak_flops,
    }


def step_seconds(work: Workload, device: Device, rates: Rates) -> float:
    """One step: the sum of quantities times rates, and what products take longer in fp32."""
    parts = quantities(work, device)
    return float(sum(count * getattr(rates, name) for name, count in parts.items())) + exact_s(work, device)


def forecast(
    work: Workload, device: Device, *, rates: Rates | None = None, calibrated: Factor | None = None
) -> Forecast:
    """What a run takes, stage by stage, by the rates of the device's kind; `calibrated` by own runs of the system.

    Raises:
        InvalidRequest: there is nothing to do, or the batch cannot be shared by the workers.
    """
    if work.steps < 1 or work.samples % work.workers:
        raise InvalidRequest(
            f"A batch of {work.samples} samples on {work.workers} workers for {work.steps} steps is no run.",
            remedy="Use at least one step, and a number of workers that divides batch.samples.",
            param="workers",
        )
    rates = rates or (CPU if device.kind == "cpu" else GPU)
    train_ratio = calibrated.ratio.mid if calibrated is not None else 1.0
    step_s = step_seconds(work, device, rates) * train_ratio
    train_s = work.steps * step_s
    evaluate_s = _evaluate_s(work, device, rates) * train_ratio
    start_s = rates.start_s + work.model.parameters * rates.built_s
    last_s = rates.checkpoint_s + work.checkpoint_bytes / rates.checkpoint_bytes_per_s
    interval_s = work.checkpoint_s or workshop_interval_s(checkpoint_s=last_s, mean_s=work.mean_time_to_failure_s)
    during = math.floor((train_s + evaluate_s) / interval_s)
    checkpoint_s = last_s + during * work.checkpoint_bytes / rates.copy_bytes_per_s
    written = work.model.parameters * (_WEIGHT_BYTES + _TABLE_BYTES[work.export])
    busy_s = start_s + train_s + evaluate_s + checkpoint_s
    # Of each failure half an interval on average, and the start: u0 + interval / 2 (arXiv 2410.21680).
    lost_s = busy_s / work.mean_time_to_failure_s * (start_s + min(interval_s, train_s) / 2)
    stages = Stages(
        start_s=start_s,
        train_s=train_s,
        evaluate_s=evaluate_s,
        checkpoint_s=checkpoint_s,
        export_s=rates.export_s + written / rates.export_bytes_per_s,
        lost_s=lost_s,
    )
    utilisation = work.model.token_flop(Convention.A) * work.step_tokens / step_s / device.peak_flops
    return Forecast(
        stages=stages,
        step_s=step_s,
        tokens_per_s=work.step_tokens / step_s,
        mfu_share=utilisation,
        derivation=_derivation(work, device, rates, calibrated, step_s),
    )


def _evaluate_s(work: Workload, device: Device, rates: Rates) -> float:
    """All evaluations: forward passes over the held-out samples, and what the tasks have written at the end."""
    parts = {name: count for name, count in quantities(work, device).items() if name not in {"weight_s", "muon_ratio"}}
    passing = sum(count * getattr(rates, name) for name, count in parts.items()) + exact_s(work, device)
    sample_s = rates.forward_ratio * passing / 3 / work.samples
    samples = work.evaluations * work.evaluated_samples * work.evaluation_passes
    return float(samples * sample_s + work.written_tokens * work.model.layers * rates.written_token_s)


def exact_s(work: Workload, device: Device) -> float:
    """Seconds that a step's products take longer in fp32 than in bf16: those at the peak alone. What they take beyond
    it, for memory and for shapes that do not fill the cores, is taken to be the same.
    """
    if device.half:
        return 0.0
    parts = quantities(work, device)
    return (_HALF_GAIN - 1) * (parts["layers_ratio"] + parts["head_ratio"] + parts["attention_ratio"])


def _muon_flop(model: ModelSize) -> float:
    """Of a step: five Newton-Schulz steps for each matrix of the layers, each two products with the small side squared
    and one of the small side cubed.
    """
    matrices = [(model.width, model.width)] * 2 + [(model.width, model.kv_width)] * 2 + [(model.width, model.ffn)] * 3
    each = sum(4.0 * min(pair) ** 2 * max(pair) + 2.0 * min(pair) ** 3 for pair in matrices)
    return _NEWTON_SCHULZ * model.layers * each


def _derivation(work: Workload, device: Device, rates: Rates, calibrated: Factor | None, step_s: float) -> Derivation:
    parts = {name: count * getattr(rates, name) for name, count in quantities(work, device).items()}
    most = sorted(parts, key=lambda name: -parts[name])[:3]
    whole = sum(parts.values())
    shares = ", ".join(f"{name.rsplit('_', 1)[0]} {parts[name] / whole:.0%}" for name in most)
    steps = [
        *([calibrated.step] if calibrated is not None else []),
        Step(
            what="time of a step",
            formula="sum of quantities and measured rates, times the calibration",
            value=f"{step_s:.3g} s, of it {shares}",
            source="rates of the workshop's own runs, benchmarks/results/plan.json",
        ),
        Step(
            what="training",
            formula="steps x time of a step",
            value=f"{work.steps:,} x {step_s:.3g} s = {work.steps * step_s:.3g} s",
        ),
    ]
    warnings = []
    if work.half and not device.half:
        warnings.append("The device computes this bf16 recipe in fp32.")
    if device.kind == "gpu" and not (calibrated and calibrated.runs):
        warnings.append("The rates of GPUs are a guess until a run of this system has been measured.")
    return Derivation(
        steps=tuple(steps),
        rows=(f"device {device.name}: {device.peak_flops:.3g} FLOP/s",),
        conventions=(FORMULAS[Convention.A], f"peak: {device.name}"),
        warnings=tuple(warnings),
    )
