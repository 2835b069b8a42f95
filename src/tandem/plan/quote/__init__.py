"""Quotes: from money, devices for a time or a loss to a model, its tokens, a layout, days and dollars; and a recipe."""

from tandem.plan.quote.answer import Quote, quote
from tandem.plan.quote.ask import MOST_WALL_S, Ask, hosts_of, usual_context
from tandem.plan.quote.pace import PUBLISHED_RATIO, Way
from tandem.plan.quote.written import Written, written

__all__ = [
    "MOST_WALL_S",
    "PUBLISHED_RATIO",
    "Ask",
    "Quote",
    "Way",
    "Written",
    "hosts_of",
    "quote",
    "usual_context",
    "written",
]
