"""What the charter in force says to plans: where a run may be, what it may cost, and what parties get back."""

from tandem.flows.planning.money import spent_in
from tandem.kit import clock
from tandem.plan.funding import Claim, micro_usd
from tandem.plan.systems import Rules
from tandem.registry import CharterBook, Runs


def rules_of(charters: CharterBook, runs: Runs) -> Rules:
    """Where a run may be, and what it may cost, of which this month's limit may have less left; without a charter
    nothing is forbidden.

    Raises:
        IntegrityError: the charter is broken.
    """
    current = charters.chain().current
    if current is None:
        return Rules()
    spending = current.charter.spending
    limits = [] if spending.usd_per_run is None else [spending.usd_per_run]
    if spending.usd_per_month is not None:
        limits.append(max(0.0, spending.usd_per_month - spent_in(runs, clock.now())))
    return Rules(train=current.charter.systems.train, run_usd=min(limits, default=None))


def claims_of(charters: CharterBook) -> tuple[Claim, ...]:
    """What each party may get back: what it invested, and its cap; nobody anything without a charter.

    Raises:
        IntegrityError: the charter is broken.
    """
    current = charters.chain().current
    if current is None:
        return ()
    return tuple(
        Claim(
            party=one.party,
            invested_micro_usd=micro_usd(one.invested_usd, what=f"What {one.party} invested"),
            cap_ratio=one.cap,
        )
        for one in current.charter.returns
    )
