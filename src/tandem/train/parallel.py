"""Workers side by side: ranks, the wrapped model, sums over all ranks, and whole tensors from shards and back."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tandem.kit.errors import InvalidRequest, MissingPrerequisite
from tandem.spec import Placement, Recipe

# Longer than any evaluation or export that one rank does alone; hangs are found by the supervisor, much sooner.
_COLLECTIVE_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This worker among the others: number `rank` of `world`, on `device`."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes files for all."""
        return self.rank == 0


@contextlib.contextmanager
def joined(placement: Placement) -> Iterator[Ranks]:
    """The ranks of this attempt; torchrun has started the others, or there are none.

    Raises:
        MissingPrerequisite: the placement wants a GPU, and there is none.
    """
    device = _device(placement)
    if not dist.is_torchelastic_launched():
        yield Ranks(rank=0, world=1, device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", dist.get_node_local_rank(fallback_rank=0))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_COLLECTIVE_TIMEOUT)
    try:
        yield Ranks(rank=dist.get_rank(), world=dist.get_world_size(), device=device)
    finally:
        dist.destroy_process_group()


def _device(placement: Placement) -> torch.device:
    if placement.device == "cuda" and not torch.cuda.is_available():
        raise MissingPrerequisite(
            "The placement wants a GPU, and torch sees none here.",
            remedy="Use device cpu in the placement, or install the driver and a CUDA build of torch.",
        )
    wanted = placement.device if placement.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def check_layout(recipe: Recipe, placement: Placement, world: int) -> None:
    """Refuse what the workers could not share.

    Raises:
        InvalidRequest: the batch does not divide among the workers, or the optimizer cannot be sharded.
    """
    if recipe.batch.samples % world:
        raise InvalidRequest(
            f"A batch of {recipe.batch.samples} samples cannot be shared by {world} workers.",
            remedy="Use a number of workers that divides batch.samples.",
            param="workers",
        )
    if placement.sharding == "fsdp" and recipe.optimizer.name == "muon":
        raise InvalidRequest(
            "muon needs whole matrices, and sharding fsdp cuts them.",
            remedy="Use sharding ddp, or optimizer adamw.",
            param="sharding",
        )


def wrapped(model: nn.Module, layers: Iterator[nn.Module], placement: Placement, ranks: Ranks) -> nn.Module:
    """The model as all ranks train it: gradients are summed over them, and with `fsdp` its weights are shared out."""
    if placement.sharding == "fsdp" and ranks.world > 1:
        for layer in layers:
            fully_shard(layer)
        fully_shard(model)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # The loss is a sum, which the loop divides once; and gloo can sum, but not scale while it sums.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return model
    if ranks.world > 1:
        ids = [ranks.device.index] if ranks.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)
    return model


@contextlib.contextmanager
def accumulating(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Keep gradients on their rank until the last micro-batch of the step."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    yield


def gradient_factor(model: nn.Module, ranks: Ranks) -> float:
    """What a gradient is multiplied with to be the sum over ranks: DDP has divided it by their number."""
    return float(ranks.world) if isinstance(model, DistributedDataParallel) else 1.0


def summed(values: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The sum over all ranks, on all of them."""
    if ranks.world > 1:
        dist.all_reduce(values)
    return values


def greatest(values: list[int], ranks: Ranks) -> list[int]:
    """The greatest of each number over all ranks, so that all decide alike."""
    if ranks.world == 1:
        return values
    both = torch.tensor(values, device=ranks.device)
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    return [int(value) for value in both]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this rank may hold a shard; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_out(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor as `like` is held: this rank's shard, or itself."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)


def is_shard(tensor: torch.Tensor) -> bool:
    """Whether this rank may hold only a part of it."""
    return isinstance(tensor, DTensor)
