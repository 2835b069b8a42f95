"""Conversion of Llama models from a Hugging Face folder to GGUF: `LlamaForCausalLM`, byte-level BPE, plain rope."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gguf import GGML_QUANT_VERSION, MODEL_ARCH, GGUFWriter, TokenType, get_tensor_name_map
from numpy.typing import NDArray

from tandem.formats.gguf_writing import FILE_TYPES, FIM_ORDER, add_weights, gguf_writing
from tandem.formats.hf_folder import Count, HFFolder, Layers
from tandem.kit.errors import IntegrityError

ARCHITECTURE = "LlamaForCausalLM"

# llama.cpp knows pre-tokenizers by name from a closed list; these two are the ones that recipes may use.
_DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: Mapping[str, list[dict[str, Any]]] = {"gpt-2": [], "smollm": [_DIGITS]}


class _Rope(msgspec.Struct):
    rope_type: str | None = None
    type: str | None = None  # as older files call it
    rope_theta: float | None = None


class LlamaConfig(msgspec.Struct):
    """`config.json` as far as a conversion needs it."""

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Layers
    num_attention_heads: Count
    max_position_embeddings: Count
    rms_norm_eps: float
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: str = "silu"
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None  # where transformers 4 kept it
    rope_theta: float | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | list[int] | None = None

    @property
    def head(self) -> int:
        """The width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values, of which several queries may share one."""
        return self.num_key_value_heads or self.num_attention_heads


class _Model(msgspec.Struct):
    type: str
    vocab: dict[str, int] | list[Any] = msgspec.field(default_factory=dict)
    merges: list[str | list[str]] = msgspec.field(default_factory=list)
    ignore_merges: bool | None = False
    byte_fallback: bool | None = False


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Tokenizer(msgspec.Struct):
    """`tokenizer.json`."""

    model: _Model
    added_tokens: list[_Added] = msgspec.field(default_factory=list)
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None

    @property
    def ids(self) -> dict[str, int]:
        """The number of each token."""
        assert isinstance(self.model.vocab, dict), "checked when it was read"
        return self.model.vocab | {token.content: token.id for token in self.added_tokens}


class _Token(msgspec.Struct):
    content: str


class _Template(msgspec.Struct):
    name: str
    template: str


class _TokenizerConfig(msgspec.Struct):
    """`tokenizer_config.json`."""

    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None
    pad_token: str | _Token | None = None
    chat_template: str | list[_Template] | None = None
    fim_order: str | None = None


def convert_llama(folder: HFFolder, dest: Path, *, name: str, kind: str = "q8_0") -> Path:
    """Write the model in `folder` to the GGUF file `dest` with weights of `kind` (f32, f16, bf16, q8_0).

    Raises:
        UnsupportedFeature: another architecture, rope scaling, another tokenizer, or weights in several files.
        IntegrityError: a file of the folder is damaged or a tensor is missing.
    """
    config = checked_config(folder)
    tokenizer, pre = _checked_tokenizer(folder)
    with gguf_writing(dest, architecture="llama") as writer:
        writer.add_name(name)
        writer.add_file_type(FILE_TYPES[kind][0])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        _add_shape(writer, config)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        _add_vocabulary(writer, folder, tokenizer, size=config.vocab_size)
        _add_special_tokens(writer, folder, tokenizer, config)
        for new_name, weights in _tensors(folder, config):
            add_weights(writer, new_name, weights, kind=kind)
    return dest


def checked_config(folder: HFFolder) -> LlamaConfig:
    """The folder's `config.json`.

    Raises:
        UnsupportedFeature: llama.cpp's llama would compute something else.
        NotFound, IntegrityError: it is missing or damaged.
    """
    if folder.architecture != ARCHITECTURE:
        raise folder.refuse(f"its architecture is {folder.architecture}, not {ARCHITECTURE}")
    config = folder.read("config.json", LlamaConfig)
    rope = config.rope_parameters or config.rope_scaling or _Rope()
    rope_type = rope.rope_type or rope.type or "default"
    if rope_type != "default":
        raise folder.refuse(f"its rope type is {rope_type}, not default")
    if config.hidden_act != "silu":
        raise folder.refuse(f"its activation is {config.hidden_act}, not silu")
    if config.mlp_bias:
        raise folder.refuse("its feed-forward layers have biases")
    if config.head % 2:
        raise folder.refuse(f"its heads have the odd width {config.head}")
    return config


def _checked_tokenizer(folder: HFFolder) -> tuple[_Tokenizer, str]:
    """The tokenizer, and llama.cpp's name for how it splits the text before BPE."""
    tokenizer = folder.read("tokenizer.json", _Tokenizer)
    model = tokenizer.model
    if model.type != "BPE" or model.ignore_merges or model.byte_fallback or isinstance(model.vocab, list):
        raise folder.refuse("its tokenizer is not byte-level BPE")
    if tokenizer.normalizer is not None:
        raise folder.refuse("its tokenizer changes the text before it is split")
    if (tokenizer.post_processor or {}).get("type", "ByteLevel") != "ByteLevel":
        raise folder.refuse("its tokenizer adds tokens around the text")
    splitter = tokenizer.pre_tokenizer or {}
    steps = splitter.get("pretokenizers") if splitter.get("type") == "Sequence" else [splitter]
    for name, before in PRE_TOKENIZERS.items():
        if isinstance(steps, list) and steps and steps[:-1] == before and _is_byte_level(steps[-1]):
            return tokenizer, name
    raise folder.refuse(f"its pre-tokenizer is none of {', '.join(sorted(PRE_TOKENIZERS))}")


