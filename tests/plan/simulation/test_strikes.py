"""What is drawn: rates by nodes and days, causes in Llama 3's proportions, in order, equal for equal seeds."""

from collections import Counter

import pytest

from tandem.plan.simulation import Fleet
from tandem.plan.simulation.causes import PLANNED, STRAGGLER, UNEXPECTED
from tandem.plan.simulation.strikes import draw, rates_of
from tandem.plan.units import DAY_S

FLEET = Fleet(devices=131_072, span_s=60 * DAY_S)


def test_causes_come_in_the_proportions_of_the_table() -> None:
    assert sum(cause.count for cause in UNEXPECTED) == 419
    assert PLANNED.count == 466 - 419
    counts = Counter(strike.cause.name for strike in draw(FLEET, find_s=0, seed=0, run=0))
    failures = 4.0 * 16.384 * 60
    for cause in UNEXPECTED:
        expected = failures * cause.count / 419
        assert counts[cause.name] == pytest.approx(expected, abs=4 * expected**0.5)


def test_in_order_within_the_span_and_equal_for_equal_seeds() -> None:
    strikes = draw(FLEET, find_s=1_800, seed=1, run=2)
    times = [strike.at_s for strike in strikes]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < FLEET.span_s
    assert strikes == draw(FLEET, find_s=1_800, seed=1, run=2)
    assert strikes != draw(FLEET, find_s=1_800, seed=1, run=3)


def test_a_slow_node_is_found_later() -> None:
    slow = [strike for strike in draw(FLEET, find_s=3_600, seed=0, run=0) if strike.cause is STRAGGLER]
    begun = [strike.at_s for strike in slow if strike.begins]
    found = [strike.at_s for strike in slow if not strike.begins]
    assert found == [at_s + 3_600 for at_s in begun if at_s + 3_600 < FLEET.span_s]
    assert len(begun) == pytest.approx(0.5 * 16.384 * 60, rel=0.15)


def test_small_fleets_have_other_causes_and_large_ones_none() -> None:
    assert rates_of(FLEET).other_per_s == 0
    small = rates_of(Fleet(devices=1_024))
    assert 1 / small.unexpected_per_s == pytest.approx(7.9 * 3_600)
    assert rates_of(Fleet(devices=1_024, measured=True)).other_per_s == 0
