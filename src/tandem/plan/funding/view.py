"""The funding view: tranches, commitments, spending against plan, revenue, how long money lasts, and returns."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from tandem.kit.errors import InvalidRequest
from tandem.plan.derivation import Derivation, Step
from tandem.plan.funding.money import micro_usd, month_number, month_text, usd
from tandem.plan.funding.returns import Claim, Distribution, distribute
from tandem.plan.funding.revenue import Earned, Tariff, Used, earned
from tandem.plan.units import usd_text

_MOST_MONTHS = 600
_CONVENTIONS = (
    "money is counted in whole micro-dollars; sums and shares are exact",
    "months up to the one asked for are as they were; later ones take of each stage the larger of plan and commitments",
    "revenue of months to come is not counted",
    "returns are paid of revenue and never of tranches, after all costs, what is committed, and the reserve",
)


class Tranche(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the money that a party gives."""

    name: str
    amount_usd: float
    month: str
    """When it is due, like 2027-03."""
    paid: bool = False
    condition: str = ""
    """What has to be shown first, for people; a tranche without one is certain."""


class Commitment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is owed every month whatever the plan says, such as reserved machines."""

    name: str
    stage: str
    month_usd: float
    first_month: str
    last_month: str


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An amount of a stage (data, train, serve, people ...) in a month: planned, or spent."""

    stage: str
    month: str
    amount_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Funding:
    """All that is known of the money."""

    tranches: tuple[Tranche, ...] = ()
    commitments: tuple[Commitment, ...] = ()
    planned: tuple[Cost, ...] = ()
    spent: tuple[Cost, ...] = ()
    tariffs: tuple[Tariff, ...] = ()
    used: tuple[Used, ...] = ()
    claims: tuple[Claim, ...] = ()
    reserve_usd: float = 0.0
    """What is kept before anything is returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLine:
    """A stage against its plan."""

    stage: str
    planned_micro_usd: int
    """Up to this month."""
    spent_micro_usd: int
    planned_ahead_micro_usd: int
    committed_ahead_micro_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthLine:
    """A month's money."""

    month: str
    received_micro_usd: int
    """Of tranches: paid ones, and in months to come those that are due."""
    earned_micro_usd: int
    costs_micro_usd: int
    """As spent; in months to come as planned or committed."""
    planned_micro_usd: int
    balance_micro_usd: int
    """At its end, if all tranches come."""
    certain_micro_usd: int
    """At its end, if no tranche with a condition comes any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingView:
    """Where the money stands in a month."""

    month: str
    paid_micro_usd: int
    due_micro_usd: int
    """Of tranches in months to come."""
    conditional_micro_usd: int
    """Of those, with a condition."""
    planned_micro_usd: int
    """Up to this month."""
    spent_micro_usd: int
    earned_micro_usd: int
    returned_micro_usd: int
    """To the parties, so far."""
    balance_micro_usd: int
    committed_ahead_micro_usd: int
    reserve_micro_usd: int
    stages: tuple[StageLine, ...]
    months: tuple[MonthLine, ...]
    earnings: tuple[Earned, ...]
    distribution: Distribution
    """What could be returned now, to whom, and what is the mission's."""
    dry_month: str
    """The first one that ends below 0; empty where none does."""
    certain_dry_month: str
    """The same if no tranche with a condition comes."""
    derivation: Derivation


def funding_view(funding: Funding, *, month: str) -> FundingView:
    """Where the money stands at the end of a month, and where it goes from there.

    Raises:
        InvalidRequest: an amount is negative, a month is none or lies where it cannot, or a party has two claims.
    """
    books = _Books(funding, month)
    paid, spent = books.until(books.paid), books.until(books.spent)
    income, returned = books.until(books.income), sum(claim.returned_micro_usd for claim in funding.claims)
    balance, committed = paid + income - spent - returned, books.after(books.committed)
    reserve = micro_usd(funding.reserve_usd, what="The reserve")
    available = max(0, min(balance - committed - reserve, income - returned))
    months = tuple(books.lines(returned))
    return FundingView(
        month=month,
        paid_micro_usd=paid,
        due_micro_usd=books.after(books.due),
        conditional_micro_usd=books.after(books.conditional),
        planned_micro_usd=books.until(books.planned),
        spent_micro_usd=spent,
        earned_micro_usd=income,
        returned_micro_usd=returned,
        balance_micro_usd=balance,
        committed_ahead_micro_usd=committed,
        reserve_micro_usd=reserve,
        stages=tuple(books.stage(name) for name in books.stages),
        months=months,
        earnings=books.earnings,
        distribution=distribute(available, funding.claims),
        dry_month=_first(line.month for line in months if line.balance_micro_usd < 0),
        certain_dry_month=_first(line.month for line in months if line.certain_micro_usd < 0),
        derivation=_derivation(funding, books, balance=balance, available=available),
    )


