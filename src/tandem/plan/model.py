"""Models as plans see them: sizes, numbers of weights, and the shape that a number of weights is best given."""

from collections.abc import Iterator
from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.plan.flops import Convention, token_flop
from tandem.spec.shape import Shape

LEAST_PARAMETERS, MOST_PARAMETERS = 1e5, 2e13
"""Weights of the smallest and the largest model that a usual shape is looked for."""

_WIDE_HEADS = 1024  # from this width on heads have 128 channels, below 64
_GROUPS = 8  # heads of keys and values at most: so Llama 3
_FFN_RATIO = 3.5  # of the width, as Llama 3's
_FFN_UNIT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The sizes of a decoder of the Llama family, its vocabulary and context included."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int
    tie: bool = True
    name: str = ""

    @classmethod
    def of(cls, shape: Shape, *, vocab: int, context: int, name: str = "") -> "ModelSize":
        """A recipe's shape with a vocabulary and a context."""
        return cls(
            layers=shape.layers,
            width=shape.width,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            ffn=shape.ffn,
            vocab=vocab,
            context=context,
            tie=shape.tie,
            name=name,
        )

    @property
    def shape(self) -> Shape:
        """As a recipe says it."""
        return Shape(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            ffn=self.ffn,
            tie=self.tie,
        )

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """Channels of all keys of a token in a layer, and of all values."""
        return self.kv_heads * self.head_width

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: attention, gated feed-forward, two norms."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv_width
        return attention + 3 * self.width * self.ffn + 2 * self.width

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding."""
        return self.vocab * self.width

    @property
    def parameters(self) -> int:
        """All weights; a tied output layer counts once."""
        tables = self.embedding_parameters * (1 if self.tie else 2)
        return tables + self.layers * self.layer_parameters + self.width

    def token_flop(self, convention: Convention = Convention.A) -> float:
        """Model FLOP of a token, forward and backward. By A and 6ND a tied table counts once, though it computes."""
        return token_flop(
            convention,
            parameters=self.parameters,
            embedding=0 if self.tie else self.embedding_parameters,
            layers=self.layers,
            width=self.width,
            context=self.context,
        )


def gpt_parameters(*, layers: int, width: int, vocab: int, context: int) -> float:
    """Weights of a GPT with learnt positions: 12 l h^2 (1 + 13/12h + (V+S)/12lh) (arXiv 2104.04473, equation 2)."""
    return 12 * layers * width**2 * (1 + 13 / (12 * width) + (vocab + context) / (12 * layers * width))


def vocab_of(parameters: float) -> int:
    """A usual vocabulary for a model of that many weights: larger models can afford larger tables."""
    return next((vocab for most, vocab in ((2e6, 1_024), (3e7, 4_096), (1e9, 49_152)) if parameters < most), 128_256)


def size_of(parameters: float, *, context: int, vocab: int | None = None) -> ModelSize:
    """The usual shape whose number of weights is nearest.

    The ratio of width to layers grows with the model as those of SmolLM, GPT-2 and Llama 3 do, and may differ from
    that by a third for a better fit, those of models under two million weights by more.

    Raises:
        InvalidRequest: fewer than 100,000 or more than 20 T weights.
    """
    if not LEAST_PARAMETERS <= parameters <= MOST_PARAMETERS:
        raise InvalidRequest(
            f"A model of {parameters:.3g} weights has no usual shape.",
            remedy=f"Ask for {LEAST_PARAMETERS:.0e} to {MOST_PARAMETERS:.0e} weights, or name the shape in a recipe.",
        )
    vocab = vocab or vocab_of(parameters)
    return min(
        _candidates(parameters, vocab=vocab, context=context),
        key=lambda size: (abs(size.parameters - parameters), size.width),
    )


def _candidates(parameters: float, *, vocab: int, context: int) -> Iterator[ModelSize]:
    aspect = 128.0 if parameters >= 3e9 else 64.0 if parameters >= 1e8 else 32.0 if parameters >= 2e6 else 24.0
    # Widths go by whole heads of 64 channels, which is coarse for the smallest models: those differ in layers instead.
    slack = 1.34 if parameters >= 2e6 else 3.0
    for width in _widths():
        one = _size(width, 1, vocab=vocab, context=context)
        wanted = round((parameters - one.parameters) / one.layer_parameters) + 1
        layers = min(max(1, wanted, round(width / aspect / slack)), max(1, round(width / aspect * slack)))
        yield _size(width, layers, vocab=vocab, context=context)


def _widths() -> Iterator[int]:
    yield from range(64, _WIDE_HEADS, 64)
    yield from range(_WIDE_HEADS, 2 * _WIDE_HEADS, _WIDE_HEADS // 4)
    yield from range(2 * _WIDE_HEADS, 4 * _WIDE_HEADS, _WIDE_HEADS // 2)
    # Multiples of 8 heads of 128 from here on, so that tensor parallelism divides them.
    yield from range(4 * _WIDE_HEADS, 64 * _WIDE_HEADS + 1, _WIDE_HEADS)


def _size(width: int, layers: int, *, vocab: int, context: int) -> ModelSize:
    heads = width // 128 if width >= _WIDE_HEADS else width // 64
    kv_heads = next(count for count in range(min(heads, _GROUPS), 0, -1) if heads % count == 0)
    ffn = round(_FFN_RATIO * width / _FFN_UNIT) * _FFN_UNIT
    return ModelSize(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        vocab=vocab,
        context=context,
        tie=width < 2048,
    )
