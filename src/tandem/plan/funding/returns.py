"""Returns: what the parties get back, up to the charter's caps, and what of it all is left to the mission."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tandem.kit.errors import InvalidRequest
from tandem.plan.funding.money import exact, shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a party may get back, as the charter's `returns` say, and what it has got already."""

    party: str
    invested_micro_usd: int
    cap_ratio: float
    """Of all that it ever gets back by what it invested."""
    returned_micro_usd: int = 0

    def __post_init__(self) -> None:
        if not (self.invested_micro_usd >= 0 and self.returned_micro_usd >= 0 and 0 <= self.cap_ratio <= 1e6):
            raise InvalidRequest(
                f"The claim of {self.party} has a negative amount or no sensible cap.",
                remedy="Give amounts of 0 or more, and a cap from 0 to 1,000,000.",
                param="returns",
            )

    @property
    def cap_micro_usd(self) -> int:
        """All that it ever gets back; a broken micro-dollar is not paid."""
        return int(self.invested_micro_usd * Fraction(exact(self.cap_ratio)))

    @property
    def left_micro_usd(self) -> int:
        """What it may still get."""
        return max(0, self.cap_micro_usd - self.returned_micro_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a party gets now."""

    party: str
    paid_micro_usd: int
    returned_micro_usd: int
    """With what it has got before."""
    left_micro_usd: int
    """Until its cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How an amount is shared out; the parts and the mission's sum to it exactly."""

    available_micro_usd: int
    parts: tuple[Part, ...]
    mission_micro_usd: int
    """What no party may have."""


def distribute(available_micro_usd: int, claims: Sequence[Claim]) -> Distribution:
    """Share an amount out: by what each party invested, until all are at their caps; the rest is the mission's.

    What one party may not have any more is shared by the others in the same proportion.

    Raises:
        InvalidRequest: the amount is negative, or a party has two claims.
    """
    names = [claim.party for claim in claims]
    if available_micro_usd < 0 or len(set(names)) < len(names):
        raise InvalidRequest(
            "Only an amount of 0 or more is shared out, and once to each party.",
            remedy="Sum up the claims of a party, and share out what is there.",
            param="returns",
        )
    paid = dict.fromkeys(names, 0)
    rest, open_claims = available_micro_usd, [claim for claim in claims if claim.left_micro_usd]
    while rest and open_claims:
        offered = shared(rest, [claim.invested_micro_usd for claim in open_claims])
        full = [claim for claim, part in zip(open_claims, offered, strict=True) if part >= claim.left_micro_usd]
        if not full:
            paid |= {claim.party: part for claim, part in zip(open_claims, offered, strict=True)}
            rest = 0
        for claim in full:
            paid[claim.party] = claim.left_micro_usd
            rest -= claim.left_micro_usd
        open_claims = [claim for claim in open_claims if claim not in full]
    return Distribution(
        available_micro_usd=available_micro_usd,
        parts=tuple(_part(claim, paid[claim.party]) for claim in claims),
        mission_micro_usd=rest,
    )


def _part(claim: Claim, paid_micro_usd: int) -> Part:
    return Part(
        party=claim.party,
        paid_micro_usd=paid_micro_usd,
        returned_micro_usd=claim.returned_micro_usd + paid_micro_usd,
        left_micro_usd=claim.left_micro_usd - paid_micro_usd,
    )
