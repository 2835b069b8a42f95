"""New tokenizers: byte-level BPE learnt from the training side of the data, in a folder named by its content."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tandem import spec
from tandem.kit.errors import InvalidRequest
from tandem.train.data.dataset import Dataset, Progress
from tandem.train.data.folders import digest_of, hex_of, recall, remember, shelve, staging
from tandem.train.data.records import texts_of
from tandem.train.data.sources import DOCUMENTS
from tandem.train.data.text import END, TOKENIZER_FILES, text_digest

# NOTE: recipes are pinned to tokenizers. What changes how one is made takes a new version.
VERSION = 1

SPECIALS = (END, "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|pad|>")
"""The control tokens of new tokenizers, with the ids 0 to 6."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_LEAST_OFTEN = 2  # a pair that is there once teaches nothing
_TELL_EVERY = 256  # records


def make_tokenizer(
    wanted: spec.Tokenizer, datasets: Sequence[Dataset], *, home: Path, progress: Progress
) -> tuple[Path, str]:
    """Learn a tokenizer, or find the one that was learnt from the same data before; returns its folder and digest.

    Raises:
        InvalidRequest: the data give another tokenizer than the recipe is pinned to.
        StorageFull: as it says.
    """
    shelf = home / "tokenizers"
    pinned = shelf / hex_of(wanted.sha256)
    if wanted.sha256 and pinned.is_dir():
        return pinned, text_digest(pinned)
    key = digest_of(
        {
            "version": VERSION,
            "vocab": wanted.vocab,
            "pre": wanted.pre,
            "data": [one.digest for one in datasets],
            "library": tokenizers.__version__,
        }
    )
    folder = recall(shelf, key)
    if folder is None:
        folder = _learnt(wanted, datasets, shelf=shelf, progress=progress)
        remember(shelf, key, folder)
    digest = text_digest(folder)
    if wanted.sha256 not in {"", digest}:
        raise InvalidRequest(
            f"The data give the tokenizer {digest}, and the recipe is pinned to {wanted.sha256}.",
            remedy="Bring that tokenizer's folder back, or empty tokenizer.sha256: that is another recipe.",
            param="tokenizer.sha256",
        )
    return folder, digest


def learn(texts: Iterator[str], *, vocab: int, pre: str) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocab` tokens; equal texts give an equal one, in whatever order."""
    bytes_of_text = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = (
        bytes_of_text
        if pre == "gpt-2"
        else pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_of_text])
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=_LEAST_OFTEN,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def _learnt(wanted: spec.Tokenizer, datasets: Sequence[Dataset], *, shelf: Path, progress: Progress) -> Path:
    texts = _texts(datasets, progress)
    chats = any(one.manifest.format not in DOCUMENTS for one in datasets)
    with staging(shelf) as part:
        learn(texts, vocab=wanted.vocab, pre=wanted.pre).save(str(part / TOKENIZER_FILES[0]))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "bos_token": END,
            "eos_token": "<|im_end|>" if chats else END,
            "pad_token": "<|pad|>",
            "chat_template": CHATML,
        }
        (part / TOKENIZER_FILES[1]).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return shelve(part, shelf / hex_of(text_digest(part)))


def _texts(datasets: Sequence[Dataset], progress: Progress) -> Iterator[str]:
    total = sum(one.manifest.counts.train for one in datasets)
    records = (record for one in datasets for record in one.records("train"))
    for number, record in enumerate(records):
        if number % _TELL_EVERY == 0:
            progress("learning the tokenizer", number, total)
        yield from texts_of(record)
