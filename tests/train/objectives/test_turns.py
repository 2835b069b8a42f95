"""Where the last answer of an encoded chat lies."""

import numpy as np
import pytest

from tandem.train.objectives.turns import last_turn


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ([0, 1, 1, 0, 0, 1, 1, 1, 0], slice(5, 8)),
        ([0, 0, 1, 1], slice(2, 4)),
        ([1, 0], slice(0, 1)),
        ([0, 1, 0, 1], slice(3, 4)),
        ([0, 0], slice(2, 2)),
        ([], slice(0, 0)),
    ],
)
def test_last_turn(weights: list[int], found: slice) -> None:
    assert last_turn(np.array(weights, dtype=np.float32)) == found