def _is_byte_level(step: object) -> bool:
    match step:
        case {"type": "ByteLevel", **options}:
            return options.get("use_regex", True) is True and not options.get("add_prefix_space")
        case _:
            return False


def _add_shape(writer: GGUFWriter, config: LlamaConfig) -> None:
    theta = config.rope_parameters.rope_theta if config.rope_parameters else None
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_rope_dimension_count(config.head)
    writer.add_key_length(config.head)
    writer.add_value_length(config.head)
    writer.add_rope_freq_base(theta or config.rope_theta or 10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_vocabulary(writer: GGUFWriter, folder: HFFolder, tokenizer: _Tokenizer, *, size: int) -> None:
    added = {
        token.content: TokenType.CONTROL if token.special else TokenType.USER_DEFINED
        for token in tokenizer.added_tokens
    }
    by_id = {index: token for token, index in tokenizer.ids.items()}
    if by_id and not 0 <= min(by_id) <= max(by_id) < size:
        raise IntegrityError(
            f"{folder.path / 'tokenizer.json'} has tokens up to {max(by_id)}, and the model has {size}.",
            remedy="Fetch the model again: its tokenizer belongs to another model.",
        )
    # Vocabularies are rounded up to a size that computes well, which leaves holes.
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    types = [
        added.get(token, TokenType.NORMAL) if index in by_id else TokenType.UNUSED for index, token in enumerate(tokens)
    ]
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = tokenizer.model.merges
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])


def _add_special_tokens(writer: GGUFWriter, folder: HFFolder, tokenizer: _Tokenizer, config: LlamaConfig) -> None:
    named = _TokenizerConfig()
    if folder.has("tokenizer_config.json"):
        named = folder.read("tokenizer_config.json", _TokenizerConfig)
    # The tokenizer knows the chat model's own end, config.json often still that of its base model.
    for add, token, number in (
        (writer.add_bos_token_id, named.bos_token, config.bos_token_id),
        (writer.add_eos_token_id, named.eos_token, config.eos_token_id),
        (writer.add_pad_token_id, named.pad_token, config.pad_token_id),
    ):
        text = token.content if isinstance(token, _Token) else token
        first = next(iter(number), None) if isinstance(number, list) else number
        index = tokenizer.ids.get(text, first) if text is not None else first
        if index is not None and 0 <= index < config.vocab_size:
            add(index)
    if named.fim_order:
        writer.add_string(FIM_ORDER, named.fim_order)
    writer.add_add_bos_token(False)
    if template := _chat_template(folder, named):
        writer.add_chat_template(template)


def _chat_template(folder: HFFolder, named: _TokenizerConfig) -> str | None:
    template = named.chat_template
    if isinstance(template, list):
        template = {entry.name: entry.template for entry in template}.get("default")
    if template is None and folder.has("chat_template.jinja"):
        template = folder.text("chat_template.jinja")
    return template


def _tensors(folder: HFFolder, config: LlamaConfig) -> Iterator[tuple[str, NDArray[np.float32]]]:
    _check_shapes(folder, config)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key in folder.weights.entries:
        if key.endswith(".rotary_emb.inv_freq") or (config.tie_word_embeddings and key == "lm_head.weight"):
            continue
        new_name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise folder.refuse(f"its tensor {key!r} has no place in llama.cpp's llama")
        yield new_name, in_rope_order(folder.weights.weights(key), key, config)


def _check_shapes(folder: HFFolder, config: LlamaConfig) -> None:
    entries = folder.weights.entries
    for key, shape in tensor_shapes(config).items():
        if key not in entries and key.endswith(".bias"):
            continue
        if key not in entries or entries[key].shape != shape:
            found = entries[key].shape if key in entries else "nothing"
            raise IntegrityError(
                f"{folder.weights.path} has {found} for {key!r}, where {shape} is needed.",
                remedy="Fetch the model again: its weights do not belong to its config.json.",
            )


def tensor_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each weight by its name in transformers; biases may be missing."""
    width, queries = config.hidden_size, config.num_attention_heads * config.head
    keys, inner, words = config.key_value_heads * config.head, config.intermediate_size, config.vocab_size
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (queries, width),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.o_proj.weight": (width, queries),
        "self_attn.o_proj.bias": (width,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }
    shapes = {
        f"model.layers.{number}.{key}": shape
        for number in range(config.num_hidden_layers)
        for key, shape in layer.items()
    }
    shapes |= {"model.embed_tokens.weight": (words, width), "model.norm.weight": (width,)}
    return shapes if config.tie_word_embeddings else shapes | {"lm_head.weight": (words, width)}


def in_rope_order(weights: NDArray[np.float32], key: str, config: LlamaConfig) -> NDArray[np.float32]:
    """The rows of the tensor `key` as llama.cpp wants them: its rope turns neighbours, that of transformers halves."""
    heads = _turned_heads(key, config)
    if not heads:
        return weights
    rows = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return rows.swapaxes(1, 2).reshape(weights.shape)


def from_rope_order(weights: NDArray[np.float32], key: str, config: LlamaConfig) -> NDArray[np.float32]:
    """The inverse of `in_rope_order`: rows as transformers wants them."""
    heads = _turned_heads(key, config)
    if not heads:
        return weights
    rows = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return rows.swapaxes(1, 2).reshape(weights.shape)


def _turned_heads(key: str, config: LlamaConfig) -> int:
    """How many heads the tensor makes that rope turns; 0 for all but queries and keys."""
    if ".q_proj." in key:
        return config.num_attention_heads
    return config.key_value_heads if ".k_proj." in key else 0
