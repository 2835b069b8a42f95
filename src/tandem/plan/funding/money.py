"""Money as whole millionths of a US dollar, so that sums and shares are exact; and months that can be counted."""

import math
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

from tandem.kit.errors import InvalidRequest

# NOTE: whole numbers of micro-dollars, not floats, whose sums depend on their order, and not Decimal, whose precision
# is a setting of the thread. A token's price is often less than one micro-dollar: products are summed as they are and
# rounded once for each line of a bill.
MICRO = 10**6
"""Micro-dollars of a US dollar."""

_MOST_USD = 1e15
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)


def micro_usd(amount_usd: float, *, what: str) -> int:
    """An amount in micro-dollars, as it is written in decimals; halves go to the even neighbour.

    Raises:
        InvalidRequest: it is negative, not a number, or more than 1e15 US dollars; names `what`.
    """
    if not math.isfinite(amount_usd) or not 0 <= amount_usd <= _MOST_USD:
        raise InvalidRequest(
            f"{what} is {amount_usd:g} US dollars, which cannot be meant.", remedy=f"Give 0 to {_MOST_USD:g}."
        )
    return int((exact(amount_usd) * MICRO).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def exact(number: float) -> Decimal:
    """A number as it is written: 0.1 is a tenth, not its nearest float."""
    return Decimal(repr(float(number)))


def usd(amount_micro_usd: int) -> float:
    """In US dollars, to be shown."""
    return amount_micro_usd / MICRO


def shared(amount: int, weights: Sequence[int]) -> tuple[int, ...]:
    """A whole amount in parts that are as their weights are, and that sum to it exactly.

    Each gets its part rounded down; what is left goes one by one to those that lost most by it, the first of equals
    first (the method of the largest remainder). Without any weight nobody gets anything.
    """
    total = sum(weights)
    if total == 0:
        return (0,) * len(weights)
    parts = [amount * weight // total for weight in weights]
    by_loss = sorted(range(len(weights)), key=lambda place: (-(amount * weights[place] % total), place))
    for place in by_loss[: amount - sum(parts)]:
        parts[place] += 1
    return tuple(parts)


def month_number(month: str, *, what: str) -> int:
    """Months since the year 0, so that one can count them.

    Raises:
        InvalidRequest: it is not written like 2027-03; names `what`.
    """
    match = _MONTH.fullmatch(month)
    if match is None:
        raise InvalidRequest(f"{what} has the month {month[:20]!r}.", remedy="Write it like 2027-03.")
    return 12 * int(match[1]) + int(match[2]) - 1


def month_text(number: int) -> str:
    """A month as people write it."""
    return f"{number // 12:04}-{number % 12 + 1:02}"
