"""Building what is trained: the net from its recipe, the number of steps, and the choices that hold for a whole run."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from tandem.kit.errors import InvalidRequest
from tandem.spec import Placement, Recipe, flops_per_token
from tandem.train.data import Text, open_parent
from tandem.train.measure.probe import Machine
from tandem.train.nets import Llama, NetConfig, add_lora, load_folder
from tandem.train.parallel import Ranks, greatest

PLANNED_SHARE = 0.4
"""Of the peak: what is planned with where the planner has said nothing."""

_MICRO_TOKENS = 2048  # that go through a CPU at once: more leaves its caches, fewer leave its cores idle
_ACTIVATION_BYTES = 40  # for each token, layer and channel in bf16, forward kept for backward
_MEMORY_SHARE = 0.5  # of what a GPU has free, for activations


def build_net(recipe: Recipe, *, home: Path, text: Text) -> Llama:
    """The net at step 0, on the CPU: fresh from the seed, or the parent, with an adapter where the recipe has one.

    Raises:
        InvalidRequest: the parent was made for a shorter context.
    """
    if recipe.model.shape is not None:
        config = NetConfig.from_shape(recipe.model.shape, vocab=text.size, context=recipe.batch.context)
        net = Llama(config)
        net.init_weights(recipe.seed)
        return net
    net = load_folder(open_parent(home, recipe))
    if recipe.batch.context > net.config.context:
        raise InvalidRequest(
            f"The parent {recipe.model.parent} was made for {net.config.context} tokens, the recipe wants "
            f"{recipe.batch.context}.",
            remedy=f"Use batch.context of at most {net.config.context}.",
            param="batch.context",
        )
    if recipe.adapter is not None:
        add_lora(net, recipe.adapter, recipe.seed)
    return net


def token_flops(recipe: Recipe, net: Llama) -> float:
    """Model FLOP of one token of this recipe on this net."""
    parameters = sum(weights.numel() for weights in net.parameters())
    trained = sum(weights.numel() for weights in net.parameters() if weights.requires_grad)
    return flops_per_token(
        parameters=parameters,
        trained=trained,
        layers=net.config.layers,
        width=net.config.width,
        context=recipe.batch.context,
    )


def step_count(recipe: Recipe, *, samples: int, flops: float) -> int:
    """The optimizer steps of a recipe's budget, given the samples of an epoch and the FLOP of a token."""
    budget, batch = recipe.budget, recipe.batch
    tokens_of_step = batch.samples * batch.context
    if budget.steps:
        return budget.steps
    if budget.tokens:
        return math.ceil(budget.tokens / tokens_of_step)
    if budget.epochs:
        return max(1, math.ceil(budget.epochs * samples / batch.samples))
    return max(1, math.ceil(budget.flop / (flops * tokens_of_step)))


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What the first attempt found best, kept with each checkpoint so that later ones compute bit for bit the same."""

    half: bool
    """Whether products of matrices are computed in bf16, with fp32 weights and sums."""
    compiled: bool
    micro_samples: int


def choose(
    recipe: Recipe, placement: Placement, *, net: Llama, machine: Machine, ranks: Ranks, kept: Mapping[str, Any] | None
) -> Choices:
    """The first worker's choices, for all; those of an earlier attempt hold where this machine can honour them."""
    half = recipe.precision == "bf16" and machine.bf16_gain > 1.0
    compiled = _compiled(placement, machine)
    micro = placement.micro_samples or _micro_samples(recipe, net=net, ranks=ranks)
    if kept:
        before = msgspec.convert(kept, Choices)
        half = before.half and machine.bf16_gain > 1.0
        compiled = before.compiled if placement.compile == "auto" else compiled
        micro = placement.micro_samples or before.micro_samples
    mine = [int(half), int(compiled), micro] if ranks.first else [0, 0, 0]
    half_, compiled_, micro_ = greatest(mine, ranks)
    return Choices(half=bool(half_), compiled=bool(compiled_), micro_samples=min(micro_, _share(recipe, ranks)))


def _compiled(placement: Placement, machine: Machine) -> bool:
    if placement.compile != "auto":
        return placement.compile == "on"
    return machine.device != "cpu" and shutil.which("gcc") is not None


def _share(recipe: Recipe, ranks: Ranks) -> int:
    """Samples of a step that one worker has."""
    return recipe.batch.samples // ranks.world


def _micro_samples(recipe: Recipe, *, net: Llama, ranks: Ranks) -> int:
    if ranks.device.type != "cuda":
        return max(1, _MICRO_TOKENS // recipe.batch.context)
    free, _ = torch.cuda.mem_get_info(ranks.device)
    sample = _ACTIVATION_BYTES * net.config.layers * net.config.width * recipe.batch.context
    return max(1, int(_MEMORY_SHARE * free / sample))
