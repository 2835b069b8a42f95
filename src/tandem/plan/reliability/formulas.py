"""Checkpoint intervals and effective time by the field's formulas: Young, Daly, availability, ETTR, and the exact one.

All take seconds. `checkpoint_s` is what training stands still for a save, `mean_s` the mean time between interruptions
of the job, `restart_s` from an interruption until training goes on. Intervals are of training between two saves, the
save itself not counted, save where it is said.
"""

import math

from tandem.plan.units import DAY_S

WORKSHOP_S = (30.0, 1_800.0)
"""Between these the workshop keeps the interval that it finds by Young's formula (`checkpoints.every_s = 0`)."""


def mean_time_s(*, nodes: int, failures_per_1000_node_days: float) -> float:
    """Mean time between failures of a job that stops when any of its nodes fails: 1 / (nodes x rate).

    Source: Kokolis et al., HPCA 2025 (arXiv 2410.21680). Infinite at a rate of 0.
    """
    failures_per_day = nodes * failures_per_1000_node_days / 1_000
    return DAY_S / failures_per_day if failures_per_day > 0 else math.inf


def young_s(*, checkpoint_s: float, mean_s: float) -> float:
    """Young's interval, sqrt(2 C M).

    Source: Young 1974, A first order approximation to the optimum checkpoint interval.
    """
    return math.sqrt(2 * checkpoint_s * mean_s)


def workshop_interval_s(*, checkpoint_s: float, mean_s: float) -> float:
    """The interval that the workshop takes where the placement names none: Young's, from 30 s to 30 minutes."""
    least_s, most_s = WORKSHOP_S
    return min(max(young_s(checkpoint_s=checkpoint_s, mean_s=mean_s), least_s), most_s)


def daly_s(*, checkpoint_s: float, mean_s: float) -> float:
    """Daly's interval, sqrt(2CM) (1 + sqrt(C/2M)/3 + (C/2M)/9) - C where C < 2M, else M.

    Source: Daly 2006, A higher order estimate of the optimum checkpoint interval for restart dumps.
    """
    half_ratio = checkpoint_s / (2 * mean_s)
    if half_ratio >= 1:
        return mean_s
    return math.sqrt(2 * checkpoint_s * mean_s) * (1 + math.sqrt(half_ratio) / 3 + half_ratio / 9) - checkpoint_s


def with_recovery_s(*, checkpoint_s: float, mean_s: float, restart_s: float) -> float:
    """Young's interval with the time to recover, sqrt(2 C (M + R)).

    Source: changlan.org, whose example (M 6,000 s, R 600 s, C 10 s, steps of 15 s) gives 24 steps.
    """
    return math.sqrt(2 * checkpoint_s * (mean_s + restart_s))


def availability_optimal_s(*, checkpoint_s: float, mean_s: float, restart_s: float) -> float:
    """The interval of the highest availability, S + sqrt(2 (F + R) S + S^2); **it includes the save S**.

    Source: Saxena et al., NVIDIA (arXiv 2410.18124).
    """
    return checkpoint_s + math.sqrt(2 * (mean_s + restart_s) * checkpoint_s + checkpoint_s**2)


def effective_time_share(*, checkpoint_s: float, mean_s: float, restart_s: float, interval_s: float) -> float:
    """Expected effective training time ratio (ETTR), (1 - (R + T/2)/M) / (1 + C/T); below 0 it has left its bounds.

    Source: Kokolis et al., HPCA 2025 (arXiv 2410.21680). First order: good while M is far above R + T/2.
    """
    return (1 - (restart_s + interval_s / 2) / mean_s) / (1 + checkpoint_s / interval_s)


def expected_wall_s(
    *, useful_s: float, checkpoint_s: float, mean_s: float, restart_s: float, interval_s: float
) -> float:
    """Expected time to finish, M exp(R/M) (exp((T+C)/M) - 1) useful/T: exact for failures that strike independently,
    during saves and restarts too. Infinite where it is beyond all numbers.

    Source: Daly 2006, equation 13.
    """
    if math.isinf(mean_s):
        return useful_s * (1 + checkpoint_s / interval_s)
    try:
        each_s = mean_s * math.exp(restart_s / mean_s) * math.expm1((interval_s + checkpoint_s) / mean_s)
    except OverflowError:
        return math.inf
    return each_s * useful_s / interval_s


def best_interval_s(*, checkpoint_s: float, mean_s: float) -> float:
    """The interval that makes `expected_wall_s` least; it does not depend on the restart. Infinite without failures.

    The root of exp((T+C)/M) (1 - T/M) = 1, found by Newton's method: Lambert's W in closed form. Young's and Daly's
    intervals are its first orders.
    """
    if math.isinf(mean_s):
        return math.inf
    # With x = T/M and c = C/M: x + c + ln(1 - x) = 0. The left side falls over 0 < x < 1 and is concave, so that
    # steps from the right of the root stay there.
    cost_ratio = checkpoint_s / mean_s
    if cost_ratio > _COSTLIEST:
        return mean_s
    if cost_ratio < _CHEAPEST:
        return young_s(checkpoint_s=checkpoint_s, mean_s=mean_s)
    ratio = min(math.sqrt(2 * cost_ratio), -math.expm1(-1 - cost_ratio))
    for _ in range(_NEWTON_STEPS):
        ratio -= (ratio + cost_ratio + math.log1p(-ratio)) * (ratio - 1) / ratio
    return ratio * mean_s


_COSTLIEST = 30.0  # saves of so many mean times: the interval differs from the mean time by less than a float can show
_CHEAPEST = 1e-20  # below, Young's is the same but for a part in 10^10, and the root's own digits are lost
_NEWTON_STEPS = 8
