"""Cross entropy of the output layer, in fp32, without ever holding the logits of a large batch at once.

Shape suffixes: B sequences, T tokens of a sequence, N tokens that count, C tokens of a chunk, D width, V vocabulary.

torch's own `F.linear_cross_entropy` with reduction "none" computes the logits again in the backward pass, and cuts a
large vocabulary into so few tokens at a time that it took seven times as long on a CPU (torch 2.13).
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy, linear

_LARGE = {"cpu": 2**25, "cuda": 2**28}
"""Logits that are held at once at most; three times as much is needed for them and their gradients."""
_CHUNK = {"cpu": 2**23, "cuda": 2**27}
"""Logits of a chunk: enough to fill the cores, few enough for their caches."""


def sequence_nll(
    x_BTD: torch.Tensor, head_VD: torch.Tensor, targets_BT: torch.Tensor, weights_BT: torch.Tensor
) -> torch.Tensor:
    """Of each sequence the sum over its tokens of weight * -log p(target), in nats; float32 [B].

    The gradient is that of the plain formula, for any gradient that comes from above. Tokens of weight 0 cost nothing.
    """
    device = x_BTD.device.type
    large = _LARGE.get(device, _LARGE["cuda"])
    x_ND, targets_N, weights_N = x_BTD.flatten(0, 1), targets_BT.flatten().long(), weights_BT.flatten().float()
    counted_N = _counted(weights_N, worth=device == "cpu" or targets_N.numel() * len(head_VD) > large)
    if counted_N is not None:
        x_ND, targets_N, weights_N = x_ND.index_select(0, counted_N), targets_N[counted_N], weights_N[counted_N]
    if targets_N.numel() * len(head_VD) > large:
        nll_N = _chunked(x_ND, head_VD, targets_N, weights_N)
    else:
        nll_N = cross_entropy(linear(x_ND, head_VD).float(), targets_N, reduction="none") * weights_N
    if counted_N is not None:
        nll_N = nll_N.new_zeros(targets_BT.numel()).index_copy(0, counted_N, nll_N)
    return nll_N.view(targets_BT.shape).sum(dim=1)


def _counted(weights_N: torch.Tensor, *, worth: bool) -> torch.Tensor | None:
    """The places of tokens that count, or None to take them all. A GPU has to be waited for to know it, and compiled
    code would have to be compiled for each number of them.
    """
    if torch.compiler.is_compiling() or not worth:
        return None
    counted_N = weights_N.nonzero().squeeze(1)
    return counted_N if len(counted_N) < len(weights_N) else None


class _Pieces(NamedTuple):
    """Losses of tokens, and the gradients of their sum where they are wanted."""

    nll: torch.Tensor  # [N]
    grad_x: torch.Tensor | None  # [N, D]
    grad_head: torch.Tensor | None  # [V, D]


@torch.compiler.disable
def _chunked(
    x_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor, weights_N: torch.Tensor
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return _losses(x_ND, head_VD, targets_N, weights_N, wanted=(False, False)).nll
    return _ChunkedCrossEntropy.apply(x_ND, head_VD, targets_N, weights_N)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """weight * -log p of each token. The forward pass makes the gradients too, while it has the logits."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor, weights_N: torch.Tensor
    ) -> torch.Tensor:
        made = _losses(x_ND, head_VD, targets_N, weights_N, wanted=ctx.needs_input_grad[:2])
        ctx.save_for_backward(x_ND, head_VD, targets_N, weights_N, made.grad_x, made.grad_head)
        ctx.dtype = _product_type(x_ND)
        return made.nll

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        (above_N,) = above
        x_ND, head_VD, targets_N, weights_N, grad_ND, grad_VD = ctx.saved_tensors
        if grad_VD is not None and not bool((above_N == above_N[:1]).all()):
            # The output layer's gradient is summed over tokens already, and they turn out to count differently.
            device = x_ND.device.type
            with torch.autocast(device, dtype=ctx.dtype, enabled=ctx.dtype != x_ND.dtype):
                made = _losses(x_ND, head_VD, targets_N, weights_N * above_N, wanted=ctx.needs_input_grad[:2])
            return made.grad_x, made.grad_head, None, None
        return (
            None if grad_ND is None else grad_ND * above_N[:, None].to(grad_ND.dtype),
            None if grad_VD is None else grad_VD * above_N[:1].sum().to(grad_VD.dtype),
            None,
            None,
        )


def _product_type(x_ND: torch.Tensor) -> torch.dtype:
    """The type in which products of matrices are computed."""
    device = x_ND.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype


def _losses(
    x_ND: torch.Tensor,
    head_VD: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    *,
    wanted: tuple[bool, bool],
) -> _Pieces:
    dtype, device = _product_type(x_ND), x_ND.device.type
    rows = max(1, _CHUNK.get(device, _CHUNK["cuda"]) // head_VD.shape[0])
    nll_N = torch.empty_like(weights_N)
    grad_ND = torch.empty_like(x_ND) if wanted[0] else None
    grad_VD = torch.zeros_like(head_VD, dtype=torch.float32) if wanted[1] else None
    with torch.no_grad(), torch.autocast(device, enabled=False):
        low_VD = head_VD.to(dtype)
        for start in range(0, len(x_ND), rows):
            part = slice(start, start + rows)
            low_CD = x_ND[part].to(dtype)
            targets_C1 = targets_N[part, None]
            logp_CV = linear(low_CD, low_VD).float().log_softmax(dim=1)
            nll_N[part] = -logp_CV.gather(1, targets_C1).squeeze(1) * weights_N[part]
            if not any(wanted):
                continue
            p_CV = logp_CV.exp_()
            p_CV.scatter_add_(1, targets_C1, p_CV.new_full((1, 1), -1.0).expand_as(targets_C1))
            low_CV = p_CV.mul_(weights_N[part, None]).to(dtype)
            if grad_ND is not None:
                grad_ND[part] = low_CV @ low_VD
            if grad_VD is not None:
                _add_product(grad_VD, low_CV.T, low_CD)
    return _Pieces(nll_N, grad_ND, None if grad_VD is None else grad_VD.to(head_VD.dtype))


def _add_product(sum_VD: torch.Tensor, left_VC: torch.Tensor, right_CD: torch.Tensor) -> None:
    if left_VC.dtype == sum_VD.dtype:
        sum_VD.addmm_(left_VC, right_CD)
    else:
        sum_VD.add_(left_VC @ right_CD)
