"""Objectives: what can be learnt, by name."""

import difflib
import importlib
from importlib.metadata import entry_points

from tandem import spec
from tandem.kit.errors import InvalidRequest
from tandem.train.objectives.objective import Batch, Example, Loss, MakeObjective, Objective, Record, Referenced

__all__ = [
    "ENTRY_POINTS",
    "Batch",
    "Example",
    "Loss",
    "MakeObjective",
    "Objective",
    "Record",
    "Referenced",
    "find_objective",
]

ENTRY_POINTS = "tandem.objectives"
"""The group of entry points under which another package offers objectives: its name = "package.module:Class"."""

_OWN = {
    "lm": ("tandem.train.objectives.lm", "Lm"),
    "fim": ("tandem.train.objectives.fim", "Fim"),
    "sft": ("tandem.train.objectives.sft", "Sft"),
    "dpo": ("tandem.train.objectives.dpo", "Dpo"),
}


def find_objective(named: spec.Objective, *, context: int) -> Objective:
    """The objective that a recipe names, with its parameters, for sequences of at most `context` predicted tokens.

    Raises:
        InvalidRequest: no such objective, or a parameter that it does not take.
    """
    make: MakeObjective
    if named.name in _OWN:
        module, kind = _OWN[named.name]
        make = getattr(importlib.import_module(module), kind)
    else:
        make = _foreign(named.name)
    return make(named.params, context=context)


def _foreign(name: str) -> MakeObjective:
    offered = entry_points(group=ENTRY_POINTS)
    if name in offered.names:
        return offered[name].load()
    known = sorted({*_OWN, *offered.names})
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise InvalidRequest(
        f"There is no objective {name!r}.{hint}",
        remedy=f"Known are {', '.join(known)}; others come with a package that offers {ENTRY_POINTS}.",
        param="objective.name",
    )
