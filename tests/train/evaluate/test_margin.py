"""Held-out preferences, against the log-probabilities themselves."""

from typing import Any

import numpy as np
import pytest

from tandem.train.evaluate.examination import Examination
from tandem.train.evaluate.margin import margin_report
from tandem.train.objectives.dpo import Dpo
from tests.train.objectives.stand_ins import ByteText, Looking, stacked

TEXT: Any = ByteText()
PAIRS: Any = [
    {"prompt": [{"role": "user", "content": f"Question {number}?"}], "chosen": "Yes" * number, "rejected": "No, but"}
    for number in range(1, 9)
]


def said(objective: Dpo, model: Looking) -> Any:
    examples = [objective.prepare(pair, TEXT, np.random.default_rng(0)) for pair in PAIRS]
    return objective.reference(model, stacked(examples)).numpy()


def report(model: Looking, objective: Dpo, reference: Any, *, context: int = 200) -> dict[str, Any]:
    exam = Examination(model=model, text=TEXT, samples=PAIRS, context=context, count=6, seed=4, beat=lambda: None)
    found = margin_report(exam, objective, reference)
    return {**found, "places": exam.places}


def test_the_margin_is_that_of_the_log_probabilities() -> None:
    objective = Dpo({"beta": 0.2}, context=200)
    before, after = Looking(TEXT.size, seed=1), Looking(TEXT.size, seed=2)
    reference, now = said(objective, before), said(objective, after)
    found = report(after, objective, reference)
    places = found["places"]
    assert len(set(places)) == found["samples"] == 6
    margins = 0.2 * ((now - reference)[places, 0] - (now - reference)[places, 1])
    assert found["margin"] == pytest.approx(margins.mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((margins > 0).mean())
    assert found["prefers_chosen"] == pytest.approx((now[places, 0] > now[places, 1]).mean())
    assert found["prefers_chosen_before"] == pytest.approx((reference[places, 0] > reference[places, 1]).mean())
    assert 0 < found["prefers_chosen_before"] < 1
    low, high = found["margin_interval"]
    assert low < found["margin"] < high


def test_a_model_that_has_not_moved_has_no_margin() -> None:
    objective = Dpo({}, context=200)
    model = Looking(TEXT.size)
    found = report(model, objective, said(objective, model))
    assert found["margin"] == pytest.approx(0, abs=1e-6)
    assert found["prefers_chosen"] == found["prefers_chosen_before"]


def test_pairs_that_do_not_fit_are_left_out() -> None:
    objective = Dpo({}, context=10)
    found = report(Looking(TEXT.size), objective, np.zeros((8, 2)))
    assert found["samples"] == 0
    assert found["accuracy"] is None
