"""Answers that weigh money: which system should have a run, what a second tranche buys, and where the money stands."""

from dataclasses import dataclass, replace

from tandem.flows.planning.answers import Ground, asked
from tandem.flows.planning.asks import FundingAsk, SystemsAsk
from tandem.kit.errors import InvalidRequest
from tandem.plan.funding import Claim, Cost, Funding, FundingView, Used, funding_view, micro_usd
from tandem.plan.systems import MoreMoney, Rules, SystemChoice, compare_systems, second_tranche


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemsAnswer:
    """All systems for one ask, and what more money buys where that was asked."""

    choice: SystemChoice
    more: MoreMoney | None


def answer_systems(ask: SystemsAsk, ground: Ground, *, rules: Rules) -> SystemsAnswer:
    """Which of several systems should have a run.

    Raises:
        NotFound: the catalogue has no such system.
        InvalidRequest: no system was named and the catalogue has none, or none may and can have a second tranche.
    """
    if ask.system or ask.hosts or ask.price:
        raise InvalidRequest(
            "A comparison names its systems all together, whole, at their own prices.",
            remedy="Give `systems`, or none for all of the catalogue.",
            param="systems",
        )
    clusters = [ground.catalogue.cluster(name) for name in ask.systems or ground.catalogue.systems]
    wanted = asked(ask)
    choice, more = compare_systems(wanted, clusters, rules=rules, factors=ground.factors), None
    if ask.more_usd is not None:
        more = second_tranche(
            wanted, clusters, more_usd=ask.more_usd, rules=rules, factors=ground.factors, first=choice.best
        )
    return SystemsAnswer(choice=choice, more=more)


def answer_funding(
    ask: FundingAsk, *, month: str, spent: tuple[Cost, ...], used: tuple[Used, ...], claims: tuple[Claim, ...]
) -> FundingView:
    """Where the money stands; `spent`, `used` and `claims` are what this home and its charter know.

    Raises:
        InvalidRequest: an amount or a month cannot be, or a party got money back that has no claim in the charter.
    """
    unknown = set(ask.returned_usd) - {claim.party for claim in claims}
    if unknown:
        known = ", ".join(claim.party for claim in claims) or "nobody"
        raise InvalidRequest(
            f"{min(unknown)} got money back, but has no claim.",
            remedy=f"The charter's `returns` name {known}: `tandem charter show`.",
            param="returned_usd",
        )
    got = {party: micro_usd(amount, what=f"What {party} got back") for party, amount in ask.returned_usd.items()}
    return funding_view(
        Funding(
            tranches=ask.tranches,
            commitments=ask.commitments,
            planned=ask.planned,
            spent=(*ask.spent, *(cost for cost in spent if cost.month <= month)),
            tariffs=ask.tariffs,
            used=tuple(one for one in used if one.month <= month),
            claims=tuple(replace(claim, returned_micro_usd=got.get(claim.party, 0)) for claim in claims),
            reserve_usd=ask.reserve_usd,
        ),
        month=month,
    )
