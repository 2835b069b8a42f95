"""Several systems for one ask: what each would make of it, which the charter lets have it, and what more money buys."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import percent
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Derivation, Step
from tandem.plan.quote import Ask, Quote, quote
from tandem.plan.units import DAY_S, Interval, parameters_text, usd_text
from tandem.plan.workshop import Factor

_SAME_NATS = 0.01  # losses that differ by less are the same: no law is as sure
_GOOD_SHARE = 0.9
_SHORT_DAYS = 0.01
_RUNGS = (1.0, 2.0)  # of the second tranche, to show how it wears off
_ALL_SPENT_SHARE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the charter lets a run do."""

    train: tuple[str, ...] = ("*",)
    """Patterns of systems, as a shell matches file names."""
    run_usd: float | None = None
    """What a run may cost; none is no limit."""

    def lets_train(self, system: str) -> bool:
        """Whether models may be trained on a system of this name."""
        return any(fnmatch.fnmatchcase(system, pattern) for pattern in self.train)

    def refusal(self, found: Quote) -> str:
        """Why the charter does not let a system have it; empty where it does."""
        if not self.lets_train(found.system):
            return f"the charter lets models be trained on {', '.join(self.train) or 'nothing'}"
        if self.run_usd is not None and found.cost_usd.mid > self.run_usd:
            return f"it costs {usd_text(found.cost_usd.mid)}, the charter lets a run cost {usd_text(self.run_usd)}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a system makes of an ask."""

    system: str
    quote: Quote | None
    """None where nothing can be had there."""
    allowed: bool
    risks: tuple[str, ...]
    """What may go otherwise, in sentences for people."""
    why: str
    """Why it is the one, or why it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemChoice:
    """All systems, the recommended one first, then what else may have it, then the rest."""

    offers: tuple[Offer, ...]
    recommended: str
    """Empty where no system may and can have it."""
    why: str
    derivation: Derivation

    @property
    def best(self) -> Quote | None:
        """Of the recommended system."""
        return self.offers[0].quote if self.recommended else None


def compare_systems(
    ask: Ask,
    clusters: Sequence[Cluster],
    *,
    rules: Rules | None = None,
    factors: Mapping[str, Factor] | None = None,
) -> SystemChoice:
    """What each system makes of an ask, and which should have it.

    For money, or devices for a time, the one with the lowest loss; for a loss, the one that costs least. Losses that
    are the same within a hundredth of a nat are told apart by cost, and costs to three digits by time. Systems that the
    charter does not let have it are shown too, with what they would do, since that is what its limits cost.

    Raises:
        InvalidRequest: there is no system, or one is there twice.
    """
    names = [cluster.name for cluster in clusters]
    if not names or len(set(names)) < len(names):
        raise InvalidRequest(
            "A comparison needs one system or more, each once.", remedy="Name systems of the catalogue.", param="system"
        )
    held = rules or Rules()
    offers = [_offer(ask, cluster, held, factors or {}) for cluster in clusters]
    offers = _ranked(ask, offers)
    first = offers[0]
    if not first.allowed or first.quote is None:
        why = f"No system may and can have it: {'; '.join(f'{one.system}: {one.why}' for one in offers)}."
        return SystemChoice(offers=tuple(offers), recommended="", why=why, derivation=Derivation(warnings=(why,)))
    best = first.quote
    told = (replace(first, why=_praise(ask, best)), *(_measured(offer, best) for offer in offers[1:]))
    why = f"{first.system}: {told[0].why}"
    return SystemChoice(offers=told, recommended=first.system, why=why, derivation=_derivation(ask, told, best))


def _offer(ask: Ask, cluster: Cluster, rules: Rules, factors: Mapping[str, Factor]) -> Offer:
    try:
        found = quote(ask, cluster, factors=factors)
    except InvalidRequest as error:
        return Offer(system=cluster.name, quote=None, allowed=False, risks=(), why=str(error))
    refusal, factor = rules.refusal(found), factors.get(cluster.name)
    return Offer(
        system=cluster.name,
        quote=found,
        allowed=not refusal,
        risks=tuple(_risks(found, cluster, rules, known=factor is not None and bool(factor.runs))),
        why=refusal,
    )


def _ranked(ask: Ask, offers: Sequence[Offer]) -> list[Offer]:
    """Those that may have it first, and of them the best first."""
    return sorted(offers, key=lambda offer: (not offer.allowed, _merit(ask, offer.quote, _least_nats(offers))))


def _would_win(ask: Ask, offer: Offer, best: Offer) -> bool:
    """Whether an offer is better than the best one, could it be taken."""
    return _ranked(ask, [best, replace(offer, allowed=True)])[0].system == offer.system


def _least_nats(offers: Sequence[Offer]) -> float:
    """The lowest loss among those that may have it; where there are none, among all."""
    every = [(not offer.allowed, offer.quote.loss_nats.mid) for offer in offers if offer.quote is not None]
    return min(every, default=(False, 0.0))[1]


def _merit(ask: Ask, found: Quote | None, least_nats: float) -> tuple[float, ...]:
    """The smaller, the better; systems whose price is not known come after those with one."""
    if found is None:
        return (float("inf"),)
    rounded_usd = float(f"{found.cost_usd.mid:.3g}")
    costs = (float(rounded_usd == 0), rounded_usd, found.wall_s.mid)
    if ask.target_loss_nats is not None or found.loss_nats.mid - least_nats < _SAME_NATS:
        return (0.0, *costs)
    return (found.loss_nats.mid - least_nats, *costs)


def _praise(ask: Ask, found: Quote) -> str:
    reached = "costs least" if ask.target_loss_nats is not None else "has the lowest loss at the least cost"
    return (
        f"it {reached}: {found.loss_nats.mid:.3f} nats with {parameters_text(found.model.parameters)} weights, "
        f"{found.wall_s.mid / DAY_S:.3g} days, {_cost_text(found)}"
    )


def _measured(offer: Offer, best: Quote) -> Offer:
    """The offer with its distance from the best one, and before it whatever keeps it from being taken."""
    if offer.quote is None:
        return offer
    found = offer.quote
    nats = found.loss_nats.mid - best.loss_nats.mid
    days = (found.wall_s.mid - best.wall_s.mid) / DAY_S
    loss = "the same loss" if abs(nats) < _SAME_NATS else f"{abs(nats):.3f} nats {'more' if nats > 0 else 'less'}"
    time = "as long" if abs(days) < _SHORT_DAYS else f"{abs(days):.3g} days {'longer' if days > 0 else 'less'}"
    words = f"{loss}, {time}, {_cost_text(found)}"
    return replace(offer, why=f"{offer.why}; {words}" if offer.why else words)


def _cost_text(found: Quote) -> str:
    return usd_text(found.cost_usd.mid) if found.cost_usd.mid else "at a price that is not known"


def _risks(found: Quote, cluster: Cluster, rules: Rules, *, known: bool) -> Iterator[str]:
    if cluster.price is not None and cluster.price.kind == "spot":
        yield "Spot hosts are taken away at times, more often than hosts fail; that is not counted."
    if found.goodput_share.mid < _GOOD_SHARE:
        lost = percent(1 - found.goodput_share.mid)
        yield f"{lost} of the time are lost to saves, failures and restarts."
    if rules.run_usd is not None and found.cost_usd.mid <= rules.run_usd < found.cost_usd.high:
        yield f"It may cost up to {usd_text(found.cost_usd.high)}, more than the charter lets a run cost."
    if cluster.price is None:
        yield "No price is known."
    if not known:
        yield "No run of our own says how far predictions for this system are off."


def _derivation(ask: Ask, offers: Sequence[Offer], best: Quote) -> Derivation:
    criterion = "the lowest cost" if ask.target_loss_nats is not None else "the lowest loss, then the lowest cost"
    step = Step(
        what="system",
        formula=f"of those that the charter allows, {criterion}, then the least time",
        value="; ".join(f"{offer.system}: {offer.why}" for offer in offers),
    )
    better = [
        f"{offer.system} would be better, but {offer.why}."
        for offer in offers[1:]
        if not offer.allowed and offer.quote is not None and _would_win(ask, offer, offers[0])
    ]
    rows = tuple(f"system {offer.system}" for offer in offers)
    return Derivation(steps=(step,), rows=rows, warnings=tuple(better)).then(best.derivation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What the first tranche and so much more buy on the best system for it."""

    more_usd: float
    system: str
    loss_nats: Interval
    parameters: int
    tokens: int
    wall_s: Interval
    left_usd: float
    """What cannot be spent there in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreMoney:
    """What a second tranche buys."""

    first: Quote
    """With the first tranche alone."""
    both: Quote
    """With both together, for one model."""
    alone: Quote | None
    """With the second for a model of its own; none where that buys nothing."""
    gained_nats: float
    """Of both over the first alone."""
    parameters_ratio: float
    """Of the model's weights, both by first."""
    tokens_ratio: float
    """Of the tokens, both by first."""
    rungs: tuple[Rung, ...]
    """All of it, and twice as much."""
    why: str
    derivation: Derivation = field(default_factory=Derivation)


