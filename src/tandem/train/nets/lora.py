"""LoRA: low-rank adapters on the linear layers of a Llama, all else frozen, and merging them into the weights.

Which weights are trained follows from the recipe's `Lora` alone, on saving and on loading. The names of the weights
under an adapter do not change; beside `q_proj.weight` there are `q_proj.lora_A.weight` and `q_proj.lora_B.weight`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import linear as product

from tandem.spec import Lora
from tandem.train.nets.llama import Llama
from tandem.train.order import generator

_HALF = re.compile(r"(?P<layer>.+)\.lora_[AB]\.weight")


class LoraLinear(nn.Module):
    """x W^T + scale * (x A^T) B^T."""

    def __init__(self, linear: nn.Linear, spec: Lora) -> None:
        super().__init__()
        self.weight = linear.weight
        self.lora_A = nn.Linear(linear.in_features, spec.rank, bias=False)
        self.lora_B = nn.Linear(spec.rank, linear.out_features, bias=False)
        self.scale = _scale(spec)
        self.adapted = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        y = product(x, self.weight)
        return y + self.scale * self.lora_B(self.lora_A(x)) if self.adapted else y


@torch.no_grad()
def add_lora(net: Llama, spec: Lora, seed: int) -> None:
    """Put adapters on the target layers and freeze all else. A comes from the seed and its name, uniform as in
    `nn.Linear`; B is 0, so that nothing changes at first.
    """
    for parent_name, parent in list(net.model.layers.named_modules()):
        for target in spec.targets:
            linear = getattr(parent, target, None)
            if not isinstance(linear, nn.Linear):
                continue
            adapted = LoraLinear(linear, spec)
            bound = 1 / math.sqrt(linear.in_features)
            name = f"model.layers.{parent_name}.{target}.lora_A.weight"
            numbers = generator(seed, f"init {name}", 0).uniform(-bound, bound, tuple(adapted.lora_A.weight.shape))
            adapted.lora_A.weight.copy_(torch.from_numpy(numbers))
            adapted.lora_B.weight.zero_()
            setattr(parent, target, adapted.to(linear.weight.device))
    for name, weights in net.named_parameters():
        weights.requires_grad_(is_trainable(name, spec))


def is_trainable(name: str, spec: Lora | None) -> bool:
    """Whether the recipe trains the weights of this name: all of them, or the adapters alone."""
    return spec is None or _HALF.fullmatch(name) is not None


def adapter_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapters' weights of a model's state, by their names in it."""
    return {name: weights for name, weights in state.items() if _HALF.fullmatch(name)}


@torch.no_grad()
def merged_state(state: Mapping[str, torch.Tensor], spec: Lora) -> dict[str, torch.Tensor]:
    """A model's state without adapters: W + scale * B A in their place, in fp32."""
    merged = {name: weights for name, weights in state.items() if not _HALF.fullmatch(name)}
    for layer in sorted({match["layer"] for name in state if (match := _HALF.fullmatch(name))}):
        first, second = state[f"{layer}.lora_A.weight"].float(), state[f"{layer}.lora_B.weight"].float()
        merged[f"{layer}.weight"] = merged[f"{layer}.weight"].float() + _scale(spec) * (second @ first)
    return merged


@contextmanager
def adapter_off(net: nn.Module) -> Iterator[None]:
    """The model as it is without its adapters, as long as this lasts."""
    layers = [module for module in net.modules() if isinstance(module, LoraLinear)]
    for layer in layers:
        layer.adapted = False
    try:
        yield
    finally:
        for layer in layers:
            layer.adapted = True


def _scale(spec: Lora) -> float:
    return spec.alpha / spec.rank
