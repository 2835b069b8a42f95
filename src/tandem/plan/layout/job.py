"""Jobs and layouts: what a step of training is and how it is spread over devices; refusals name a way out."""

from dataclasses import dataclass
from typing import Literal

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import many
from tandem.plan.catalogue import Cluster, Precision
from tandem.plan.model import ModelSize

Recompute = Literal["none", "selective", "full"]
"""What the backward pass computes again in place of keeping it: nothing, all but the products, whole layers."""

RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
"""From the fastest to the smallest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A step of training: a model and a batch of `samples` sequences, each as long as the model's context."""

    model: ModelSize
    samples: int
    precision: Precision = "bf16"
    trained_parameters: int | None = None
    """Weights that are trained, such as those of a LoRA adapter; all of them where nobody says."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InvalidRequest(
                f"A batch of {self.samples} sequences is none.", remedy="Ask for 1 or more.", param="samples"
            )
        if not 1 <= self.trained < 2**63:
            raise InvalidRequest(
                f"{self.trained} weights cannot be trained.", remedy="Ask for 1 or more.", param="trained_parameters"
            )

    @property
    def trained(self) -> int:
        """How many weights are trained."""
        return self.model.parameters if self.trained_parameters is None else self.trained_parameters

    @property
    def frozen(self) -> bool:
        """Whether the model's own weights stay as they are."""
        return self.trained_parameters is not None

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.samples * self.model.context


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a step is spread: devices = data x tensor x pipeline x context.

    `sharded` spreads weights, gradients and optimizer over the data and context groups: in one stage the weights are
    gathered layer by layer for each micro-batch (ZeRO-3, FSDP: arXiv 1910.02054); between several stages they are
    gathered once a step, as Llama 3 was trained (arXiv 2407.21783).
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    sharded: bool = True
    micro_samples: int = 1
    """Sequences that a group of devices computes at once."""
    recompute: Recompute = "none"
    chunks: int = 1
    """Pieces of a stage, when stages are interleaved (arXiv 2104.04473)."""

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "pipeline", "context", "micro_samples", "chunks"):
            if getattr(self, name) < 1:
                raise InvalidRequest(
                    f"A layout with {name} = {getattr(self, name)} is none.", remedy="Ask for 1 or more.", param=name
                )

    @property
    def devices(self) -> int:
        """All that it takes."""
        return self.data * self.tensor * self.pipeline * self.context

    def micro_batches(self, job: Job) -> int:
        """How many a step has, one after the other on the same devices."""
        return job.samples // (self.data * self.micro_samples)

    def micro_tokens(self, job: Job) -> int:
        """Tokens that a device computes at once; those of a context group share its sequences."""
        return self.micro_samples * job.model.context // self.context

    @property
    def words(self) -> str:
        """For people: `data 8 (sharded) x tensor 8 x pipeline 4 (2 chunks), 1 sequence at once, full recomputation`."""
        parts = [f"data {self.data}{' (sharded)' if self.sharded else ''}"]
        parts += [f"{name} {size}" for name, size in (("tensor", self.tensor), ("context", self.context)) if size > 1]
        if self.pipeline > 1:
            parts.append(f"pipeline {self.pipeline}{f' ({self.chunks} chunks)' if self.chunks > 1 else ''}")
        many = "sequence" if self.micro_samples == 1 else "sequences"
        again = "no" if self.recompute == "none" else self.recompute
        return f"{' x '.join(parts)}, {self.micro_samples} {many} at once, {again} recomputation"


def check_layout(job: Job, layout: Layout, cluster: Cluster, *, tensor_across_hosts: bool = False) -> None:
    """Refuse a layout that cannot be, whatever memory there is.

    Raises:
        InvalidRequest: devices, heads, layers, sequences or hosts do not divide; names the nearest that does.
    """
    _check_tensor(job, layout, cluster, tensor_across_hosts=tensor_across_hosts)
    if layout.devices != cluster.devices:
        inner = layout.tensor * layout.pipeline * layout.context
        fit = cluster.devices // inner
        nearest = f"With {inner} devices a replica" if fit else f"A replica alone takes {inner} devices:"
        nearest += f" data = {fit} uses {fit * inner} of them." if fit else " make one of the three smaller."
        raise InvalidRequest(
            f"The layout takes {many(layout.devices, 'device')}, {cluster.name} has {cluster.devices}.",
            remedy=nearest,
            param="data",
        )
    if layout.pipeline * layout.chunks > job.model.layers:
        raise InvalidRequest(
            f"{layout.pipeline} stages of {layout.chunks} chunks need as many layers; there are {job.model.layers}.",
            remedy=f"Use at most {job.model.layers // layout.chunks or 1} stages.",
            param="pipeline",
        )
    if job.model.context % layout.context:
        raise InvalidRequest(
            f"A context of {job.model.context} tokens cannot be split over {layout.context} devices.",
            remedy=f"Use {nearest_divisor(job.model.context, layout.context)}.",
            param="context",
        )
    if job.samples % (layout.data * layout.micro_samples):
        unit = layout.data * layout.micro_samples
        raise InvalidRequest(
            f"A batch of {job.samples} sequences cannot be dealt to {layout.data} groups of devices, "
            f"{layout.micro_samples} at a time.",
            remedy=f"Use a batch of {max(unit, round(job.samples / unit) * unit)} sequences.",
            param="samples",
        )


def _check_tensor(job: Job, layout: Layout, cluster: Cluster, *, tensor_across_hosts: bool) -> None:
    if layout.tensor > cluster.devices or (layout.tensor > cluster.host.devices and not tensor_across_hosts):
        most = min(cluster.host.devices, cluster.devices)
        raise InvalidRequest(
            f"Tensor parallelism over {layout.tensor} devices does not fit a host of {most}.",
            remedy=f"Use {nearest_divisor(most, min(layout.tensor, most))}; between hosts it is too slow.",
            param="tensor",
        )
    if not splits_heads(job.model, layout.tensor):
        fit = max(size for size in range(1, layout.tensor) if splits_heads(job.model, size))
        raise InvalidRequest(
            f"{job.model.heads} heads of queries and {job.model.kv_heads} of keys cannot be split over "
            f"{layout.tensor} devices.",
            remedy=f"Use tensor = {fit}.",
            param="tensor",
        )


def splits_heads(model: ModelSize, tensor: int) -> bool:
    """Whether so many devices can share a layer: each gets whole heads, of keys at least a copy of one."""
    kept = model.kv_heads % tensor == 0 or tensor % model.kv_heads == 0
    return model.heads % tensor == 0 and kept and model.ffn % tensor == 0


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of a number that is nearest to the one wanted, the smaller of two."""
    return min(divisors(number), key=lambda one: (abs(one - wanted), one))


def divisors(number: int) -> list[int]:
    """All divisors of a number above 0, in order; in time of its square root."""
    small = [one for one in range(1, int(number**0.5) + 1) if number % one == 0]
    return small + [number // one for one in reversed(small) if one * one != number]
