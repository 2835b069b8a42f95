"""Shapes: the sizes of a model from scratch, which recipes name and plans reckon with."""

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
# Bounded, since JSON has neither infinity nor integers of any length.
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e30)]

# NOTE: a part of recipes, which live for ever; see there.


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The sizes of a decoder of the Llama family, in numbers of weights; the vocabulary's size is the tokenizer's."""

    width: Count
    """Channels of the residual stream: heads times 64 or 128."""
    layers: Count
    """Decoder blocks."""
    heads: Count
    """Heads of the queries."""
    kv_heads: Count
    """Heads of the keys and values; several queries share one where there are fewer."""
    ffn: Count
    """Channels inside the gated feed-forward layer."""
    family: Literal["llama"] = "llama"
    """The architecture; servers know it by this name."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary positions."""
    tie: bool = True
    """Whether the output layer shares the embedding's weights."""
    norm_eps: Positive = 1e-5
    """What the norms add to a mean square."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads not in {64, 128}:
            raise ValueError("width must be heads times 64 or 128: servers have kernels for no other width of a head")
        if self.heads % self.kv_heads:
            raise ValueError("heads must be a multiple of kv_heads")
