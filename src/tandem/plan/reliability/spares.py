"""Spare nodes: how many must stand by so that a failed one is nearly always replaced at once, by Poisson's law."""

import math

from tandem.kit.errors import InvalidRequest

_MOST_NODES = 1e6


def spare_nodes(*, failures_per_s: float, repair_s: float, sure_share: float = 0.99) -> int:
    """The least number of spares that are enough at a moment with a probability of `sure_share`.

    Nodes that fail at a rate and are each away for `repair_s` are away in a Poisson number whose mean is rate x time
    (Palm's theorem: whatever the distribution of repairs); the answer is the quantile of that.

    Raises:
        InvalidRequest: the rate or the time is negative, the share not in 0..1, or more than a million nodes are away.
    """
    away_ratio = failures_per_s * repair_s
    if not (0 <= away_ratio <= _MOST_NODES and failures_per_s >= 0 and 0 <= sure_share < 1):
        raise InvalidRequest(
            f"No number of spares suits {away_ratio:g} nodes that are away at a time.",
            remedy="Failures and repairs are not negative, at most a million nodes are away, the share is below 1.",
        )
    # Farther from the mean there is nothing that a float can show. In logarithms: exp(-mean) alone is 0 from 746 on.
    reach = _FARTHEST * math.sqrt(away_ratio + _FARTHEST)
    spares, within = max(0, math.floor(away_ratio - reach)), 0.0
    while spares < away_ratio + reach:
        log_share = (spares * math.log(away_ratio) if spares else 0.0) - away_ratio - math.lgamma(spares + 1)
        within += math.exp(log_share)
        if within >= sure_share:
            break
        spares += 1
    return spares


_FARTHEST = 10.0  # standard deviations
