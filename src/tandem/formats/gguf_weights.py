"""GGUF files the other way: weights as float32 numpy arrays, and a Llama as a Hugging Face folder."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType, TokenType, get_tensor_name_map
from gguf.quants import dequantize
from numpy.typing import NDArray

from tandem.formats.gguf_file import GGUFHeader, TensorInfo, read_header
from tandem.formats.gguf_writing import FIM_ORDER
from tandem.formats.hf_folder import WEIGHTS, folder_writing
from tandem.formats.llama import ARCHITECTURE, PRE_TOKENIZERS, LlamaConfig, from_rope_order, tensor_shapes
from tandem.formats.safetensors_file import Later, file_writing, write_safetensors
from tandem.kit.errors import IntegrityError, NotFound, UnsupportedFeature

_READABLE = frozenset(
    {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
    | {GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q5_1}
    | {GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q2_K, GGMLQuantizationType.Q3_K, GGMLQuantizationType.Q4_K}
    | {GGMLQuantizationType.Q5_K, GGMLQuantizationType.Q6_K}
)

_SHAPE: Mapping[str, str] = {
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
    "head_dim": "llama.attention.key_length",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
_SPECIAL = frozenset({TokenType.CONTROL, TokenType.UNKNOWN})
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


class GGUFWeights:
    """The weights of a GGUF file, dequantised when they are asked for.

    Raises:
        UnsupportedFeature: a tensor has a type that is not dequantised here.
    """

    def __init__(self, header: GGUFHeader) -> None:
        self.path = header.path
        self.entries: Mapping[str, TensorInfo] = {tensor.name: tensor for tensor in header.tensors}
        for tensor in header.tensors:
            if tensor.type not in _READABLE:
                raise _refused(header, f"its tensor {tensor.name!r} has the type {tensor.type.name}")

    def weights(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, read only where that needs no copy.

        Raises:
            NotFound: there is no such tensor.
        """
        tensor = self.entries.get(name)
        if tensor is None:
            raise NotFound(f"{self.path} has no tensor {name!r}.", remedy="Fetch or convert the model again.")
        block, block_bytes = GGML_QUANT_SIZES[tensor.type]
        *rows, width = tensor.shape or (1,)
        raw = np.memmap(
            self.path, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(*rows, width // block * block_bytes)
        )
        return np.asarray(dequantize(raw, tensor.type), dtype=np.float32).reshape(tensor.shape)


def folder_from_gguf(gguf: Path, dest: Path) -> Path:
    """Write the Llama in the GGUF file `gguf` to the new Hugging Face folder `dest`, with weights in float32.

    The folder holds config.json, model.safetensors, tokenizer.json and tokenizer_config.json, whole or not at all.

    Raises:
        UnsupportedFeature: another architecture, rope scaling, another tokenizer, or an unknown type of weights.
        NotFound, IntegrityError: the file is missing or damaged.
        Conflict: there is something at `dest`.
        StorageFull: the disk under `dest` is full; nothing is left behind.
    """
    header = read_header(gguf)
    weights = GGUFWeights(header)
    content, config = _config(header)
    tensors = _tensors(header, weights, config)
    tokenizer = _tokenizer(header)
    with folder_writing(dest) as part:
        write_safetensors(part / WEIGHTS, tensors, {"format": "pt"})
        for name, value in (
            ("config.json", content),
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", _tokenizer_config(header, content)),
        ):
            with file_writing(part / name) as file:
                file.write(json.dumps(value, indent=2, ensure_ascii=False).encode())
    return dest


def _config(header: GGUFHeader) -> tuple[dict[str, Any], LlamaConfig]:
    """`config.json`, and the same checked."""
    metadata = header.metadata
    if header.text("general.architecture") != "llama":
        raise _refused(header, f"its architecture is {header.text('general.architecture')}, not llama")
    scaling = {key for key in metadata if key.startswith("llama.rope.scal") and metadata[key] not in ("none", 0, 1)}
    if scaling:
        raise _refused(header, f"it stretches its context: {', '.join(sorted(scaling))}")
    if metadata.get("llama.expert_count"):
        raise _refused(header, "it is a mixture of experts")
    content = {name: _shortest(metadata[key]) for name, key in _SHAPE.items() if key in metadata}
    names = {tensor.name for tensor in header.tensors}
    content["vocab_size"] = len(header.texts("tokenizer.ggml.tokens"))
    content["tie_word_embeddings"] = "output.weight" not in names
    content["rope_theta"] = content.get("rope_theta", 10000.0)
    content["rope_parameters"] = {"rope_type": "default", "rope_theta": content["rope_theta"]}
    try:
        config = msgspec.convert(content, LlamaConfig)
    except msgspec.ValidationError as error:
        raise _broken(header, f"its shape is none: {error}") from error
    for key in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if metadata.get(key, config.head) != config.head:
            raise _refused(header, f"{key} is {metadata[key]}, and a head has {config.head}")
    if config.head % 2:
        raise _refused(header, f"its heads have the odd width {config.head}")
    content |= {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "head_dim": config.head,
        "num_key_value_heads": config.key_value_heads,
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": False,
        "dtype": "float32",
    }
    return content, config


def _shortest(value: object) -> object:
    """A float32 of the file as the number that a person wrote: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _tensors(header: GGUFHeader, weights: GGUFWeights, config: LlamaConfig) -> dict[str, Later]:
    """Each tensor by its name in transformers."""
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    biased = "blk.0.attn_q.bias" in weights.entries
    tensors, left = {}, dict(weights.entries)
    for key, shape in tensor_shapes(config).items():
        if key.endswith(".bias") and not biased:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name is not None, key
        found = left.pop(name).shape if name in left else "nothing"
        if found != shape:
            raise _broken(header, f"it has {found} for {name!r}, where {shape} is needed")
        tensors[key] = Later(shape=shape, make=partial(_made, weights, name, key, config))
    if left:
        raise _refused(header, f"its tensor {min(left)!r} has no place in {ARCHITECTURE}")
    return tensors


def _made(weights: GGUFWeights, name: str, key: str, config: LlamaConfig) -> NDArray[np.float32]:
    return from_rope_order(weights.weights(name), key, config)


def _tokenizer(header: GGUFHeader) -> dict[str, Any]:
    """`tokenizer.json`."""
    pre = header.text("tokenizer.ggml.pre") or "missing"
    if header.text("tokenizer.ggml.model") != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise _refused(header, f"its tokenizer is not byte-level BPE with one of the pre-tokenizers {known}")
    for adds in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        if header.metadata.get(f"tokenizer.ggml.{adds}"):
            raise _refused(header, f"its tokenizer adds something to the text ({adds})")
    types = _token_types(header)
    merges = [_halves(merge) for merge in header.texts("tokenizer.ggml.merges")]
    # Holes of a rounded-up vocabulary have made-up names, which are left out.
    vocabulary = {token: index for index, (token, kind) in enumerate(types) if kind != TokenType.UNUSED}
    for left, right in merges:
        if not {left, right, left + right} <= vocabulary.keys():
            raise _broken(header, f"its vocabulary lacks a token of the merge {left!r} {right!r}")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(index, token, special=kind in _SPECIAL)
            for index, (token, kind) in enumerate(types)
            if kind in {*_SPECIAL, TokenType.USER_DEFINED}
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, _BYTE_LEVEL]}
        if (before := PRE_TOKENIZERS[pre])
        else _BYTE_LEVEL,
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {**_MODEL, "vocab": vocabulary, "merges": merges},
    }


def _token_types(header: GGUFHeader) -> list[tuple[str, TokenType]]:
    """Each token and what it is, by its number."""
    tokens = header.texts("tokenizer.ggml.tokens")
    types = header.integers("tokenizer.ggml.token_type") or (TokenType.NORMAL,) * len(tokens)
    known = {*_SPECIAL, TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED}
    if len(types) != len(tokens) or not known.issuperset(types):
        raise _broken(header, "it does not say of each token what it is")
    ((token, count),) = Counter(tokens).most_common(1) or [("", 1)]
    if count > 1:
        raise _broken(header, f"its vocabulary has {token!r} {count} times")
    return [(token, TokenType(kind)) for token, kind in zip(tokens, types, strict=True)]


def _halves(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _added(index: int, token: str, *, special: bool) -> dict[str, Any]:
    asks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": token, **asks, "special": special}


def _tokenizer_config(header: GGUFHeader, config: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json`."""
    tokens = header.texts("tokenizer.ggml.tokens")
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    for name in ("bos_token", "eos_token", "pad_token"):
        index = config.get(f"{name}_id")
        if index is not None and 0 <= index < len(tokens):
            content[name] = tokens[index]
    if template := header.text("tokenizer.chat_template"):
        content["chat_template"] = template
    if order := header.text(FIM_ORDER):
        content["fim_order"] = order
    return content


def _refused(header: GGUFHeader, what: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"{header.path} cannot become a Hugging Face folder: {what}.",
        remedy="Use the folder that the file was converted from, or another model.",
    )


def _broken(header: GGUFHeader, cause: str) -> IntegrityError:
    return IntegrityError(
        f"{header.path} is not a usable Llama: {cause}.", remedy="Fetch or convert the model again; keep no part of it."
    )
