"""Pages: HTML that needs nothing beside it, plots in it, and numbers as people read them."""

from tandem.kit.pages.page import facts_table, inline, page, section, table
from tandem.kit.pages.plots import Line, Point, plot, smoothed
from tandem.kit.pages.words import between, is_number, many, number, percent, rate, ratio, short, size, span, written

__all__ = [
    "Line",
    "Point",
    "between",
    "facts_table",
    "inline",
    "is_number",
    "many",
    "number",
    "page",
    "percent",
    "plot",
    "rate",
    "ratio",
    "section",
    "short",
    "size",
    "smoothed",
    "span",
    "table",
    "written",
]
