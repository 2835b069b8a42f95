"""Quantities of plans: the units that names end with, amounts as people type them, and intervals."""

import math
import re
from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import short

# NOTE: no number goes without its unit. A field or argument that holds one ends with one of these words; a number that
# counts things (devices, layers, samples) is an int. tests/plan/test_units.py walks over all types of the room.
UNITS = {
    "_s": "seconds",
    "_bytes": "bytes",
    "_bytes_per_s": "bytes per second",
    "_flop": "floating-point operations",
    "_flops": "floating-point operations per second",
    "_tokens": "tokens",
    "_tokens_per_s": "tokens per second",
    "_parameters": "weights of a model",
    "_usd": "US dollars",
    "_usd_per_hour": "US dollars per hour",
    "_usd_per_million_tokens": "US dollars per million tokens",
    "_nats": "nats per token, as losses are given",
    "_share": "a share of 1",
    "_ratio": "one quantity by another of the same unit",
    "_w": "watts",
    "_per_s": "per second",
    "_per_1000_node_days": "per 1,000 nodes and days",
    "_flop_per_token": "floating-point operations per token",
    "_devices": "devices, where a mean may be broken",
    "_interruptions": "interruptions, where a mean may be broken",
    "_exponent": "an exponent of a law",
    "_months": "months of a twelfth of a year, where a mean may be broken",
}
"""The endings of names and what they say."""

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
YEAR_S = 365.25 * DAY_S
GIB_BYTES = 2**30

SURE_DEVIATIONS = 1.6448536269514722
"""Standard deviations to each side that 90 % of normal values lie within: what intervals of plans hold."""

_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_SPANS_S = {"s": 1.0, "min": MINUTE_S, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S, "y": YEAR_S}
_AMOUNT = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,3})?)\s*([a-z]*)", re.ASCII)
_LONGEST_TEXT = 40
_LARGEST = 1e30


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a number lies with the probability that is said beside it; `mid` is the best guess, in the same unit."""

    low: float
    mid: float
    high: float

    def __post_init__(self) -> None:
        assert self.low <= self.mid <= self.high, self

    def times(self, factor: float) -> "Interval":
        """All three multiplied by a factor that is not negative."""
        return Interval(self.low * factor, self.mid * factor, self.high * factor)


def parse_usd(text: str, *, what: str) -> float:
    """Money: `250000`, `250k`, `$1.5M`, `1_000_000`.

    Raises:
        InvalidRequest: it is no amount of money above 0; names `what`.
    """
    bare = text.strip().lower().removeprefix("$").removesuffix("usd")
    return _amount(bare, _SCALES, what=what, given=text, example="250000, 250k or 1.5M, in US dollars")


def parse_count(text: str, *, what: str) -> float:
    """A count: `7B`, `1.4T`, `300e9`, `512`.

    Raises:
        InvalidRequest: it is no number above 0; names `what`.
    """
    return _amount(text.strip().lower(), _SCALES, what=what, given=text, example="7B, 1.4T, 300e9 or 512")


def parse_span_s(text: str, *, what: str) -> float:
    """A duration in seconds: `30d`, `12h`, `90min`, `3600s`, `2w`.

    Raises:
        InvalidRequest: it is no duration above 0; names `what`.
    """
    return _amount(text.strip().lower(), _SPANS_S, what=what, given=text, example="30d, 12h, 90min or 3600s")


def parse_device_time(text: str, *, what: str) -> tuple[int, float]:
    """Devices and seconds: `512x30d` is 512 devices for 30 days.

    Raises:
        InvalidRequest: it is not both, above 0.
    """
    devices, cross, span = text.strip().lower().partition("x")
    if not cross or not devices.isascii() or not devices.isdecimal() or not 1 <= int(devices[:9]) <= 10**8:
        raise _nonsense(what, text, "512x30d: 512 devices for 30 days")
    return int(devices[:9]), parse_span_s(span, what=what)


def parameters_text(count: float) -> str:
    """A number of weights or tokens as the field writes it: 8.03B, 1.4T."""
    return short(count).replace("G", "B")


def usd_text(amount_usd: float) -> str:
    """An amount of money: $0.35, -$1,234, $2.5M."""
    sign, amount_usd = "-" if amount_usd <= -0.005 else "", abs(amount_usd)
    if amount_usd >= 1e6:
        return f"{sign}${short(amount_usd).replace('G', 'B')}"
    return f"{sign}${amount_usd:,.0f}" if amount_usd >= 100 else f"{sign}${amount_usd:,.2f}"


def flop_text(amount_flop: float) -> str:
    """An amount of computing: 3.14e+23 FLOP."""
    return f"{amount_flop:.3g} FLOP"


def _amount(text: str, scales: dict[str, float], *, what: str, given: str, example: str) -> float:
    match = _AMOUNT.fullmatch(text) if len(given) <= _LONGEST_TEXT else None
    if match is None or match[2] not in scales:
        raise _nonsense(what, given, example)
    value = float(match[1].replace("_", "").replace(",", "")) * scales[match[2]]
    if not math.isfinite(value) or not 0 < value <= _LARGEST:
        raise _nonsense(what, given, example)
    return value


def _nonsense(what: str, given: str, example: str) -> InvalidRequest:
    return InvalidRequest(
        f"{what} is {given[:_LONGEST_TEXT]!r}, which is no such amount above 0.", remedy=f"Write it like {example}."
    )
