"""Preferences on held-out pairs: how much more a model likes the chosen answers than it did before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.train.evaluate.examination import Examination, measuring, prepared
from tandem.train.evaluate.gain import paired_gain
from tandem.train.loop import micro
from tandem.train.objectives import Referenced


def margin_report(exam: Examination, objective: Referenced, reference: NDArray[np.float32]) -> dict[str, Any]:
    """The mean reward margin of held-out pairs, and the share of pairs with a positive one; both start from 0.

    `margin_interval` is [low, high] of a 95 % bootstrap. `prefers_chosen` is the share of pairs whose chosen answer is
    the likelier one by itself, `prefers_chosen_before` what it was. `objective` is `dpo`, or measures pairs as it
    does; `reference` is what it said at step 0: log-probabilities of both answers, [N, 2], of each held-out sample.
    """
    margins, now, before = [], [], []
    with measuring(exam.model):
        for place in exam.places:
            exam.beat()
            made = prepared(objective, exam.samples[place], exam.text, seed=exam.seed, place=place)
            batch = micro([{**made, "reference": reference[place]}], exam.device).batch
            lost = objective.loss(exam.model, batch)
            if not lost.units:  # the context left no answer
                continue
            margins.append(float(lost.metrics["margin"]))
            chosen, rejected = objective.reference(exam.model, batch)[0].tolist()
            now.append(float(chosen > rejected))
            before.append(float(reference[place][0] > reference[place][1]))
    gain = paired_gain(margins, [0.0] * len(margins), seed=exam.seed)
    return {
        "samples": len(margins),
        "margin": gain.mean,
        "margin_interval": [gain.low, gain.high],
        "accuracy": float(np.mean(np.array(margins) > 0)) if margins else None,
        "prefers_chosen": float(np.mean(now)) if now else None,
        "prefers_chosen_before": float(np.mean(before)) if before else None,
    }
