"""Conversion of Llama models from a Hugging Face folder to GGUF: `LlamaForCausalLM`, byte-level BPE, plain rope."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_VERSION, MODEL_ARCH, GGUFWriter, TokenType, get_tensor_name_map
from numpy.typing import NDArray

from tandem.formats.gguf_writing import FILE_TYPES, add_weights, gguf_writing
from tandem.formats.hf_folder import HFFolder
from tandem.kit.errors import IntegrityError

ARCHITECTURE = "LlamaForCausalLM"

# llama.cpp knows pre-tokenizers by name from a closed list; these two are the ones that recipes may use.
_DIGITS = {"type": "Digits", "individual_digits": True}
_PRE_TOKENIZERS = {"gpt-2": [], "smollm": [_DIGITS]}


def convert_llama(folder: HFFolder, dest: Path, *, name: str, kind: str = "q8_0") -> Path:
    """Write the model in `folder` to the GGUF file `dest` with weights of `kind` (f32, f16, bf16, q8_0).

    Raises:
        UnsupportedFeature: another architecture, rope scaling, another tokenizer, or weights in several files.
        IntegrityError: a file of the folder is damaged or a tensor is missing.
    """
    _check(folder)
    tokenizer = folder.json("tokenizer.json")
    pre = _pre_tokenizer(folder, tokenizer)
    with gguf_writing(dest, architecture="llama") as writer:
        writer.add_name(name)
        writer.add_file_type(FILE_TYPES[kind][0])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        _add_shape(writer, folder)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        _add_vocabulary(writer, folder, tokenizer)
        _add_special_ids(writer, folder, tokenizer)
        for new_name, weights in _tensors(folder):
            add_weights(writer, new_name, weights, kind=kind)
    return dest


def _check(folder: HFFolder) -> None:
    config = folder.config
    if folder.architecture != ARCHITECTURE:
        raise folder.refuse(f"its architecture is {folder.architecture}, not {ARCHITECTURE}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise folder.refuse(f"its rope type is {rope_type}, not default")
    if config.get("hidden_act", "silu") != "silu":
        raise folder.refuse(f"its activation is {config['hidden_act']}, not silu")
    if config.get("mlp_bias"):
        raise folder.refuse("its feed-forward layers have biases")


def _pre_tokenizer(folder: HFFolder, tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for how the text is split before BPE.

    Raises:
        UnsupportedFeature: it has none, or the tokenizer is no byte-level BPE.
    """
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("ignore_merges") or model.get("byte_fallback"):
        raise folder.refuse("its tokenizer is not byte-level BPE")
    if tokenizer.get("normalizer") is not None:
        raise folder.refuse("its tokenizer changes the text before it is split")
    if (tokenizer.get("post_processor") or {}).get("type", "ByteLevel") != "ByteLevel":
        raise folder.refuse("its tokenizer adds tokens around the text")
    splitter = tokenizer.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", []) if splitter.get("type") == "Sequence" else [splitter]
    *before, last = steps or [{}]
    byte_level = last.get("type") == "ByteLevel" and last.get("use_regex", True) and not last.get("add_prefix_space")
    for name, wanted in _PRE_TOKENIZERS.items():
        if byte_level and before == wanted:
            return name
    raise folder.refuse(f"its pre-tokenizer is none of {', '.join(sorted(_PRE_TOKENIZERS))}")


def _add_shape(writer: GGUFWriter, folder: HFFolder) -> None:
    config, heads = folder.config, folder.need("num_attention_heads", int)
    head = int(config.get("head_dim") or folder.need("hidden_size", int) // heads)
    rope = config.get("rope_parameters") or {}
    writer.add_vocab_size(folder.need("vocab_size", int))
    writer.add_context_length(folder.need("max_position_embeddings", int))
    writer.add_embedding_length(folder.need("hidden_size", int))
    writer.add_block_count(folder.need("num_hidden_layers", int))
    writer.add_feed_forward_length(folder.need("intermediate_size", int))
    writer.add_head_count(heads)
    writer.add_head_count_kv(_key_value_heads(folder))
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(folder.need("rms_norm_eps", float))


def _key_value_heads(folder: HFFolder) -> int:
    return int(folder.config.get("num_key_value_heads") or folder.need("num_attention_heads", int))


def _add_vocabulary(writer: GGUFWriter, folder: HFFolder, tokenizer: dict[str, Any]) -> None:
    size = folder.need("vocab_size", int)
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [TokenType.UNUSED] * size
    added = {
        token["content"]: (token["id"], TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED)
        for token in tokenizer.get("added_tokens", [])
    }
    known = {token: (index, TokenType.NORMAL) for token, index in tokenizer["model"]["vocab"].items()} | added
    for token, (index, kind) in known.items():
        if not 0 <= index < size:
            raise IntegrityError(
                f"{folder.path / 'tokenizer.json'} has token {index}, and the model has {size}.",
                remedy="Fetch the model again: its tokenizer belongs to another model.",
            )
        tokens[index], types[index] = token, kind
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = tokenizer["model"].get("merges", [])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])


def _add_special_ids(writer: GGUFWriter, folder: HFFolder, tokenizer: dict[str, Any]) -> None:
    ids = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    ids = tokenizer["model"]["vocab"] | ids
    for role, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        # The tokenizer knows the chat model's own end, config.json often still that of its base model.
        named = folder.tokenizer_config.get(f"{role}_token")
        text = named.get("content") if isinstance(named, dict) else named
        number = ids.get(text, folder.config.get(f"{role}_token_id"))
        if isinstance(number, list):
            number = number[0] if number else None
        if number is not None:
            add(int(number))
    writer.add_add_bos_token(False)
    if template := _chat_template(folder):
        writer.add_chat_template(template)


def _chat_template(folder: HFFolder) -> str | None:
    template = folder.tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if template is None and folder.has("chat_template.jinja"):
        template = folder.text("chat_template.jinja")
    return template


def _tensors(folder: HFFolder) -> Iterator[tuple[str, NDArray[np.float32]]]:
    layers, heads = folder.need("num_hidden_layers", int), folder.need("num_attention_heads", int)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, layers)
    tied = folder.config.get("tie_word_embeddings", False)
    entries = folder.weights.entries
    missing = _expected(layers, tied=tied) - set(entries)
    if missing:
        raise IntegrityError(
            f"{folder.weights.path} lacks {sorted(missing)[0]!r} and {len(missing) - 1} more tensors.",
            remedy="Fetch the model again.",
        )
    for key in entries:
        if key.endswith(".rotary_emb.inv_freq") or (tied and key == "lm_head.weight"):
            continue
        new_name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise folder.refuse(f"its tensor {key!r} has no place in llama.cpp's llama")
        weights = folder.weights.weights(key)
        if ".q_proj." in key:
            weights = _interleaved(weights, heads)
        elif ".k_proj." in key:
            weights = _interleaved(weights, _key_value_heads(folder))
        yield new_name, weights


def _expected(layers: int, *, tied: bool) -> set[str]:
    attention = {f"self_attn.{part}_proj.weight" for part in "qkvo"}
    feed_forward = {f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    norms = {"input_layernorm.weight", "post_attention_layernorm.weight"}
    names = {f"model.layers.{layer}.{part}" for layer in range(layers) for part in attention | feed_forward | norms}
    return names | {"model.embed_tokens.weight", "model.norm.weight"} | (set() if tied else {"lm_head.weight"})


def _interleaved(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows in the order of llama.cpp's rope, which turns neighbours, from the halves that transformers turns."""
    rows = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return rows.swapaxes(1, 2).reshape(weights.shape)
