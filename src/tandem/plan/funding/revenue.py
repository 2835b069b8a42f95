"""Revenue: what usage earns by a price list, exact to the last micro-dollar, and what is used without a price."""

import fnmatch
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from tandem.kit.errors import InvalidRequest
from tandem.plan.funding.money import micro_usd, month_number

_MILLION = 10**6


class Tariff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the price list: what a deployment's tokens cost those who use it."""

    deployment: str
    """A pattern of names, as a shell matches file names; the first line that fits a name holds."""
    prompt_usd_per_million_tokens: float
    answer_usd_per_million_tokens: float
    cached_usd_per_million_tokens: float | None = None
    """Of a prompt, tokens that the engine still had; none is the price of the others."""

    def earned_pico_usd(self, used: "Used") -> int:
        """What usage earns, in millionths of a micro-dollar, which no price can break."""
        prompt, cached, answer = self.prices_micro_usd
        fresh_tokens = used.prompt_tokens - used.cached_tokens
        return fresh_tokens * prompt + used.cached_tokens * cached + used.completion_tokens * answer

    @property
    def prices_micro_usd(self) -> tuple[int, int, int]:
        """Of a million tokens of prompts, of cached ones, and of answers.

        Raises:
            InvalidRequest: a price is negative, or no number; names the line.
        """
        cached = self.cached_usd_per_million_tokens
        prices = (
            self.prompt_usd_per_million_tokens,
            self.prompt_usd_per_million_tokens if cached is None else cached,
            self.answer_usd_per_million_tokens,
        )
        prompt, cached_micro, answer = (micro_usd(one, what=f"The price of {self.deployment}") for one in prices)
        return prompt, cached_micro, answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What was used of a deployment in a month, as the ledger of usage sums it up."""

    month: str
    """Like 2027-03."""
    deployment: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompts' tokens."""

    def __post_init__(self) -> None:
        if not (0 <= self.cached_tokens <= self.prompt_tokens and self.completion_tokens >= 0):
            raise InvalidRequest(
                f"The usage of {self.deployment} in {self.month} has negative tokens, or more cached than sent.",
                remedy="Give counts of 0 or more; cached tokens are a part of the prompts'.",
                param="usage",
            )
        month_number(self.month, what=f"The usage of {self.deployment}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """A line of the bill: a deployment in a month."""

    month: str
    deployment: str
    tokens: int
    """Of prompts and answers."""
    earned_micro_usd: int
    priced: bool
    """Whether the price list has a line for it."""


def earned(used: Sequence[Used], tariffs: Sequence[Tariff]) -> tuple[Earned, ...]:
    """What usage earns, by month and deployment; each line is rounded once, halves to the even neighbour.

    Raises:
        InvalidRequest: a price cannot be, whether something was used by it or not.
    """
    for tariff in tariffs:
        _ = tariff.prices_micro_usd
    sums: dict[tuple[str, str], list[Used]] = defaultdict(list)
    for one in used:
        sums[one.month, one.deployment].append(one)
    return tuple(_line(month, deployment, sums[month, deployment], tariffs) for month, deployment in sorted(sums))


def _line(month: str, deployment: str, used: Sequence[Used], tariffs: Sequence[Tariff]) -> Earned:
    tariff = next((one for one in tariffs if fnmatch.fnmatchcase(deployment, one.deployment)), None)
    pico_usd = sum(tariff.earned_pico_usd(one) for one in used) if tariff is not None else 0
    return Earned(
        month=month,
        deployment=deployment,
        tokens=sum(one.prompt_tokens + one.completion_tokens for one in used),
        earned_micro_usd=round(Fraction(pico_usd, _MILLION)),
        priced=tariff is not None,
    )
