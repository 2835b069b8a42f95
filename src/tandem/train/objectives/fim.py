"""The objective `fim`: text and code with a hidden middle, which is predicted from what surrounds it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.kit.errors import InvalidRequest
from tandem.spec.recipe import Parameter, Recipe, Share
from tandem.train.data import Text
from tandem.train.objectives.likelihood import token_loss, tokens_example
from tandem.train.objectives.objective import Batch, Example, Loss, Record
from tandem.train.objectives.params import Params, checked

Ids = NDArray[np.int32]


class FimParams(Params, frozen=True):
    """`rate` of the segments are rearranged; `spm` of those have the suffix first, and `lines` of them hide a part of
    one line, as an editor asks for, in place of any stretch of text. A model of which more than half of the gaps had
    the suffix first is asked in that order too.
    """

    rate: Share = 0.5
    spm: Share = 0.5
    lines: Share = 0.0


def suffix_first_of(recipe: Recipe) -> bool:
    """Whether a recipe's model is to be asked suffix first: more than half of its gaps were trained in that order."""
    return recipe.objective.name == "fim" and checked(recipe.objective.params, FimParams, objective="fim").spm > 0.5


class Pieces(NamedTuple):
    """A segment in three; their bytes, one after the other, are the segment's."""

    prefix: Ids
    middle: Ids
    suffix: Ids


class Markers(NamedTuple):
    """The control tokens between pieces."""

    prefix: int
    suffix: int
    middle: int
    end: int


class Fim:
    """Fill in the middle by Bavarian et al. (arXiv 2207.14255), at the level of the context: cut after packing.

    Both forms begin with the same marker, so that one model learns them together:
    PSM <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>, which is what llama.cpp's
    /infill asks with, and SPM <|fim_prefix|><|fim_suffix|> suffix <|fim_middle|> prefix middle <|endoftext|>.
    All tokens count, as in the paper.
    """

    formats = frozenset({"text", "code"})
    needs_reference = False

    def __init__(self, params: Mapping[str, Parameter], *, context: int) -> None:
        self._params = checked(params, FimParams, objective="fim")
        self._context = context

    def prepare(self, record: Record, text: Text, random: np.random.Generator) -> Example:
        """The row with each of its segments rearranged, or not, by its own draw."""
        markers = find_markers(text)
        segments = [self._segment(segment, text, markers, random) for segment in record["segments"]]
        ids = np.concatenate(segments)
        return tokens_example(ids, np.ones(len(ids)), context=self._context)

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """The sum of -log p of the tokens."""
        return token_loss(model, batch)

    def _segment(self, segment: Sequence[int], text: Text, markers: Markers, random: np.random.Generator) -> Ids:
        ids = np.asarray(segment, dtype=np.int32)
        if random.random() >= self._params.rate:
            return ids
        whole = ids[:-1] if len(ids) and ids[-1] == markers.end else ids
        pieces = cut(whole, text, random, lines=self._params.lines)
        if random.random() < self._params.spm:
            return suffix_first(pieces, markers)
        return prefix_first(pieces, markers)


def find_markers(text: Text) -> Markers:
    """The markers of a vocabulary.

    Raises:
        InvalidRequest: it has none.
    """
    prefix, suffix, middle = (text.special(f"<|fim_{piece}|>") for piece in ("prefix", "suffix", "middle"))
    if prefix is None or suffix is None or middle is None:
        raise InvalidRequest(
            "The tokenizer has no <|fim_prefix|>, <|fim_suffix|> and <|fim_middle|>, which the objective 'fim' needs.",
            remedy="Train from a shape: new tokenizers have them. Or name a parent that has learnt to fill in.",
            param="objective.name",
        )
    return Markers(prefix, suffix, middle, text.end)


def prefix_first(pieces: Pieces, markers: Markers) -> Ids:
    """PSM, the middle last."""
    return _joined(
        [markers.prefix], pieces.prefix, [markers.suffix], pieces.suffix, [markers.middle], pieces.middle, [markers.end]
    )


def suffix_first(pieces: Pieces, markers: Markers) -> Ids:
    """SPM in the form that is trained together with PSM: the prefix and the middle last, as one text."""
    return _joined(
        [markers.prefix, markers.suffix], pieces.suffix, [markers.middle], pieces.prefix, pieces.middle, [markers.end]
    )


def cut(ids: Ids, text: Text, random: np.random.Generator, *, lines: float = 0.0) -> Pieces:
    """Cut at two places drawn evenly among the characters' edges, or for a share of `lines` in one line, half of the
    time up to its end, and encode the pieces anew.

    A segment may begin or end inside a character, since packing cuts between tokens. Its tokens there stay as they
    are, at the prefix's start and the suffix's end.
    """
    head, tail = _whole_characters(ids, text)
    inner = text.decode_bytes(ids[head:tail]).decode("utf-8")
    first, second = _in_a_line(inner, random) if random.random() < lines else _anywhere(inner, random)
    return Pieces(
        prefix=_joined(ids[:head], text.encode(inner[:first])),
        middle=text.encode(inner[first:second]),
        suffix=_joined(text.encode(inner[second:]), ids[tail:]),
    )


def _anywhere(text: str, random: np.random.Generator) -> tuple[int, int]:
    first, second = sorted(int(place) for place in random.integers(0, len(text) + 1, size=2))
    return first, second


def _in_a_line(text: str, random: np.random.Generator) -> tuple[int, int]:
    """From a character that is no white space, drawn evenly, to the end of its line or to a place before that."""
    written = np.array([not character.isspace() for character in text]).nonzero()[0]
    if not len(written):
        return _anywhere(text, random)
    first = int(random.choice(written))
    end = text.find("\n", first)
    end = end if end >= 0 else len(text)
    second = end if random.random() < 0.5 else int(random.integers(first + 1, end + 1))
    return first, second


def _whole_characters(ids: Ids, text: Text) -> tuple[int, int]:
    """The first token that begins a character, and the last edge between tokens up to which all are whole."""
    data = text.decode_bytes(ids)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return 0, len(ids)
    edges = np.cumsum([0, *(len(text.decode_bytes([token])) for token in ids.tolist())])
    inside = np.array([byte & 0xC0 == 0x80 for byte in data] + [_torn(data)])
    whole = np.flatnonzero(~inside[edges])
    return (int(whole[0]), int(whole[-1])) if len(whole) else (len(ids), len(ids))


def _torn(data: bytes) -> bool:
    """Whether the bytes end inside a character."""
    for back, byte in enumerate(reversed(data[-4:]), start=1):
        if byte & 0xC0 != 0x80:  # where the last character begins; its first byte tells its length
            return back < (1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return True


def _joined(*parts: Sequence[int] | Ids) -> Ids:
    return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
