"""The sizes of a Llama, from a recipe's shape or from config.json, with refusals of what is not computed here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tandem.kit.errors import IntegrityError, NotFound, UnsupportedFeature
from tandem.spec import Shape

ARCHITECTURE = "LlamaForCausalLM"

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """Sizes in numbers of weights. `context` is the most tokens of a sequence; a head has width / heads by default."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int
    rope_theta: float = 10_000.0
    tie: bool = True
    norm_eps: float = 1e-5
    head_width: int = 0

    def __post_init__(self) -> None:
        if not self.head_width:
            object.__setattr__(self, "head_width", self.width // self.heads)

    @classmethod
    def from_shape(cls, shape: Shape, *, vocab: int, context: int) -> "NetConfig":
        """A recipe's shape for a vocabulary of `vocab` tokens."""
        return cls(
            width=shape.width,
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            ffn=shape.ffn,
            vocab=vocab,
            context=context,
            rope_theta=shape.rope_theta,
            tie=shape.tie,
            norm_eps=shape.norm_eps,
        )


class _Rope(msgspec.Struct):
    rope_type: str | None = None
    type: str | None = None  # as older files call it
    rope_theta: float | None = None


class _File(msgspec.Struct):
    """`config.json` as far as the computation depends on it."""

    vocab_size: _Count
    hidden_size: _Count
    intermediate_size: _Count
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    num_attention_heads: _Count
    max_position_embeddings: _Count
    rms_norm_eps: float
    architectures: list[str] = []
    num_key_value_heads: _Count | None = None
    head_dim: _Count | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None  # where transformers 4 kept it
    rope_theta: float | None = None


def read_config(folder: Path) -> NetConfig:
    """The sizes of the model in a Hugging Face folder.

    Raises:
        NotFound, IntegrityError: config.json is missing or damaged.
        UnsupportedFeature: the model computes something else than `Llama` does.
    """
    file = _read(folder / "config.json")
    rope = file.rope_parameters or file.rope_scaling or _Rope()
    _refuse_others(folder, file, rope)
    return NetConfig(
        width=file.hidden_size,
        layers=file.num_hidden_layers,
        heads=file.num_attention_heads,
        kv_heads=file.num_key_value_heads or file.num_attention_heads,
        ffn=file.intermediate_size,
        vocab=file.vocab_size,
        context=file.max_position_embeddings,
        rope_theta=rope.rope_theta or file.rope_theta or 10_000.0,
        tie=file.tie_word_embeddings,
        norm_eps=file.rms_norm_eps,
        head_width=file.head_dim or file.hidden_size // file.num_attention_heads,
    )


def config_json(config: NetConfig) -> dict[str, Any]:
    """The sizes as the keys of a config.json that transformers, old and new, llama.cpp and vLLM read."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "initializer_range": 0.02,
        "intermediate_size": config.ffn,
        "max_position_embeddings": config.context,
        "mlp_bias": False,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        # transformers 5 reads the second one, and what reads only the first takes 10,000 without a word.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": config.tie,
        "vocab_size": config.vocab,
    }


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise NotFound(
            f"Cannot read {path}: {error.strerror}.", remedy="Fetch the whole model folder again."
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not what it should be: {error}.", remedy="Fetch it again.") from error


def _refuse_others(folder: Path, file: _File, rope: _Rope) -> None:
    rope_type = rope.rope_type or rope.type or "default"
    architecture = next(iter(file.architectures), "unknown")
    kv_heads = file.num_key_value_heads or file.num_attention_heads
    for found, what in (
        (architecture != ARCHITECTURE, f"its architecture is {architecture}, not {ARCHITECTURE}"),
        (rope_type != "default", f"its rope type is {rope_type}, not default"),
        (file.hidden_act != "silu", f"its activation is {file.hidden_act}, not silu"),
        (file.attention_bias, "its attention has biases"),
        (file.mlp_bias, "its feed-forward layers have biases"),
        (file.num_attention_heads % kv_heads, f"its {file.num_attention_heads} heads share {kv_heads} unevenly"),
        ((file.head_dim or file.hidden_size // file.num_attention_heads) % 2, "the width of its heads is odd"),
    ):
        if found:
            raise UnsupportedFeature(
                f"The model in {folder} cannot be trained: {what}.",
                remedy="Use a parent of the plain Llama family.",
            )
