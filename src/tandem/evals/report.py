"""From what became of each case to a suite's numbers, with intervals; pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from tandem.evals.intervals import mean_of, paired_gain
from tandem.spec import Metric
from tandem.spec.scores import Interval

Outcome = Literal["answered", "filtered", "failed"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case asked once. Scores are there where it was answered, those to compare with where there are any."""

    id: str
    outcome: Outcome
    scores: Mapping[str, float] = {}
    baseline: Mapping[str, float] = {}
    """The same scores of the baseline without a model."""
    release: Mapping[str, float] = {}
    """The same scores of the current release."""
    why: str = ""
    """What was said instead of an answer."""


def count_outcomes(rows: Sequence[Row]) -> dict[Outcome, int]:
    """Cases by outcome. One that was asked several times counts as answered if it was once, else as filtered."""
    order: tuple[Outcome, ...] = ("answered", "filtered", "failed")
    best = {case: min((row.outcome for row in mine), key=order.index) for case, mine in _by_case(rows).items()}
    return {outcome: sum(one == outcome for one in best.values()) for outcome in order}


def metrics_of(kind: str, rows: Sequence[Row], *, seed: int) -> tuple[Metric, ...]:
    """The numbers of a suite of this kind. A number that rests on no case is left out.

    The exception is `failures` of a regression suite: the cases that were not shown to hold, so that one that a
    filter blocked or that failed is among them, and an empty suite has none of none.
    """
    cases = _by_case(rows)
    found = [_metric(name, mean_of(values, seed=seed), values) for name, values in _means(cases).items()]
    if kind == "regression":
        return (_failures(cases), *found)
    return (*found, *_gains(cases, seed=seed))


def _failures(cases: Mapping[str, Sequence[Row]]) -> Metric:
    held = sum(all(row.scores.get("pass_rate") == 1.0 for row in mine) for mine in cases.values())
    count = float(len(cases) - held)
    return Metric(name="failures", value=count, low=count, high=count, samples=len(cases))


def _means(cases: Mapping[str, Sequence[Row]]) -> dict[str, list[float]]:
    """Each score's value for each case that has it, the mean over the times that it was asked."""
    found: dict[str, list[float]] = {}
    for mine in cases.values():
        names = dict.fromkeys(name for row in mine for name in row.scores)
        for name in names:
            values = [row.scores[name] for row in mine if name in row.scores]
            found.setdefault(name, []).append(float(np.mean(values)))
    return found


def _gains(cases: Mapping[str, Sequence[Row]], *, seed: int) -> Iterator[Metric]:
    for other, ending in (("baseline", "gain"), ("release", "vs_release")):
        pairs: dict[str, tuple[list[float], list[float]]] = {}
        for row in (row for mine in cases.values() for row in mine):
            for name, theirs in getattr(row, other).items():
                if name in row.scores:
                    ours_of, theirs_of = pairs.setdefault(name, ([], []))
                    ours_of.append(row.scores[name])
                    theirs_of.append(theirs)
        for name, (ours, others) in pairs.items():
            yield _metric(f"{name}_{ending}", paired_gain(ours, others, seed=seed), ours)


def _metric(name: str, interval: Interval, values: Sequence[float]) -> Metric:
    return Metric(name=name, value=interval.mean, low=interval.low, high=interval.high, samples=len(values))


def _by_case(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return found
