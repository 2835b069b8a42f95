"""The objective of chats: only the assistant's words count."""

from typing import Any

import numpy as np

from tandem.train.objectives.sft import Sft
from tests.train.objectives.stand_ins import ByteText, Looking, stacked

TEXT: Any = ByteText()
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And one?"},
    {"role": "assistant", "content": "Five."},
]


def prepared(context: int) -> Any:
    return Sft({}, context=context).prepare({"messages": MESSAGES}, TEXT, np.random.default_rng(0))


def test_weights_are_on_what_the_assistant_says() -> None:
    made = prepared(400)
    counted = [token for token, weight in zip(made["ids"], made["weights"], strict=True) if weight]
    assert TEXT.decode(counted) == "Four.<|im_end|>Five.<|im_end|>"


def test_a_chat_is_cut_at_the_right_and_one_without_an_answer_is_counted() -> None:
    long, short = prepared(400), prepared(20)
    assert len(short["ids"]) == 21
    assert np.array_equal(short["ids"], long["ids"][:21])
    assert not short["weights"].any()
    lost = Sft({}, context=400).loss(Looking(TEXT.size), stacked([long, short]))
    assert float(lost.metrics["lost_samples"]) == 1
    assert float(lost.units) == 12
    alone = Sft({}, context=400).loss(Looking(TEXT.size), stacked([long]))
    assert lost.total.item() == alone.total.item()
    assert float(alone.metrics["lost_samples"]) == 0
