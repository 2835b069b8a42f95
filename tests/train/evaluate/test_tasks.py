"""The tasks of a recipe, by name."""

from typing import Any

import numpy as np
import pytest

from tandem import spec
from tandem.train.evaluate import task_report
from tests.train.objectives.stand_ins import ByteText, untrained

TEXT: Any = ByteText()
ASK = [{"role": "user", "content": "Which way?"}]
CODE: Any = [{"segments": [[*TEXT.encode("print(1)\n" * 3), TEXT.end]]}]
CHATS: Any = [{"messages": [*ASK, {"role": "assistant", "content": "South."}]}]
PAIRS: Any = [{"prompt": ASK, "chosen": "South.", "rejected": "No."}]


def report(samples: Any, *, objective: str = "lm", **given: Any) -> dict[str, Any]:
    recipe = spec.Recipe(
        name="tiny",
        model=spec.Model(shape=spec.Shape(width=64, layers=1, heads=1, kv_heads=1, ffn=64)),
        data=(spec.Data(format="code"),),
        objective=spec.Objective(name=objective),
        optimizer=spec.Optimizer(lr=1e-3),
        batch=spec.Batch(samples=2, context=64),
        budget=spec.Budget(steps=1),
        evaluation=spec.Evaluation(tasks=("infill", "margin", "answers"), task_samples=3),
    )
    net = untrained(TEXT.size, context=64)
    return task_report(recipe, net, text=TEXT, train=CODE, held_out=samples, beat=lambda: None, **given)


@pytest.mark.parametrize(("samples", "task"), [(CODE, "infill"), (CHATS, "answers")])
def test_a_task_measures_the_data_that_suits_it(samples: Any, task: str) -> None:
    found = report(samples)
    assert found.keys() == {"infill", "margin", "answers"}
    for name, result in found.items():
        counted = result["span"] if name == "infill" == task else result
        assert counted["samples"] == (1 if name == task else 0)


def test_a_margin_needs_what_the_model_said_before() -> None:
    reference = np.zeros((1, 2), dtype=np.float32)
    assert report(PAIRS, objective="dpo", reference=reference)["margin"]["samples"] == 1
    assert report(PAIRS, objective="dpo")["margin"] == {"samples": 0}
    assert report(PAIRS, objective="lm", reference=reference)["margin"] == {"samples": 0}


def test_without_held_out_data_nothing_is_measured() -> None:
    assert report([])["infill"] == {"samples": 0}
