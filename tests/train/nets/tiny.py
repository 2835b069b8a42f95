"""Nets that are small enough to compute at once, with weights that make a difference."""

from typing import Any

import torch

from tandem.train.nets import Llama, NetConfig

SIZES = {"width": 64, "layers": 2, "heads": 1, "kv_heads": 1, "ffn": 96, "vocab": 64, "context": 32}


def tiny_config(**changes: Any) -> NetConfig:
    """One head of 64."""
    return NetConfig(**{**SIZES, **changes})


def tiny_net(seed: int = 0, **changes: Any) -> Llama:
    """Weights that are larger than at the start of a training, so that logits and heads differ; norms are not 1."""
    net = Llama(tiny_config(**changes))
    net.init_weights(seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in net.parameters():
            if weights.ndim == 1:
                weights.add_(torch.randn(weights.shape, generator=random) * 0.2)
            else:
                weights.mul_(8)
    return net


def tokens(*shape: int, vocab: int = SIZES["vocab"], seed: int = 0) -> torch.Tensor:
    """Token ids as the loop has them, int32."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, shape, generator=random, dtype=torch.int32)
