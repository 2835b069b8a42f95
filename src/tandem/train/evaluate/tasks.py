"""The tasks that a recipe asks for at the end of a run, by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.spec import Recipe
from tandem.train.data import Samples, Text
from tandem.train.evaluate.answers import answers_report
from tandem.train.evaluate.examination import Examination
from tandem.train.evaluate.infill import infill_report
from tandem.train.evaluate.margin import margin_report
from tandem.train.objectives import Referenced, find_objective
from tandem.train.objectives.fim import suffix_first_of

_NEEDS = {"infill": "segments", "margin": "chosen", "answers": "messages"}


def task_report(
    recipe: Recipe,
    net: torch.nn.Module,
    *,
    text: Text,
    train: Samples,
    held_out: Samples,
    beat: Callable[[], None],
    reference: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """What each task of the recipe found, by its name; a task that the held-out data does not suit has no samples.

    `net` is whole and on one device; one rank alone calls this. `reference` has a row for each held-out sample: what
    the objective's `reference` said at step 0, without which there is no `margin`. `beat` is called all along.
    """
    exam = Examination(
        model=net,
        text=text,
        samples=held_out,
        context=recipe.batch.context,
        count=recipe.evaluation.task_samples,
        seed=recipe.seed,
        suffix_first=suffix_first_of(recipe),
        beat=beat,
    )
    return {task: _report(task, exam, recipe, train, reference) for task in recipe.evaluation.tasks}


def _report(
    task: str, exam: Examination, recipe: Recipe, train: Samples, reference: NDArray[np.float32] | None
) -> dict[str, Any]:
    if not len(exam.samples) or _NEEDS[task] not in exam.samples[0]:
        return {"samples": 0}
    if task == "infill":
        return infill_report(exam, train)
    if task == "answers":
        return answers_report(exam)
    objective = find_objective(recipe.objective, context=recipe.batch.context)
    if reference is None or not isinstance(objective, Referenced):
        return {"samples": 0}
    return margin_report(exam, objective, reference)
