"""Statistics of a rollout, one-sided: is the candidate worse than what it replaces; and how alike two answers are."""

import math
from collections import Counter
from collections.abc import Sequence

# The normal approximation is fair from here on; fewer values decide nothing.
LEAST_VALUES = 8
# Texts are compared to this length: a few milliseconds of work for the longest answers.
_COMPARED_CHARS = 20_000
_GRAM = 3
# What is smaller adds nothing to a sum of probabilities in double precision.
_NEGLIGIBLE = 1e-18


def fisher_greater(candidate: tuple[int, int], stable: tuple[int, int]) -> float:
    """Fisher's exact test, one-sided; each pair is (events, requests).

    The probability that of all events at least so many fall to the candidate, were both equally prone to them.
    """
    events, drawn = candidate[0] + stable[0], candidate[1]
    total = candidate[1] + stable[1]
    assert 0 <= candidate[0] <= candidate[1], "events are requests"
    assert 0 <= stable[0] <= stable[1], "events are requests"
    least, most = max(0, drawn - (total - events)), min(events, drawn)
    if candidate[0] <= least:
        return 1.0
    # P(X = k) of a hypergeometric variable; each next term follows from the one before.
    term = math.exp(
        _log_choose(events, candidate[0])
        + _log_choose(total - events, drawn - candidate[0])
        - _log_choose(total, drawn)
    )
    tail = 0.0
    for k in range(candidate[0], most + 1):
        tail += term
        ratio = (events - k) * (drawn - k) / ((k + 1) * (total - events - drawn + k + 1))
        term *= ratio
        if ratio < 1 and term < _NEGLIGIBLE * tail:
            break
    return min(tail, 1.0)


def mann_whitney_greater(candidate: Sequence[float], stable: Sequence[float]) -> float:
    """The Mann-Whitney U test, one-sided: normal approximation, corrected for ties and for continuity.

    The probability of a U of the candidate at least so large, were both drawn from one distribution; 1 where either
    has fewer than `LEAST_VALUES` values.
    """
    n, m = len(candidate), len(stable)
    if min(n, m) < LEAST_VALUES:
        return 1.0
    u, ties = _u_and_ties(candidate, stable)
    total = n + m
    variance = n * m / 12 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0  # all values are equal
    z = (u - n * m / 2 - 0.5) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def median(values: Sequence[float]) -> float:
    """The middle of the values; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def likeness(one: str, other: str) -> float:
    """How alike two texts are, 0 to 1: the Dice coefficient of their character trigrams; equal texts have 1."""
    if one == other:
        return 1.0
    first, second = _grams(one), _grams(other)
    size = first.total() + second.total()
    return 2 * (first & second).total() / size if size else 0.0


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of the angle between two vectors; 0 where they have no angle."""
    if len(one) != len(other):
        return 0.0
    lengths = math.sqrt(math.fsum(x * x for x in one) * math.fsum(x * x for x in other))
    return math.fsum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _u_and_ties(candidate: Sequence[float], stable: Sequence[float]) -> tuple[float, int]:
    """U of the candidate (pairs in which it is greater, ties half), and the sum of t^3 - t over groups of ties."""
    ours, theirs = Counter(candidate), Counter(stable)
    below, u, ties = 0, 0.0, 0
    for value in sorted(ours.keys() | theirs.keys()):
        mine, other = ours[value], theirs[value]
        u += mine * (below + other / 2)
        below += other
        tied = mine + other
        ties += tied**3 - tied
    return u, ties


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _grams(text: str) -> Counter[str]:
    shown = text[:_COMPARED_CHARS]
    return Counter(shown[place : place + _GRAM] for place in range(max(len(shown) - _GRAM + 1, 1)))
