"""Scores: how alike texts are, where a completion ends, whether a program parses, and where a mean lies; pure."""

import ast
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# NOTE: suites and runs score by these. Whoever changes what one returns raises `EDITION` in `tandem.evals.checks`.

_RESAMPLES = 2000
_STOP_CHARACTERS = 8  # of the suffix's line, at which a completion may stop


class Interval(NamedTuple):
    """A mean and where it lies with 95 % confidence."""

    mean: float
    low: float
    high: float


def bootstrapped(scores: NDArray[np.float64], random: np.random.Generator) -> Interval:
    """The mean of at least one score with the percentile bootstrap's interval: the middle 95 % of the means of as many
    scores, drawn again and again.
    """
    drawn = random.integers(0, len(scores), size=(_RESAMPLES, len(scores)))
    low, high = np.quantile(scores[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(scores.mean()), float(low), float(high))


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: the fewest characters inserted, deleted or replaced that make one text the other."""
    if len(first) < len(second):
        first, second = second, first
    across = np.arange(len(second) + 1)
    row, letters = across, _letters(second)
    for letter in _letters(first):
        fresh = row + 1  # a deletion
        fresh[1:] = np.minimum(fresh[1:], row[:-1] + (letters != letter))
        # An insertion adds 1 for each place to the right, so the least of `value - place` so far is what counts.
        row = np.minimum.accumulate(fresh - across) + across
    return int(row[-1])


def edit_similarity(first: str, second: str) -> float:
    """1 for equal texts, 0 for texts without anything in common: 1 - distance / length of the longer one."""
    longer = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longer if longer else 1.0


def stopped_at_suffix(completion: str, suffix: str) -> str:
    """A completion up to where the text after the gap begins, as far as that can be told.

    As an editor does it, whoever completes: a model that goes from left to right cannot know where the gap ends, and
    one that was taught to may miss it. It stops at the first place where the longest possible part of the suffix line
    follows.
    """
    line = suffix.partition("\n")[0][:_STOP_CHARACTERS]
    for size in range(len(line), 0, -1):
        before, found, _ = completion.partition(line[:size])
        if found:
            return before
    return completion


def parses(program: str) -> bool:
    """Whether it is a Python program, by its grammar."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes and comparisons
            ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _letters(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
