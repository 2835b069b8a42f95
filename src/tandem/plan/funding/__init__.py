"""Funding as arithmetic: where money comes from and goes to, what usage earns, and what parties get back up to caps."""

from tandem.plan.funding.money import micro_usd, shared, usd
from tandem.plan.funding.returns import Claim, Distribution, Part, distribute
from tandem.plan.funding.revenue import Earned, Tariff, Used, earned
from tandem.plan.funding.view import Commitment, Cost, Funding, FundingView, MonthLine, StageLine, Tranche, funding_view

__all__ = [
    "Claim",
    "Commitment",
    "Cost",
    "Distribution",
    "Earned",
    "Funding",
    "FundingView",
    "MonthLine",
    "Part",
    "StageLine",
    "Tariff",
    "Tranche",
    "Used",
    "distribute",
    "earned",
    "funding_view",
    "micro_usd",
    "shared",
    "usd",
]
