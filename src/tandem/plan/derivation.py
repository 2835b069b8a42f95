"""Derivations: how a plan came to its numbers, step by step, with the rows, conventions and sources that it used."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: `what` is found, by which `formula`, with the numbers put in, from which source."""

    what: str
    formula: str
    value: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """The steps of an answer in their order, and what it rests on."""

    steps: tuple[Step, ...] = ()
    rows: tuple[str, ...] = ()
    """Rows of the catalogue, such as `host 8xh100-sxm (price 24 USD/h, nanochat README, 2026-06)`."""
    conventions: tuple[str, ...] = ()
    """Conventions, such as how FLOP are counted and against which peak."""
    warnings: tuple[str, ...] = field(default=())
    """What is doubtful, in sentences for people."""

    def then(self, *others: "Derivation") -> "Derivation":
        """This one and after it the others, without repeating rows, conventions and warnings."""
        every = (self, *others)
        return Derivation(
            steps=tuple(step for one in every for step in one.steps),
            rows=_once(row for one in every for row in one.rows),
            conventions=_once(word for one in every for word in one.conventions),
            warnings=_once(word for one in every for word in one.warnings),
        )


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
