"""Greedy text from a Llama, one token at a time, with the keys and values of what it has read kept."""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from tandem.train.nets.llama import Llama, Past


@torch.no_grad()
def greedy(
    net: nn.Module, ids: Sequence[int], max_new: int, stop_ids: Collection[int] = (), *, context: int | None = None
) -> list[int]:
    """The likeliest continuation of `ids`: at most `max_new` tokens, the last of which may be one of `stop_ids`.

    It ends where prompt and continuation fill the context, which is the model's own by default.
    """
    assert isinstance(net, Llama), "a model that is whole and on one device"
    assert ids, "a prompt has a token"
    most = min(context or net.config.context, net.config.context, len(ids) + max_new)
    weight = net.model.embed_tokens.weight
    # The layers compute in what autocast says, and so do their keys.
    half = torch.is_autocast_enabled(weight.device.type)
    like = weight.new_empty(0, dtype=torch.get_autocast_dtype(weight.device.type) if half else None)
    past = [Past(net.config, like=like, context=most) for _ in net.model.layers]
    said: list[int] = []
    new = list(ids)
    while len(ids) + len(said) < most:
        logits_BTV = net(torch.tensor([new], device=weight.device), past=past)
        new = [int(logits_BTV[0, -1].argmax())]
        said += new
        if new[0] in stop_ids:
            break
    return said
