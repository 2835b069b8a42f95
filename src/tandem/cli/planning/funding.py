"""`tandem plan funding`: tranches, spending against plan, what usage earns, returns up to the caps, and the mission."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from tandem.cli.context import AsJson, Quiet, emit, open_house, table
from tandem.cli.planning.options import GUIDE, OPTIONS, Explain
from tandem.cli.planning.show import basis, facts
from tandem.flows import funding_of
from tandem.flows.planning import FundingAsk
from tandem.kit.typed import converted, read_toml
from tandem.plan.funding import Earned, FundingView, usd
from tandem.plan.plain import plain
from tandem.plan.units import usd_text


def funding(
    file: Annotated[
        Path | None, typer.Argument(help="TOML with tranches, plans and prices; docs/guides/plan.md.", dir_okay=False)
    ] = None,
    month: Annotated[str | None, typer.Option(help="The month to look from, like 2027-03. Default: this one.")] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show where the money stands: what runs cost and usage earned here, beside a file of what was agreed."""
    said = read_toml(file, what="the funding") if file else {}
    if month is not None:
        said["month"] = month
    ask = converted(said, FundingAsk, what="the funding", where=str(file or OPTIONS), page=GUIDE)
    view = funding_of(ask, house=open_house())
    shown = Group(facts(_facts(view)), "", *_tables(view), "", basis(view.derivation, explain=explain))
    emit(plain(view), as_json=as_json, quiet=quiet, bare=f"{usd(view.balance_micro_usd):.2f}", shown=shown)


def _facts(view: FundingView) -> Iterator[tuple[str, str]]:
    yield "month", view.month
    yield "balance", _money(view.balance_micro_usd)
    yield "paid in", _money(view.paid_micro_usd)
    yield "still due", f"{_money(view.due_micro_usd)}, of it {_money(view.conditional_micro_usd)} with conditions"
    yield "spent", f"{_money(view.spent_micro_usd)} of {_money(view.planned_micro_usd)} planned"
    yield "earned", _money(view.earned_micro_usd)
    yield "owed ahead", _money(view.committed_ahead_micro_usd)
    yield "runs out", view.dry_month or "not within what is known"
    if view.certain_dry_month != view.dry_month:
        yield "without conditions", f"runs out {view.certain_dry_month}"
    for part in view.distribution.parts:
        yield (
            f"to {part.party}",
            f"{_money(part.paid_micro_usd)} now, {_money(part.left_micro_usd)} more until its cap",
        )
    yield "to the mission", _money(view.distribution.mission_micro_usd)


def _tables(view: FundingView) -> Iterator[RenderableType]:
    yield table(
        ("stage", "spent", "planned", "planned ahead", "owed ahead"),
        [
            (
                line.stage,
                _money(line.spent_micro_usd),
                _money(line.planned_micro_usd),
                _money(line.planned_ahead_micro_usd),
                _money(line.committed_ahead_micro_usd),
            )
            for line in view.stages
        ],
        empty="Nothing was spent or planned yet.",
    )
    if view.earnings:
        yield ""
        yield table(
            ("month", "deployment", "tokens", "earned"),
            [(one.month, one.deployment, f"{one.tokens:,}", _earned(one)) for one in view.earnings],
            empty="",
        )
    if len(view.months) > 1:
        yield ""
        yield table(
            ("month", "received", "earned", "costs", "balance"),
            [
                (
                    one.month,
                    _money(one.received_micro_usd),
                    _money(one.earned_micro_usd),
                    _money(one.costs_micro_usd),
                    _money(one.balance_micro_usd),
                )
                for one in view.months
            ],
            empty="",
        )


def _earned(one: Earned) -> str:
    return _money(one.earned_micro_usd) if one.priced else "no price"


def _money(amount_micro_usd: int) -> str:
    return usd_text(usd(amount_micro_usd))