class _Books:
    """Amounts by month, and by stage and month."""

    def __init__(self, funding: Funding, month: str) -> None:
        self.now = month_number(month, what="The view")
        self.paid: Counter[int] = Counter()
        self.due: Counter[int] = Counter()
        self.conditional: Counter[int] = Counter()
        self.overdue: list[str] = []
        for tranche in funding.tranches:
            self._enter(tranche)
        self._planned = _by_stage(funding.planned, "plan")
        self._spent = _by_stage(funding.spent, "spending")
        self._committed = _by_stage(_monthly(funding.commitments), "commitment")
        self.stages = tuple(dict.fromkeys([*self._planned, *self._spent, *self._committed]))
        self.planned, self.spent, self.committed = map(_by_month, (self._planned, self._spent, self._committed))
        if late := [month_text(one) for one in self.spent if one > self.now]:
            raise _misplaced(f"Money was spent in {late[0]}, which is after {month}.")
        self.earnings = earned(funding.used, funding.tariffs)
        self.income: Counter[int] = Counter()
        for line in self.earnings:
            self.income[month_number(line.month, what="The usage")] += line.earned_micro_usd

    def _enter(self, tranche: Tranche) -> None:
        place = month_number(tranche.month, what=f"The tranche {tranche.name}")
        amount = micro_usd(tranche.amount_usd, what=f"The tranche {tranche.name}")
        if tranche.paid and place > self.now:
            raise _misplaced(f"The tranche {tranche.name} is paid already, but due in {tranche.month}.")
        if tranche.paid:
            self.paid[place] += amount
        elif place <= self.now:
            self.overdue.append(tranche.name)
        else:
            self.due[place] += amount
            self.conditional[place] += amount if tranche.condition else 0

    def until(self, amounts: Counter[int]) -> int:
        """Up to this month."""
        return sum(amount for place, amount in amounts.items() if place <= self.now)

    def after(self, amounts: Counter[int]) -> int:
        """In months to come."""
        return sum(amount for place, amount in amounts.items() if place > self.now)

    def stage(self, name: str) -> StageLine:
        """One stage's sums."""
        planned, spent, committed = (one.get(name, Counter()) for one in (self._planned, self._spent, self._committed))
        return StageLine(
            stage=name,
            planned_micro_usd=self.until(planned),
            spent_micro_usd=self.until(spent),
            planned_ahead_micro_usd=self.after(planned),
            committed_ahead_micro_usd=self.after(committed),
        )

    def lines(self, returned_micro_usd: int) -> Iterator[MonthLine]:
        """Every month from the first to the last that anything is known of."""
        known = [self.paid, self.due, self.planned, self.spent, self.committed, self.income]
        places = [self.now, *(place for one in known for place in one)]
        if max(places) - min(places) >= _MOST_MONTHS:
            raise _misplaced(f"Months from {month_text(min(places))} to {month_text(max(places))} are too many.")
        balance, uncertain = 0, 0
        for place in range(min(places), max(places) + 1):
            income = self.income[place] if place <= self.now else 0
            costs = self._costs(place)
            received = self.paid[place] + self.due[place]
            balance += received + income - costs - (returned_micro_usd if place == self.now else 0)
            uncertain += self.conditional[place]
            yield MonthLine(
                month=month_text(place),
                received_micro_usd=received,
                earned_micro_usd=income,
                costs_micro_usd=costs,
                planned_micro_usd=self.planned[place],
                balance_micro_usd=balance,
                certain_micro_usd=balance - uncertain,
            )

    def _costs(self, place: int) -> int:
        if place <= self.now:
            return self.spent[place]
        nothing: Counter[int] = Counter()
        planned, committed = self._planned, self._committed
        return sum(
            max(planned.get(stage, nothing)[place], committed.get(stage, nothing)[place]) for stage in self.stages
        )


def _by_stage(costs: Iterable[Cost], what: str) -> dict[str, Counter[int]]:
    amounts: dict[str, Counter[int]] = {}
    for cost in costs:
        said = f"The {what} of {cost.stage}"
        place = month_number(cost.month, what=said)
        amounts.setdefault(cost.stage, Counter())[place] += micro_usd(cost.amount_usd, what=said)
    return amounts


def _by_month(amounts: dict[str, Counter[int]]) -> Counter[int]:
    sums: Counter[int] = Counter()
    for one in amounts.values():
        sums.update(one)
    return sums


def _monthly(commitments: Iterable[Commitment]) -> Iterator[Cost]:
    for one in commitments:
        first = month_number(one.first_month, what=f"The commitment {one.name}")
        last = month_number(one.last_month, what=f"The commitment {one.name}")
        if not 0 <= last - first < _MOST_MONTHS:
            raise _misplaced(f"The commitment {one.name} goes from {one.first_month} to {one.last_month}.")
        for place in range(first, last + 1):
            yield Cost(stage=one.stage, month=month_text(place), amount_usd=one.month_usd)


def _misplaced(message: str) -> InvalidRequest:
    return InvalidRequest(message, remedy=f"Check the months; a view has {_MOST_MONTHS} at most.", param="month")


def _first(months: Iterator[str]) -> str:
    return next(months, "")


def _derivation(funding: Funding, books: _Books, *, balance: int, available: int) -> Derivation:
    unpriced = sorted({line.deployment for line in books.earnings if not line.priced})
    over = [
        f"{stage} has cost {usd_text(usd(line.spent_micro_usd))} of {usd_text(usd(line.planned_micro_usd))} planned."
        for stage in books.stages
        if (line := books.stage(stage)).spent_micro_usd > line.planned_micro_usd
    ]
    warnings = [
        *(f"The tranche {name} is overdue, and not counted." for name in books.overdue),
        *(f"{name} is used without a price, and earns nothing." for name in unpriced),
        *over,
    ]
    steps = (
        Step(
            what="balance",
            formula="paid tranches + revenue - spent - returned",
            value=usd_text(usd(balance)),
        ),
        Step(
            what="what can be returned",
            formula="the smaller of balance - committed - reserve and revenue - returned, if above 0",
            value=usd_text(usd(available)),
            source="the charter's `returns` say to whom, and how much at most",
        ),
    )
    rows = tuple(
        f"return {claim.party}: {usd_text(usd(claim.invested_micro_usd))} invested, at most {claim.cap_ratio:g} times "
        "that (charter)"
        for claim in funding.claims
    )
    return Derivation(steps=steps, rows=rows, conventions=_CONVENTIONS, warnings=tuple(warnings))
