"""The interval of a paired difference."""

import numpy as np
import pytest

from tandem.train.evaluate.gain import paired_gain


def test_the_interval_holds_the_mean_and_is_the_same_for_a_seed() -> None:
    random = np.random.default_rng(0)
    theirs = random.random(200)
    ours = theirs + random.normal(0.1, 0.2, size=200)
    found = paired_gain(ours.tolist(), theirs.tolist(), seed=3)
    assert found == paired_gain(ours.tolist(), theirs.tolist(), seed=3)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx((ours - theirs).mean())
    # 1.96 standard errors, as the normal approximation has it
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.2 / 200**0.5, rel=0.2)


@pytest.mark.parametrize("scores", [[], [0.5, 0.5], [0.0, 1.0]])
def test_equal_scores_gain_nothing(scores: list[float]) -> None:
    assert tuple(paired_gain(scores, scores, seed=0)) == (0.0, 0.0, 0.0)
