"""What each rank of `test_parallel` does: a few steps on its share, then the whole weights, written by the first.

Run by torchrun: python distributed.py OUT ddp|fsdp
"""

import sys
from pathlib import Path

import torch

from tandem.spec import Placement
from tandem.train.loop import micro_batches, take_step
from tandem.train.optim import load_optimizer_state, make_optimizers, optimizer_state
from tandem.train.parallel import Ranks, joined, shared_out, whole, wrapped
from tests.train.test_loop import Rows, training

STEPS = 4


def train(ranks: Ranks, placement: Placement) -> dict[str, torch.Tensor]:
    """The whole weights and optimizer state after some steps, in the middle of which both went out and in again."""
    made = training(Rows(), micro_samples=2, rank=ranks.rank, world=ranks.world)
    net = made.model
    made.model = wrapped(net, iter(net.model.layers), placement, ranks)
    made.optimizers = make_optimizers(net.named_parameters(), made.recipe.optimizer)
    for step in range(STEPS):
        if step == STEPS // 2:
            weights = {name: whole(tensor.detach()).clone() for name, tensor in net.named_parameters()}
            state = {name: tensor.clone() for name, tensor in optimizer_state(made.optimizers).items()}
            with torch.no_grad():
                for name, tensor in net.named_parameters():
                    tensor.copy_(shared_out(weights[name], tensor))
            load_optimizer_state(made.optimizers, state)
        take_step(made, step, micro_batches(made, step))
    return {name: whole(tensor.detach()).clone() for name, tensor in net.named_parameters()}


def main(out: str, sharding: str) -> None:
    """Train on this rank."""
    torch.set_num_threads(1)
    placement = Placement(sharding=sharding, device="cpu")
    with joined(placement) as ranks:
        weights = train(ranks, placement)
        if ranks.first:
            torch.save(weights, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
