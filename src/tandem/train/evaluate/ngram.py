"""An n-gram model of tokens: the simplest thing that completes code, which a trained model has to beat."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

ORDER = 6
"""Tokens of the longest n-gram: five are looked at to predict the sixth."""
MOST_TOKENS = 4_000_000
"""Tokens that are counted at most; counting them takes some ten seconds of one core and 300 MB."""


class NGram:
    """Counts of all n-grams up to `ORDER`, interpolated after Witten and Bell.

    An n-gram is numbered by its place in a sorted array of keys, and its key is the number of the (n-1)-gram before
    its last token, times the vocabulary, plus that token. So what follows a context lies side by side.
    """

    def __init__(self, tokens: NDArray[np.integer], *, vocabulary: int, order: int = ORDER) -> None:
        self._vocabulary = vocabulary
        self.size = len(tokens)
        """Tokens that were counted."""
        ids = np.asarray(tokens, dtype=np.int64)
        self._first = (np.bincount(ids, minlength=vocabulary) + 1.0) / (len(ids) + vocabulary)
        self._keys: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.int64]] = []
        numbers = ids
        for size in range(2, order + 1):
            keys = numbers[: max(len(ids) - size + 1, 0)] * vocabulary + ids[size - 1 :]
            kept, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
            self._keys.append(kept)
            self._counts.append(counts)

    def probabilities(self, context: Sequence[int]) -> NDArray[np.float64]:
        """Of each token of the vocabulary to follow the context: [V]."""
        p = self._first
        for size in range(1, min(len(self._keys), len(context)) + 1):
            number = self._number(context[-size:])
            if number is None:
                break  # what was never seen was never seen within something longer
            keys = self._keys[size - 1]
            low, high = np.searchsorted(keys, (number * self._vocabulary, (number + 1) * self._vocabulary))
            if low == high:
                break  # seen once only, at the very end
            counts = self._counts[size - 1][low:high]
            p = p * (high - low)
            p[keys[low:high] - number * self._vocabulary] += counts
            p /= counts.sum() + (high - low)
        return p

    def greedy(self, context: Sequence[int], most: int, stop_ids: Iterable[int]) -> list[int]:
        """At most `most` tokens after the context, each the likeliest; none of `stop_ids`."""
        seen, stops = list(context), frozenset(stop_ids)
        for _ in range(most):
            token = int(self.probabilities(seen[-ORDER:]).argmax())
            if token in stops:
                break
            seen.append(token)
        return seen[len(context) :]

    def _number(self, gram: Sequence[int]) -> int | None:
        number = int(gram[0])
        for keys, token in zip(self._keys, gram[1:], strict=False):
            key = number * self._vocabulary + int(token)
            place = int(np.searchsorted(keys, key))
            if place == len(keys) or keys[place] != key:
                return None
            number = place
        return number


def gathered(rows: Iterable[Sequence[int]], *, most: int = MOST_TOKENS) -> NDArray[np.int32]:
    """The tokens of the rows one after the other, at most so many."""
    parts, size = [np.zeros(0, dtype=np.int32)], 0
    for row in rows:
        parts.append(np.asarray(row, dtype=np.int32)[: most - size])
        size += len(parts[-1])
        if size >= most:
            break
    return np.concatenate(parts)
