"""Text as a model sees it: a tokenizer's ids, its control tokens, and chats with what counts in them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tandem.kit.errors import IntegrityError, UnsupportedFeature
from tandem.spec import Recipe
from tandem.train.data.chat import ChatTemplate, Span
from tandem.train.data.folders import changed, digest_of, file_facts, hex_of

END = "<|endoftext|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

_ROUND = 64  # sizes of a vocabulary that compute well are multiples of it
_PIECE = 2**18  # characters that are encoded at once
_SAFE_EDGE = re.compile(r"(?<=\S\n)(?=\S)")  # no token of a byte-level vocabulary reaches across


class _Config(msgspec.Struct):
    """`tokenizer_config.json` and `config.json`, as far as they are needed here."""

    vocab_size: int = 0
    chat_template: Any = None
    eos_token: Any = None
    bos_token: Any = None
    pad_token: Any = None
    unk_token: Any = None


class Text:
    """A tokenizer with what training needs. Byte-level BPE: every text has ids, and ids give back its bytes.

    `size` is the number of the model's embedding rows, `end` the id of a document's end, `folder` holds
    tokenizer.json and tokenizer_config.json. Control tokens are made by id only: text that spells one is text.

    Raises:
        IntegrityError: the folder's tokenizer is missing or damaged.
        UnsupportedFeature: it has no token for the end of a document.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokenizer = _load(folder / TOKENIZER_FILES[0])
        self._tokenizer.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token.content: number for number, token in added.items() if token.special}
        self._added = {token.content: number for number, token in added.items()}
        self._config = _read_config(folder / TOKENIZER_FILES[1])
        last = max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        rows = _read_config(folder / "config.json").vocab_size  # a parent's
        self.size = rows or -(-(last + 1) // _ROUND) * _ROUND
        self.end = self._end()

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text, int32[L]; none of them is a control token."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The ids of each text; faster than one by one."""
        pieces = [_pieces(text) for text in texts]
        flat = [piece for parts in pieces for piece in parts]
        encoded = iter(self._tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        return [_joined([next(encoded).ids for _ in parts]) for parts in pieces]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of tokens; a control token gives its name, an id without a token nothing."""
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids  # Python's own numbers are faster to look up
        return b"".join([self._bytes[number] for number in numbers])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; bytes that are no character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def byte_counts(self) -> NDArray[np.int32]:
        """How many bytes of text each token stands for, int32[size]; control tokens stand for none."""
        counts = np.array([len(token) for token in self._bytes], dtype=np.int32)
        counts[list(self._special.values())] = 0
        return counts

    def special(self, token: str) -> int | None:
        """The id of a control token such as `<|fim_prefix|>`, if there is one."""
        return self._added.get(token)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], *, generation: bool) -> str:
        """The messages in the chat template, with the opening of the assistant's next turn where `generation`.

        Raises:
            UnsupportedFeature: there is no chat template.
            ValueError: the template refuses these messages.
        """
        return self._template.render(messages, generation=generation)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """A chat's ids and weights, int32[L] and float32[L].

        A weight is 1 on what the assistant says, the token that ends its turn included, and else 0. The template's
        control tokens are control tokens; what the messages spell is text.

        Raises:
            UnsupportedFeature: there is no chat template, or it hides where the assistant's turns are.
            ValueError: the template refuses these messages.
        """
        ids, weights = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for span in self._template.spans(messages):
            piece = self._span_ids(span)
            ids.append(piece)
            weights.append(np.full(len(piece), float(span.counts), dtype=np.float32))
        return np.concatenate(ids), np.concatenate(weights)

    def encode_prompt(self, messages: Sequence[Mapping[str, Any]]) -> NDArray[np.int32]:
        """The ids of a chat up to where the assistant is to speak, int32[L], by the same rules.

        Raises:
            UnsupportedFeature, ValueError: as `encode_chat`.
        """
        return np.concatenate([self._span_ids(span) for span in self._template.prompt(messages)])

    def _span_ids(self, span: Span) -> NDArray[np.int32]:
        if span.control:
            return np.array([self._special[span.text]], dtype=np.int32)
        return self.encode(span.text)

    @cached_property
    def _template(self) -> ChatTemplate:
        source = self._config.chat_template
        if isinstance(source, list):  # several, by name
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if source is None and (path := self.folder / "chat_template.jinja").is_file():
            source = path.read_text(encoding="utf-8")
        if not isinstance(source, str):
            raise UnsupportedFeature(
                f"The tokenizer in {self.folder} has no chat template.",
                remedy="Use a parent that has learnt to chat, or train on text.",
            )
        tokens = {key: _content(getattr(self._config, key)) for key in ("bos_token", "eos_token", "pad_token")}
        return ChatTemplate(source, specials=self._special, tokens={key: value or "" for key, value in tokens.items()})

    @cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of each id."""
        of_character = _bytes_of_characters()
        table = [b""] * max(self.size, 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values()))
        for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token in self._added:
                table[number] = token.encode()
            else:
                table[number] = bytes(of_character[character] for character in token if character in of_character)
        return table

    def _end(self) -> int:
        found = self._added.get(END, self._added.get(_content(self._config.eos_token) or ""))
        if found is None:
            raise UnsupportedFeature(
                f"The tokenizer in {self.folder} has neither {END} nor an end of its own.",
                remedy="Use another parent, or train a tokenizer from the data.",
            )
        return found


def open_text(home: Path, recipe: Recipe) -> Text:
    """The tokenizer that a pinned recipe names, checked against its digest.

    Raises:
        IntegrityError: it is missing or has changed.
    """
    folder = text_folder(home, recipe)
    digest = text_digest(folder)
    if digest != recipe.tokenizer.sha256:
        raise changed(folder / TOKENIZER_FILES[0], f"has changed: it is {digest}, not {recipe.tokenizer.sha256}")
    return Text(folder)


def text_folder(home: Path, recipe: Recipe) -> Path:
    """Where the tokenizer of a pinned recipe is: its own folder, or its parent's."""
    if recipe.model.shape is not None:
        return home / "tokenizers" / hex_of(recipe.tokenizer.sha256)
    return home / "parents" / hex_of(recipe.model.parent_sha256)


def text_digest(folder: Path) -> str:
    """The digest of the tokenizer in a folder.

    Raises:
        IntegrityError: a file of it is missing.
    """
    try:
        return f"sha256:{digest_of({name: file_facts(folder / name).sha256 for name in TOKENIZER_FILES})}"
    except FileNotFoundError as error:
        raise changed(Path(error.filename), "is missing") from error


def _load(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions, for missing and damaged files alike
        raise IntegrityError(
            f"{path} is not a usable tokenizer: {error}.", remedy="Prepare or pull it again."
        ) from error


def _read_config(path: Path) -> _Config:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Config)
    except FileNotFoundError:
        return _Config()
    except msgspec.DecodeError as error:
        raise IntegrityError(
            f"{path} is not what it should be: {error}.", remedy="Prepare or pull it again."
        ) from error


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _pieces(text: str) -> list[str]:
    """A long text in pieces whose ids, joined, are the text's: encoding takes 100 times the memory of what it is of."""
    if len(text) <= _PIECE:
        return [text]
    pieces, begin = [], 0
    while len(text) - begin > _PIECE and (edge := _SAFE_EDGE.search(text, begin + _PIECE)):
        pieces.append(text[begin : edge.start()])
        begin = edge.start()
    return [*pieces, text[begin:]]


def _joined(parts: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.concatenate([np.array(part, dtype=np.int32) for part in parts])


def _bytes_of_characters() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for, as GPT-2 chose them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    own = {chr(byte): byte for byte in printable}
    return own | {chr(256 + place): byte for place, byte in enumerate(others)}
