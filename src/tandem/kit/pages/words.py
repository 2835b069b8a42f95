"""Numbers for people: durations, rates, shares, sizes and large counts in a few characters."""

from collections.abc import Callable
from typing import Protocol, TypeGuard

_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_NEARLY = 0.9995  # of a thousand: three digits would round it up
_BEYOND = 1e15  # larger ones have no suffix that people know
_DAY_S = 86_400


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(value: object) -> str:
    """A number in about four characters: 12k, 3.4M, 0.002, 6e+23; empty for what is no number, as all of these are."""
    if not is_number(value):
        return ""
    for size, suffix in _SUFFIXES if abs(value) < _NEARLY * _BEYOND else ():
        if abs(value) >= _NEARLY * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def number(value: object) -> str:
    """A number with four digits or more."""
    if not is_number(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.4g}"


def percent(share: object) -> str:
    """A share of 1 in per cent."""
    return f"{100 * share:.1f} %" if is_number(share) else ""


def ratio(actual: object, planned: object) -> str:
    """The first by the second."""
    if not is_number(actual) or not is_number(planned) or not planned:
        return ""
    return f"{actual / planned:.2f}"


def rate(tokens_per_s: object) -> str:
    """Tokens a second."""
    return f"{tokens_per_s:,.0f} tokens/s" if is_number(tokens_per_s) else ""


def size(count: object) -> str:
    """A number of bytes."""
    return f"{short(count)}B" if is_number(count) else ""


def many(count: int, what: str) -> str:
    """A number of things: 1 host, 2,048 hosts."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def span(seconds: float) -> str:
    """A duration: 0.2 ms, 34 ms, 45.2 s, 3 min 20 s, 2 h 05 min, 12.5 days."""
    if 0 < seconds < 0.00095:
        return f"{1000 * seconds:.1g} ms"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds >= 3 * _DAY_S:
        return f"{seconds / _DAY_S:,.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def written(value: object) -> str:
    """A value of JSON for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(written, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


class Spread(Protocol):
    """A best guess between two ends."""

    @property
    def low(self) -> float: ...
    @property
    def mid(self) -> float: ...
    @property
    def high(self) -> float: ...


def between(spread: Spread, words: Callable[[float], str]) -> str:
    """The middle and, where they differ in words, the ends."""
    low, mid, high = words(spread.low), words(spread.mid), words(spread.high)
    return mid if low == mid == high else f"{mid} ({low} to {high})"
