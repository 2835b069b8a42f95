"""What a checkpoint weighs and how long it takes, from the model and the storage that all hosts share."""

from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Derivation, Step
from tandem.plan.units import parameters_text

MIXED_BYTES = 14.0
"""Of each weight in mixed precision: 2 of the weight, 4 each of its copy and Adam's two moments. Megatron's 1 T model
has 13.7 (13.8 TB, arXiv 2104.04473)."""
FULL_BYTES = 12.0
"""Of each weight in the workshop: 4 each of the weight and Adam's two moments."""

_LEAST_S = 0.1  # until all ranks have agreed that it is there


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCost:
    """What one costs."""

    size_bytes: float
    save_s: float
    """Until it is written; training stands still for that unless it is written in the background."""
    load_s: float
    """Until all hosts have read it."""
    derivation: Derivation


def checkpoint_cost(
    parameters: int, cluster: Cluster, *, each_bytes: float = MIXED_BYTES, storage_bytes_per_s: float | None = None
) -> CheckpointCost:
    """What a checkpoint of a model costs on a cluster: its bytes by what all hosts write together.

    `storage_bytes_per_s` bounds that where all hosts share one storage, which at scale is what a save waits for;
    published are 273 GB/s for saves (arXiv 2104.04473) and 2 TB/s (Llama 3, arXiv 2407.21783).

    Raises:
        InvalidRequest: a number is not above 0.
    """
    shared = storage_bytes_per_s
    if parameters < 1 or each_bytes <= 0 or (shared is not None and shared <= 0):
        raise InvalidRequest(
            "A checkpoint needs a model and a storage.", remedy="Give weights and bytes per second above 0."
        )
    hosts_bytes_per_s = cluster.hosts * cluster.host.storage_bytes_per_s
    bytes_per_s = min(hosts_bytes_per_s, shared) if shared is not None else hosts_bytes_per_s
    size_bytes = parameters * each_bytes
    seconds = max(_LEAST_S, size_bytes / bytes_per_s)
    return CheckpointCost(
        size_bytes=size_bytes,
        save_s=seconds,
        load_s=seconds,
        derivation=Derivation(
            steps=(
                Step(
                    what="checkpoint",
                    formula="weights x bytes of each / what is written in a second",
                    value=f"{parameters_text(parameters)} x {each_bytes:g} B = {size_bytes / 1e9:,.4g} GB at "
                    f"{bytes_per_s / 1e9:,.4g} GB/s: {seconds:,.3g} s",
                ),
            ),
            rows=(f"storage of host {cluster.host.name}: {cluster.host.storage_bytes_per_s / 1e9:g} GB/s",),
        ),
    )
