"""The next-token objective."""

from typing import Any

import numpy as np
import pytest
import torch

from tandem.train.objectives.lm import Lm
from tests.train.objectives.stand_ins import ByteText, Looking, stacked

TEXT: Any = ByteText()


def test_segments_follow_each_other_and_all_count() -> None:
    made = Lm({}, context=8).prepare({"segments": [[7, 8], [9], [10, 0]]}, TEXT, np.random.default_rng(0))
    assert made["ids"].tolist() == [7, 8, 9, 10, 0]
    assert made["weights"].tolist() == [1.0] * 5
    assert (made["ids"].dtype, made["weights"].dtype) == (np.int32, np.float32)


def test_the_loss_is_the_sum_of_the_surprise_at_each_token_after_the_first() -> None:
    model = Looking(TEXT.size)
    rows = [[7, 8, 9, 10], [20, 21]]
    examples = [Lm({}, context=8).prepare({"segments": [row]}, TEXT, np.random.default_rng(0)) for row in rows]
    lost = Lm({}, context=8).loss(model, stacked(examples))
    expected = 0.0
    for row in rows:
        log_p = model(torch.tensor([row])).log_softmax(-1)[0]
        expected -= sum(float(log_p[place, row[place + 1]].detach()) for place in range(len(row) - 1))
    assert lost.total.item() == pytest.approx(expected, rel=1e-9)
    assert float(lost.units) == 4
