"""A tiny Llama with random weights, written in milliseconds, for trying engines without a download."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType
from numpy.typing import NDArray

from tandem.formats.gguf_writing import gguf_writing

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML without tools."""

TOOLS_TEMPLATE = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
    "{{- '# Tools\\n\\nCall functions with these signatures:\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"
    "{{- '\\n</tools>\\n\\nFor each call return JSON in tags:\\n<tool_call>\\n' }}"
    '{{- \'{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n\' }}'
    "{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- set call = call.function or call %}"
    '{{- \'\\n<tool_call>\\n{"name": "\' + call.name + \'", "arguments": \' }}'
    "{{- call.arguments if call.arguments is string else call.arguments | tojson }}"
    "{{- '}\\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""ChatML with the Hermes form of tool calls, which llama.cpp knows and can hold a model to."""

_MERGES = ("Ġ t", "h e", "Ġ a", "i n", "r e", "Ġt he", "e r", "o n")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TOOL_CALL = "<tool_call>Ċ"  # Ċ stands for the line feed, which llama.cpp's grammar wants after it
_FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyShape:
    """The dimensions of the tiny model: about 0.1 million weights, 0.5 MB as f32."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    feed_forward: int = 128


def write_tiny_gguf(
    path: Path,
    *,
    fim: bool = False,
    tools: bool = False,
    chat: bool = True,
    seed: int = 0,
    context_length: int = 512,
    shape: TinyShape | None = None,
) -> Path:
    """Write a random Llama with a byte-level vocabulary to `path`; equal arguments give equal bytes.

    It writes printable ASCII and never ends by itself, so an answer has as many tokens as were allowed. `fim`
    adds fill-in-the-middle tokens, `chat` a ChatML template, `tools` one that takes tools: such a model also
    begins tool calls and ends its answers now and then.
    """
    shape = shape or TinyShape()
    tokens = [
        *_byte_tokens(),
        *(merge.replace(" ", "") for merge in _MERGES),
        *_SPECIAL,
        *(_FIM if fim else ()),
        *((_TOOL_CALL,) if tools else ()),
    ]
    with gguf_writing(path, architecture="llama") as writer:
        writer.add_name(f"tiny-{seed}")
        writer.add_file_type(LlamaFileType.ALL_F32)
        writer.add_license("apache-2.0")
        _add_shape(writer, shape, context_length=context_length, vocabulary=len(tokens))
        _add_tokenizer(writer, tokens, fim=fim)
        if chat or tools:
            writer.add_chat_template(TOOLS_TEMPLATE if tools else CHAT_TEMPLATE)
        for name, weights in _weights(shape, tokens, seed=seed):
            writer.add_tensor(name, weights)
    return path


def _byte_tokens() -> list[str]:
    """One printable character for each byte, in GPT-2's order: the printable bytes stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def _add_shape(writer: GGUFWriter, shape: TinyShape, *, context_length: int, vocabulary: int) -> None:
    head = shape.width // shape.heads
    writer.add_vocab_size(vocabulary)
    writer.add_context_length(context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_tokenizer(writer: GGUFWriter, tokens: list[str], *, fim: bool) -> None:
    special = {*_SPECIAL, *_FIM}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    if fim:
        writer.add_uint32("tokenizer.ggml.fim_pre_token_id", tokens.index(_FIM[0]))
        writer.add_uint32("tokenizer.ggml.fim_suf_token_id", tokens.index(_FIM[1]))
        writer.add_uint32("tokenizer.ggml.fim_mid_token_id", tokens.index(_FIM[2]))


def _weights(shape: TinyShape, tokens: list[str], *, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return (1 + 0.1 * random.standard_normal(shape.width)).astype(np.float32)

    # Channel 0 of the residual stream is a constant: the output layer's bias towards printable ASCII.
    embeddings = matrix(len(tokens), shape.width, 1.0)
    embeddings[:, 0] = 4.0
    words = [token.removeprefix("Ġ") for token in tokens]  # Ġ stands for a space before the word
    printable = np.array([word.isascii() and word not in {*_SPECIAL, *_FIM, _TOOL_CALL} for word in words])
    output = matrix(len(tokens), shape.width, 0.2)
    output[:, 0] = np.where(printable, 4.0, -4.0)
    if _TOOL_CALL in tokens:  # each of the two comes about once in 20 tokens
        for token in (_TOOL_CALL, "<|im_end|>"):
            output[tokens.index(token)] = 0.0
            output[tokens.index(token), 0] = 4.8
        output[tokens.index(","), 0] = -4.0  # else the grammar's lists of calls grow without end
    yield "token_embd.weight", embeddings
    key_value_width = shape.width // shape.heads * shape.key_value_heads
    for layer in range(shape.layers):
        prefix, scale = f"blk.{layer}", shape.width**-0.5
        for name, rows, columns in (
            ("attn_q", shape.width, shape.width),
            ("attn_k", key_value_width, shape.width),
            ("attn_v", key_value_width, shape.width),
            ("attn_output", shape.width, shape.width),
            ("ffn_gate", shape.feed_forward, shape.width),
            ("ffn_up", shape.feed_forward, shape.width),
            ("ffn_down", shape.width, shape.feed_forward),
        ):
            weights = matrix(rows, columns, scale)
            if name in {"attn_output", "ffn_down"}:
                weights[0] = 0.0
            yield f"{prefix}.{name}.weight", weights
        yield f"{prefix}.attn_norm.weight", norm()
        yield f"{prefix}.ffn_norm.weight", norm()
    yield "output_norm.weight", norm()
    yield "output.weight", output
