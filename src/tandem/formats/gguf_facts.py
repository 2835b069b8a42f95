"""What a GGUF file says of its model: size, context, quantization, template, tools, fill-in-the-middle."""

import re
from collections import Counter

from gguf import LlamaFileType

from tandem.formats.gguf_file import GGUFHeader
from tandem.formats.gguf_writing import FIM_ORDER
from tandem.kit.errors import IntegrityError

# Architectures that only make vectors; llama.cpp's names.
_ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "modern-bert"}
    | {"eurobert", "gemma-embedding", "t5encoder"}
)
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
MAX_SIZE = 2**31 - 1
"""Of a context, an embedding, or any other dimension that a file names."""
MAX_WORDS = 200
"""Characters of a name or a licence; these are shown to people."""
_POOLING = ("none", "mean", "cls", "last", "rank")

# A fill-in-the-middle model needs all three. llama.cpp takes the ids from these keys (the second is the older
# one), and where neither is there it looks for these texts in the vocabulary (llama-vocab.cpp).
_FIM_KEYS = (
    ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"),
    ("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"),
    ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"),
)
_FIM_TEXTS = (
    frozenset(
        {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"}
        | {"<|code_prefix|>", "<|plamo:fim_prefix|>"}
    ),
    frozenset(
        {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"}
        | {"<|code_suffix|>", "<|plamo:fim_suffix|>"}
    ),
    frozenset(
        {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"}
        | {"<|code_middle|>", "<|plamo:fim_middle|>"}
    ),
)


def facts(header: GGUFHeader) -> dict[str, object]:
    """The facts of a model as plain JSON values.

    Keys: architecture, task ("generate" or "embed"), context_length (tokens), parameters, quantization,
    chat_template (bool), tools (bool: the template has a place for them), fim (bool), fim_suffix_first (bool: the order
    that it was trained in), embedding_length, vocab_size, pooling, name and license; the last three are None where the
    file says nothing.

    Raises:
        IntegrityError: the file has no architecture, a value of the wrong type, or a size that cannot be.
    """
    architecture = header.text("general.architecture")
    if not architecture or not _ARCHITECTURE.fullmatch(architecture):
        raise IntegrityError(
            f"{header.path} does not say which architecture its model has.", remedy="Convert the model again."
        )
    template = header.text("tokenizer.chat_template") or ""
    vocabulary = header.texts("tokenizer.ggml.tokens")
    return {
        "architecture": architecture,
        "task": "embed" if architecture in _ENCODERS else "generate",
        "context_length": _size(header, f"{architecture}.context_length"),
        "parameters": sum(tensor.parameters for tensor in header.tensors),
        "quantization": _quantization(header),
        "chat_template": bool(template),
        "tools": "tools" in template,
        "fim": _has_fim(header, frozenset(vocabulary)),
        "fim_suffix_first": header.text(FIM_ORDER) == "suffix_first",
        "embedding_length": _size(header, f"{architecture}.embedding_length"),
        "vocab_size": len(vocabulary),
        "pooling": _pooling(header, architecture),
        "name": _words(header, "general.name"),
        "license": _words(header, "general.license"),
    }


def _size(header: GGUFHeader, key: str) -> int:
    """A size that the file names, 0 where it does not."""
    size = header.integer(key) or 0
    if not 0 <= size <= MAX_SIZE:
        raise IntegrityError(f"{header.path} says that {key} is {size}.", remedy="Convert the model again.")
    return size


def _words(header: GGUFHeader, key: str) -> str | None:
    """A text for people: of a bounded length, and without characters that could take over a terminal."""
    text = header.text(key)
    return None if text is None else plain_words(text)


def plain_words(text: str) -> str:
    """The printable beginning of a text that came from elsewhere, in one line."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * MAX_WORDS])
    return " ".join(printable.split())[:MAX_WORDS]


def _has_fim(header: GGUFHeader, vocabulary: frozenset[str]) -> bool:
    return all(
        any(header.integer(key) is not None for key in keys) or not texts.isdisjoint(vocabulary)
        for keys, texts in zip(_FIM_KEYS, _FIM_TEXTS, strict=True)
    )


def _quantization(header: GGUFHeader) -> str:
    file_type = header.integer("general.file_type")
    if file_type in set(LlamaFileType):
        return LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    weights: Counter[str] = Counter()
    for tensor in header.tensors:
        weights[tensor.type.name] += tensor.parameters
    return weights.most_common(1)[0][0] if weights else "unknown"


def _pooling(header: GGUFHeader, architecture: str) -> str | None:
    number = header.integer(f"{architecture}.pooling_type")
    return _POOLING[number] if number is not None and 0 <= number < len(_POOLING) else None