def second_tranche(
    ask: Ask,
    clusters: Sequence[Cluster],
    *,
    more_usd: float,
    rules: Rules | None = None,
    factors: Mapping[str, Factor] | None = None,
    first: Quote | None = None,
) -> MoreMoney:
    """What `more_usd` buy on top of the budget of an ask, each time on the best system that may have it.

    `first` is what the budget alone buys, where `compare_systems` was asked already.

    Raises:
        InvalidRequest: the ask has no budget, or no system may and can have it with the first tranche, or with both.
    """
    if ask.budget_usd is None or not 0 < more_usd <= 1e15:
        raise InvalidRequest(
            "A second tranche comes on top of a budget.",
            remedy="Give budget_usd, and more than 0 more.",
            param="more_usd",
        )
    budget_usd = ask.budget_usd
    # Where nobody may train, prices do not matter.
    open_ones = [cluster for cluster in clusters if (rules or Rules()).lets_train(cluster.name)] or clusters

    def bought(amount_usd: float) -> SystemChoice:
        return compare_systems(replace(ask, budget_usd=amount_usd), open_ones, rules=rules, factors=factors)

    first = first or _had(bought(budget_usd))
    alone = bought(more_usd).best
    ladder = {share: bought(budget_usd + share * more_usd) for share in _RUNGS}
    both = _had(ladder[1.0])
    rungs = tuple(
        _rung(found.best, more_usd=share * more_usd, budget_usd=budget_usd + share * more_usd)
        for share, found in ladder.items()
        if found.best is not None
    )
    gained = first.loss_nats.mid - both.loss_nats.mid
    return MoreMoney(
        first=first,
        both=both,
        alone=alone,
        gained_nats=gained,
        parameters_ratio=both.model.parameters / first.model.parameters,
        tokens_ratio=both.tokens / first.tokens,
        rungs=rungs,
        why=_bought_text(first, both, gained, more_usd=more_usd, left_usd=rungs[0].left_usd),
        derivation=first.derivation.then(both.derivation),
    )


