"""The preference objective, against the formula written out token by token."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tandem.train.objectives.dpo import Dpo
from tests.train.objectives.stand_ins import ByteText, Looking, stacked

TEXT: Any = ByteText()
PROMPT = [
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "Which way to the sea?"},
]
RECORDS = [
    {"prompt": PROMPT, "chosen": "South.", "rejected": "Who could possibly know that, or care?"},
    {"prompt": PROMPT[:1], "chosen": "Good morning to you too.", "rejected": "What."},
]


def prepared(objective: Dpo, record: dict[str, Any]) -> dict[str, Any]:
    return dict(objective.prepare(record, TEXT, np.random.default_rng(0)))


def log_p(model: Looking, prompt: list[dict[str, str]], answer: str) -> tuple[float, int]:
    """The log-probability of an answer and of the end of its turn, and how many tokens that is."""
    ids, _ = TEXT.encode_chat([*prompt, {"role": "assistant", "content": answer}])
    said = [*TEXT.encode(answer), TEXT.special("<|im_end|>")]
    start = len(ids) - 1 - len(said)  # a newline follows
    total = 0.0
    for place in range(start, start + len(said)):
        logits = model(torch.tensor(ids[:place].tolist())[None])[0, -1].detach().numpy()
        total += float(logits[ids[place]] - np.log(np.exp(logits).sum()))
    return total, len(said)


@pytest.mark.parametrize(
    "params", [{}, {"beta": 0.5}, {"label_smoothing": 0.1, "beta": 0.3}, {"sft_share": 0.7}], ids=str
)
def test_the_loss_is_the_formula(params: dict[str, float]) -> None:
    objective = Dpo(params, context=400)
    model, before = Looking(TEXT.size, seed=1), Looking(TEXT.size, seed=2)
    examples = [prepared(objective, record) for record in RECORDS]
    reference = objective.reference(before, stacked(examples))
    assert reference.shape == (2, 2)
    assert not reference.requires_grad
    for example, row in zip(examples, reference.numpy(), strict=True):
        example["reference"] = row
    lost = objective.loss(model, stacked(examples))
    usual = {"beta": 0.1, "label_smoothing": 0.0, "sft_share": 0.0}
    beta, smoothing, share = (usual | params).values()
    total = margins = hits = 0.0
    for record in RECORDS:
        (c, tokens), (r, _) = (log_p(model, record["prompt"], record[side]) for side in ("chosen", "rejected"))
        (c0, _), (r0, _) = (log_p(before, record["prompt"], record[side]) for side in ("chosen", "rejected"))
        margin = beta * ((c - c0) - (r - r0))
        total += -(1 - smoothing) * math.log(1 / (1 + math.exp(-margin)))
        total += -smoothing * math.log(1 / (1 + math.exp(margin))) - share * c / tokens
        margins += margin
        hits += margin > 0
    assert lost.total.item() == pytest.approx(total, rel=1e-6)
    assert float(lost.units) == 2
    assert float(lost.metrics["margin"]) == pytest.approx(margins, rel=1e-6)
    assert float(lost.metrics["accuracy"]) == hits
    difference = lost.metrics["chosen_reward"] - lost.metrics["rejected_reward"]
    assert float(difference) == pytest.approx(margins, rel=1e-6)


def test_a_model_that_has_not_moved_has_no_margin() -> None:
    objective = Dpo({}, context=400)
    model = Looking(TEXT.size)
    examples = [prepared(objective, record) for record in RECORDS]
    reference = objective.reference(model, stacked(examples))
    lost = objective.loss(model, {**stacked(examples), "reference": reference})
    assert lost.total.item() == pytest.approx(2 * math.log(2))
    assert float(lost.metrics["margin"]) == 0


def test_only_the_last_answer_counts() -> None:
    made = prepared(Dpo({}, context=400), RECORDS[0])
    for side in ("chosen", "rejected"):
        counted = [token for token, weight in zip(made[f"{side}_ids"], made[f"{side}_weights"], strict=True) if weight]
        assert TEXT.decode(counted) == f"{RECORDS[0][side]}<|im_end|>"


def test_a_pair_that_the_cut_left_without_an_answer_does_not_count() -> None:
    objective = Dpo({"sft_share": 1.0}, context=400)
    short = prepared(Dpo({}, context=30), RECORDS[0])
    assert not short["chosen_weights"].any()
    whole = prepared(objective, RECORDS[1])
    for example in (short, whole):
        example["reference"] = np.array([-5.0, -6.0])
    model = Looking(TEXT.size)
    both, alone = (objective.loss(model, stacked(examples)) for examples in ([short, whole], [whole]))
    assert float(both.units) == float(alone.units) == 1
    assert both.total.item() == pytest.approx(alone.total.item(), rel=1e-12)
    assert float(both.metrics["margin"]) == pytest.approx(float(alone.metrics["margin"]), rel=1e-6)
