"""Filling gaps in held-out code, by the model and by an n-gram baseline on the same gaps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tandem.spec.scores import edit_similarity, parses, stopped_at_suffix
from tandem.train.data import Samples, Text
from tandem.train.evaluate.examination import Examination, held_out_places, measuring
from tandem.train.evaluate.gain import paired_gain
from tandem.train.evaluate.ngram import MOST_TOKENS, ORDER, NGram, gathered
from tandem.train.nets import greedy
from tandem.train.objectives.fim import Markers, find_markers
from tandem.train.order import generator

_MOST_TOKENS = 64  # of a completion; a line of code has about 12
_SUFFIX_SHARE = 4  # one part in so many of the room is the suffix's, as llama.cpp's /infill shares it out


@dataclass(frozen=True, slots=True)
class Gap:
    """A text with a part of one line hidden."""

    prefix: str
    middle: str
    suffix: str

    def filled(self, completion: str) -> str:
        """The text with something in the gap."""
        return self.prefix + completion + self.suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """What fills gaps: a model with its vocabulary, and the baseline."""

    model: torch.nn.Module
    text: Text
    ngram: NGram
    markers: Markers
    stops: frozenset[int]
    """Tokens that end a line or a text."""
    wordless: frozenset[int]
    """Those of them that stand for no text."""
    context: int
    suffix_first: bool

    def by_model(self, gap: Gap) -> str:
        """The model's completion to the line's end at most, or to the suffix where it does not say that it ends."""
        room = self.context - _most_tokens(self.context)
        prompt = infill_prompt(self.text, self.markers, gap, room=room, suffix_first=self.suffix_first)
        said = greedy(self.model, prompt, _most_tokens(self.context), self.stops)
        ended = bool(said) and said[-1] in self.wordless
        return self._line(said) if ended else stopped_at_suffix(self._line(said), gap.suffix)

    def by_ngram(self, gap: Gap) -> str:
        """The baseline's, which sees the prefix's last tokens, and from the suffix only where to stop."""
        seen = self.text.encode(gap.prefix)[-ORDER:].tolist()
        line = self._line(self.ngram.greedy(seen, _most_tokens(self.context), self.stops))
        return stopped_at_suffix(line, gap.suffix)

    def _line(self, ids: Sequence[int]) -> str:
        words = [token for token in ids if token not in self.wordless]
        return self.text.decode(words).partition("\n")[0]


def infill_report(exam: Examination, train: Samples) -> dict[str, Any]:
    """How well gaps in held-out code are filled, next to an n-gram model that has counted the training side.

    Two kinds: `single_line` hides the rest of a line from some character on, `span` a part of a line. For each:
    `exact_match` and `edit_similarity` (means, trailing white space aside), `parses` (share of the filled texts that
    Python can parse, of those texts that it can parse unharmed; None where there is none), the baseline's, and the
    gain on it as [mean, low, high], the interval holding 95 % of a paired bootstrap.
    """
    filler = _filler(exam, train)
    found: dict[str, Any] = {"baseline": f"interpolated {ORDER}-gram of tokens", "baseline_tokens": filler.ngram.size}
    with measuring(exam.model):
        for kind, hide in (("single_line", hide_rest_of_line), ("span", hide_span)):
            gaps = list(_gaps(exam, hide))
            ours, theirs = [], []
            for gap in gaps:
                exam.beat()
                ours.append(filler.by_model(gap))
                theirs.append(filler.by_ngram(gap))
            found[kind] = _compared(gaps, ours, theirs, seed=exam.seed)
    return found


def hide_rest_of_line(text: str, random: np.random.Generator) -> Gap | None:
    """A gap from a character of a line to its end; None in a text without words."""
    start, stop = _words_of_a_line(text, random)
    if start == stop:
        return None
    first = int(random.integers(start, stop))
    end = text.find("\n", first)
    end = end if end >= 0 else len(text)
    return Gap(text[:first], text[first:end], text[end:])


def hide_span(text: str, random: np.random.Generator) -> Gap | None:
    """A gap from a character of a line, no white space, to a later one; None in a text without words."""
    start, stop = _words_of_a_line(text, random)
    if start == stop:
        return None
    first = int(random.choice([place for place in range(start, stop) if not text[place].isspace()]))
    last = int(random.integers(first + 1, stop + 1))
    return Gap(text[:first], text[first:last], text[last:])


def infill_prompt(text: Text, markers: Markers, gap: Gap, *, room: int, suffix_first: bool = False) -> list[int]:
    """The question in at most `room` tokens, in PSM form or suffix first: of the prefix the end is kept, of the suffix
    the start.
    """
    prefix, suffix = text.encode(gap.prefix).tolist(), text.encode(gap.suffix).tolist()
    room -= 3
    after = min(len(suffix), max(room // _SUFFIX_SHARE, room - len(prefix)))
    before = min(len(prefix), room - after)
    prefix, suffix = prefix[len(prefix) - before :], suffix[:after]
    if suffix_first:
        return [markers.prefix, markers.suffix, *suffix, markers.middle, *prefix]
    return [markers.prefix, *prefix, markers.suffix, *suffix, markers.middle]


def _filler(exam: Examination, train: Samples) -> Filler:
    text, markers = exam.text, find_markers(exam.text)
    counted = gathered((segment for row in range(len(train)) for segment in train[row]["segments"]), most=MOST_TOKENS)
    wordless = frozenset(np.flatnonzero(text.byte_counts() == 0).tolist())
    newlines = frozenset(token for token in range(text.size) if b"\n" in text.decode_bytes([token]))
    return Filler(
        model=exam.model,
        text=text,
        ngram=NGram(counted, vocabulary=text.size),
        markers=markers,
        stops=newlines | wordless,
        wordless=wordless,
        context=exam.context,
        suffix_first=exam.suffix_first,
    )


def _gaps(exam: Examination, hide: Callable[[str, np.random.Generator], Gap | None]) -> Iterator[Gap]:
    """A gap in each of at most `count` held-out texts, the same ones each time."""
    places = held_out_places(len(exam.samples), count=len(exam.samples), seed=exam.seed)
    texts = (segment for place in places for segment in exam.samples[place]["segments"])
    left = exam.count
    for number, segment in enumerate(texts):
        ids = np.asarray(segment, dtype=np.int32)
        words = exam.text.decode_bytes(ids[ids != exam.text.end]).decode("utf-8", errors="ignore")
        gap = hide(words, generator(exam.seed, f"infill {hide.__name__}", number))
        if gap is not None:
            yield gap
            left -= 1
        if not left:
            return


def _words_of_a_line(text: str, random: np.random.Generator) -> tuple[int, int]:
    """Where some line that is not blank begins and ends, without the white space around it."""
    lines = text.split("\n")
    written = [number for number, line in enumerate(lines) if line.strip()]
    if not written:
        return 0, 0
    number = written[int(random.integers(len(written)))]
    line = lines[number]
    begins = sum(len(before) + 1 for before in lines[:number])
    return begins + len(line) - len(line.lstrip()), begins + len(line.rstrip())


def _compared(gaps: Sequence[Gap], ours: Sequence[str], theirs: Sequence[str], *, seed: int) -> dict[str, Any]:
    scores = {
        "exact_match": lambda gap, said: float(said.rstrip() == gap.middle.rstrip()),
        "edit_similarity": lambda gap, said: edit_similarity(said.rstrip(), gap.middle.rstrip()),
    }
    found: dict[str, Any] = {"samples": len(gaps)}
    for name, score in scores.items():
        mine = [score(gap, said) for gap, said in zip(gaps, ours, strict=True)]
        other = [score(gap, said) for gap, said in zip(gaps, theirs, strict=True)]
        gain = paired_gain(mine, other, seed=seed)
        found |= {name: _mean(mine), f"baseline_{name}": _mean(other), f"{name}_gain": list(gain)}
    whole = [place for place, gap in enumerate(gaps) if parses(gap.filled(gap.middle))]
    found["parsable"] = len(whole)
    found["parses"] = _mean([float(parses(gaps[place].filled(ours[place]))) for place in whole])
    found["baseline_parses"] = _mean([float(parses(gaps[place].filled(theirs[place]))) for place in whole])
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _most_tokens(context: int) -> int:
    return min(_MOST_TOKENS, context // 4)