def _had(found: SystemChoice) -> Quote:
    if found.best is None:
        raise InvalidRequest(found.why, remedy="Change the budget, the systems or the charter.", param="budget_usd")
    return found.best


def _rung(found: Quote, *, more_usd: float, budget_usd: float) -> Rung:
    left_usd = budget_usd - found.cost_usd.mid
    return Rung(
        more_usd=more_usd,
        system=found.system,
        loss_nats=found.loss_nats,
        parameters=found.model.parameters,
        tokens=found.tokens,
        wall_s=found.wall_s,
        left_usd=left_usd if found.cost_usd.mid < _ALL_SPENT_SHARE * budget_usd else 0.0,
    )


def _bought_text(first: Quote, both: Quote, gained: float, *, more_usd: float, left_usd: float) -> str:
    moved = f"on {both.system} instead of {first.system}" if both.system != first.system else f"on {both.system}"
    left = f" {usd_text(left_usd)} of it cannot be spent in time." if left_usd else ""
    return (
        f"{usd_text(more_usd)} more buy {gained:.3f} nats {moved}: {parameters_text(both.model.parameters)} weights in "
        f"place of {parameters_text(first.model.parameters)}, {parameters_text(both.tokens)} tokens in place of "
        f"{parameters_text(first.tokens)}, {both.wall_s.mid / DAY_S:.3g} days in place of "
        f"{first.wall_s.mid / DAY_S:.3g}.{left}"
    )
