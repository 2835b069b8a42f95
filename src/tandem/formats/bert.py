"""Conversion of BERT sentence encoders (all-MiniLM and its like) from a Hugging Face folder to GGUF."""

from pathlib import Path
from typing import Any

import msgspec
from gguf import MODEL_ARCH, GGUFWriter, PoolingType, TokenType, get_tensor_name_map

from tandem.formats.gguf_writing import FILE_TYPES, add_weights, gguf_writing
from tandem.formats.hf_folder import Count, HFFolder, Layers
from tandem.kit.errors import IntegrityError

ARCHITECTURE = "BertModel"
_UNUSED = frozenset({"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"})
_SPECIAL = {
    "bos_token_id": "[CLS]",  # what llama.cpp's WordPiece puts first
    "seperator_token_id": "[SEP]",  # misspelt in GGUF
    "unknown_token_id": "[UNK]",
    "padding_token_id": "[PAD]",
    "mask_token_id": "[MASK]",
}


class _Config(msgspec.Struct):
    """`config.json` as far as a conversion needs it."""

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Layers
    num_attention_heads: Count
    max_position_embeddings: Count
    layer_norm_eps: float
    hidden_act: str
    type_vocab_size: Count = 1
    position_embedding_type: str | None = "absolute"


class _Tokenizer(msgspec.Struct):
    do_lower_case: bool | None = True


def convert_bert(folder: HFFolder, dest: Path, *, name: str, kind: str = "f16") -> Path:
    """Write the encoder in `folder` to the GGUF file `dest` with weights of `kind` (f32, f16, bf16, q8_0).

    Raises:
        UnsupportedFeature: it is another model, a cased one, or has another pooling than mean or first token.
        IntegrityError: a file of the folder is damaged.
    """
    config = _checked_config(folder)
    tokens = _vocabulary(folder, config.vocab_size)
    with gguf_writing(dest, architecture="bert") as writer:
        writer.add_name(name)
        writer.add_file_type(FILE_TYPES[kind][0])
        _add_shape(writer, config)
        writer.add_pooling_type(_pooling(folder))
        _add_tokenizer(writer, tokens, token_types=config.type_vocab_size)
        names = get_tensor_name_map(MODEL_ARCH.BERT, config.num_hidden_layers)
        for key in folder.weights.entries:
            plain = key.removeprefix("bert.")
            if plain in _UNUSED:
                continue
            new_name = names.get_name(plain, try_suffixes=(".weight", ".bias"))
            if new_name is None:
                raise folder.refuse(f"its tensor {key!r} has no place in llama.cpp's bert")
            # Position and type embeddings are added to f32 sums, and are small: no quantization.
            exact = new_name.startswith(("position_embd", "token_types"))
            add_weights(writer, new_name, folder.weights.weights(key), kind="f32" if exact else kind)
    return dest


def _checked_config(folder: HFFolder) -> _Config:
    if folder.architecture != ARCHITECTURE:
        raise folder.refuse(f"its architecture is {folder.architecture}, not {ARCHITECTURE}")
    config = folder.read("config.json", _Config)
    if config.position_embedding_type not in {None, "absolute"}:
        raise folder.refuse("its positions are not absolute")
    if config.hidden_act != "gelu":
        raise folder.refuse(f"its activation is {config.hidden_act}, not gelu")
    if folder.has("tokenizer_config.json") and not folder.read("tokenizer_config.json", _Tokenizer).do_lower_case:
        raise folder.refuse("it is a cased model, and llama.cpp's WordPiece always lowers the case")
    return config


def _vocabulary(folder: HFFolder, size: int) -> list[str]:
    tokens = folder.text("vocab.txt").removesuffix("\n").split("\n")
    missing = set(_SPECIAL.values()) - set(tokens)
    if len(tokens) != size or missing:
        raise IntegrityError(
            f"{folder.path / 'vocab.txt'} has {len(tokens)} of {size} tokens, and lacks {sorted(missing)}.",
            remedy="Fetch the model again.",
        )
    return tokens


def _add_shape(writer: GGUFWriter, config: _Config) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)


def _pooling(folder: HFFolder) -> PoolingType:
    """Sentence-transformers keeps the pooling in a folder of its own; without one, the mean is the custom."""
    if not folder.has("1_Pooling/config.json"):
        return PoolingType.MEAN
    modes = {key for key, value in folder.read("1_Pooling/config.json", dict[str, Any]).items() if value is True}
    if "pooling_mode_mean_tokens" in modes:
        return PoolingType.MEAN
    if "pooling_mode_cls_token" in modes:
        return PoolingType.CLS
    raise folder.refuse(f"its pooling is {sorted(modes)}")


def _add_tokenizer(writer: GGUFWriter, tokens: list[str], *, token_types: int) -> None:
    special = frozenset(_SPECIAL.values())
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token if token in special else _spelled(token) for token in tokens])
    writer.add_token_types(
        [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens],
    )
    writer.add_token_type_count(token_types)
    for key, token in _SPECIAL.items():
        writer.add_uint32(f"tokenizer.ggml.{key}", tokens.index(token))


def _spelled(token: str) -> str:
    """llama.cpp marks the beginnings of words, where BERT marks their continuations."""
    return token.removeprefix("##") if token.startswith("##") else f"▁{token}"
