"""The rates of a device from measured steps: least squares of relative errors that a few slow runs cannot turn."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from tandem.plan.workshop.local import CPU, STEP_RATES, Device, Rates, Workload, exact_s, quantities

_Floats = NDArray[np.float64]

_TRUST = 0.02
"""How much the rates known before weigh: a rate that doubles as much as an error of a seventh in one run."""
_ODD_SHARE = 0.15
"""Relative errors above this count in proportion and not by their square (Huber 1964): others at work on the machine
make some runs slower, and none quicker."""
_REWEIGHTED = 20
_SWEEPS = 2000
_ENOUGH = 1e-9


def fitted(runs: Sequence[tuple[Workload, Device, float]], *, known: Rates = CPU) -> Rates:
    """The rates of a step that explain measured steps best: (what was done, on what, seconds of a step).

    No rate is below 0, and all are pulled towards those that were `known` before, so that a few runs that are alike
    cannot turn one rate against another.
    """
    before = np.array([getattr(known, name) for name in STEP_RATES])
    rows, goals = [], []
    for work, device, took_s in runs:
        parts = quantities(work, device)
        rows.append([parts[name] / took_s for name in STEP_RATES])
        goals.append(1 - exact_s(work, device) / took_s)
    # In units of what was known before, all unknowns are about 1.
    matrix, goal = np.array(rows).reshape(len(rows), len(before)) * before, np.array(goals)
    found, weights = np.ones(len(before)), np.ones(len(goals))
    for _ in range(_REWEIGHTED):
        found = _solved(matrix * weights[:, None] ** 0.5, goal * weights**0.5, start=found)
        errors = np.abs(matrix @ found - goal)
        weights = np.minimum(1.0, _ODD_SHARE / np.maximum(errors, _ENOUGH))
    values = dict(zip(STEP_RATES, (found * before).tolist(), strict=True))
    return Rates(**asdict(known) | values)


def _solved(
    matrix: NDArray[np.float64], goal: NDArray[np.float64], *, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The least squares with a ridge towards 1 and no unknown below 0, one unknown after the other."""
    square = matrix.T @ matrix + _TRUST * np.eye(len(start))
    right, found = matrix.T @ goal + _TRUST, start.copy()
    for _ in range(_SWEEPS):
        earlier = found.copy()
        for place in range(len(found)):
            rest = right[place] - square[place] @ found + square[place, place] * found[place]
            found[place] = max(0.0, rest / square[place, place])
        if np.abs(found - earlier).max() < _ENOUGH:
            break
    return found
