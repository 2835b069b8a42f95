"""A decoder of the Llama family as single-device code, with the parameter names of transformers' LlamaForCausalLM.

Shape suffixes: B sequences, T tokens of a sequence, S tokens seen so far, D width, H heads of queries, G heads of keys
and values, K width of a head, V vocabulary, F width of the feed-forward layer.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from tandem.train.nets.config import NetConfig
from tandem.train.nets.output_loss import sequence_nll
from tandem.train.order import generator

_INIT_STD = 0.02  # as GPT-2; outputs into the residual stream are scaled by 1/sqrt(2 layers)
_RESIDUAL = ("o_proj.weight", "down_proj.weight")


class Past:
    """The keys and values of one layer for the sequences that are being written: [B, G, context, K] each."""

    def __init__(self, config: NetConfig, *, like: torch.Tensor, batch: int = 1, context: int = 0) -> None:
        shape = (batch, config.kv_heads, context or config.context, config.head_width)
        self.length = 0
        self._keys_BGSK = like.new_empty(shape)
        self._values_BGSK = like.new_empty(shape)

    def extended(self, keys_BGTK: torch.Tensor, values_BGTK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values so far, these included."""
        end = self.length + keys_BGTK.shape[2]
        self._keys_BGSK[:, :, self.length : end] = keys_BGTK
        self._values_BGSK[:, :, self.length : end] = values_BGTK
        self.length = end
        return self._keys_BGSK[:, :, :end], self._values_BGSK[:, :, :end]


class RMSNorm(nn.Module):
    """x / rms(x), times a weight for each channel."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        return rms_norm(x_BTD, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention with rotary positions, in which several query heads may share a head of keys and values."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        width, head = config.width, config.head_width
        self.head_width = head
        self.q_proj = nn.Linear(width, config.heads * head, bias=False)
        self.k_proj = nn.Linear(width, config.kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, config.kv_heads * head, bias=False)
        self.o_proj = nn.Linear(config.heads * head, width, bias=False)

    def forward(
        self, x_BTD: torch.Tensor, cos_TK: torch.Tensor, sin_TK: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        """The same shape; `past` holds what came before, and gets what comes now."""
        heads = (*x_BTD.shape[:2], -1, self.head_width)
        q_BHTK = _turned(self.q_proj(x_BTD).view(heads), cos_TK, sin_TK).transpose(1, 2)
        k_BGSK = _turned(self.k_proj(x_BTD).view(heads), cos_TK, sin_TK).transpose(1, 2)
        v_BGSK = self.v_proj(x_BTD).view(heads).transpose(1, 2)
        causal = True
        if past is not None:
            causal = past.length == 0
            assert causal or x_BTD.shape[1] == 1, "after the first tokens they come one at a time"
            k_BGSK, v_BGSK = past.extended(k_BGSK, v_BGSK)
        y_BHTK = scaled_dot_product_attention(
            q_BHTK, k_BGSK, v_BGSK, is_causal=causal, enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1]
        )
        return self.o_proj(y_BHTK.transpose(1, 2).flatten(2))


def _turned(x_BTHK: torch.Tensor, cos_TK: torch.Tensor, sin_TK: torch.Tensor) -> torch.Tensor:
    """Rotary positions on the halves of a head: channel i turns with channel i + K/2, as transformers does it."""
    cos_T1K, sin_T1K = cos_TK[:, None].to(x_BTHK.dtype), sin_TK[:, None].to(x_BTHK.dtype)
    return x_BTHK * cos_T1K + x_BTHK.roll(x_BTHK.shape[-1] // 2, dims=-1) * sin_T1K


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        return self.down_proj(silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Layer(nn.Module):
    """Attention and feed-forward, each added to what it got."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self, x_BTD: torch.Tensor, cos_TK: torch.Tensor, sin_TK: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        """The same shape."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TK, sin_TK, past)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Trunk(nn.Module):
    """All but the output layer; the modules are named as transformers names them."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)


class Llama(nn.Module):
    """The decoder. With `checkpoint_layers`, the backward pass computes each layer again instead of keeping it.

    A tied model has no `lm_head`: its output layer is `model.embed_tokens.weight`.
    """

    rope_cos: torch.Tensor
    rope_sin: torch.Tensor

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_layers = False
        self.model = Trunk(config)
        self.lm_head = None if config.tie else nn.Linear(config.width, config.vocab, bias=False)
        cos_SK, sin_SK = rope_tables(config)
        self.register_buffer("rope_cos", cos_SK, persistent=False)
        self.register_buffer("rope_sin", sin_SK, persistent=False)

    def forward(
        self,
        ids_BT: torch.Tensor,
        targets_BT: torch.Tensor | None = None,
        weights_BT: torch.Tensor | None = None,
        *,
        past: Sequence[Past] | None = None,
    ) -> torch.Tensor:
        """Logits [B, T, V], or with targets the sum over T of weight * -log p(target), float32 [B].

        Weights are 1 by default, and one is 0 where its token does not count. With `past`, one for each layer, the
        tokens follow those that it holds, and the logits are those of the last token alone, [B, 1, V].
        """
        x_BTD = self._read(ids_BT, past)
        if past is not None:
            x_BTD = x_BTD[:, -1:]
        head_VD = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        if targets_BT is None:
            return linear(x_BTD, head_VD)
        if weights_BT is None:
            weights_BT = torch.ones_like(targets_BT, dtype=torch.float32)
        return sequence_nll(x_BTD, head_VD, targets_BT, weights_BT)

    def _read(self, ids_BT: torch.Tensor, past: Sequence[Past] | None) -> torch.Tensor:
        """What the output layer gets, [B, T, D]."""
        start = past[0].length if past is not None else 0
        end = start + ids_BT.shape[1]
        assert end <= self.config.context, f"{end} tokens, and the model is made for {self.config.context}"
        cos_TK, sin_TK = self.rope_cos[start:end], self.rope_sin[start:end]
        x_BTD = self.model.embed_tokens(ids_BT)
        again = self.checkpoint_layers and torch.is_grad_enabled()
        for number, layer in enumerate(self.model.layers):
            if again:
                x_BTD = checkpoint(layer, x_BTD, cos_TK, sin_TK, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, cos_TK, sin_TK, past[number] if past is not None else None)
        return self.model.norm(x_BTD)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Set all weights, each tensor from its own numbers of the seed and its name: neither the order nor the
        number of workers changes them. To be called before the model is sharded.
        """
        residual_std = _INIT_STD / math.sqrt(2 * self.config.layers)
        for name, weights in self.named_parameters():
            if weights.ndim == 1:
                weights.fill_(1.0)
                continue
            std = residual_std if name.endswith(_RESIDUAL) else _INIT_STD
            numbers = generator(seed, f"init {name}", 0).standard_normal(tuple(weights.shape), dtype="float32")
            weights.copy_(torch.from_numpy(numbers).mul_(std))


def rope_tables(config: NetConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of each position's angles, [context, K] in fp32; the first half of sin is negated, since there
    the other half is subtracted.
    """
    exponents_k = torch.arange(0, config.head_width, 2, dtype=torch.int64).float() / config.head_width
    angles_Sk = torch.arange(config.context).float()[:, None] / config.rope_theta**exponents_k
    cos_Sk, sin_Sk = angles_Sk.cos(), angles_Sk.sin()
    return torch.cat((cos_Sk, cos_Sk), dim=1), torch.cat((-sin_Sk, sin_Sk), dim=1)
