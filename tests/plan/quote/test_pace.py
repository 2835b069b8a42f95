"""How fast a model trains on so many hosts, failures included, and how sure that is."""

import math
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.quote import PUBLISHED_RATIO, Ask
from tandem.plan.quote.pace import Pace, batch_samples, odd_part, pace_of
from tandem.plan.reliability import Faults, endure
from tandem.plan.scaling import batch_tokens
from tandem.plan.units import DAY_S, HOUR_S, Interval
from tandem.plan.workshop import Factor
from tests.plan.published import LLAMA, catalogue, rows

LEARNT = Factor(system="8xh100", ratio=Interval(1.1, 1.2, 1.35), runs=("one", "two"))


@cache
def pace(*, hosts: int = 8, factor: Factor | None = None) -> Pace:
    cluster = catalogue().cluster("8xh100", hosts=hosts)
    return pace_of(LLAMA["8b"], cluster, Ask(budget_usd=1.0), batch_flop=1e22, factor=factor)


def test_time_is_that_of_the_layout_under_failures() -> None:
    found = pace()
    tokens = 1e11
    useful_s = tokens / found.ranking.best.step.tokens_per_s
    endured = endure(useful_s, found.faults)
    way = found.way(tokens, name="x", why="")
    assert way.useful_s == pytest.approx(useful_s)
    assert way.wall_s.mid == pytest.approx(endured.wall_s.mid)
    assert way.wall_s.mid > way.useful_s
    assert way.goodput_share.mid == pytest.approx(way.useful_s / way.wall_s.mid)
    assert found.faults == Faults.of(found.cluster, checkpoint_s=found.faults.checkpoint_s)


def test_cost_is_devices_times_time_times_price() -> None:
    way = pace().way(1e11, name="x", why="")
    assert way.devices == 64
    assert way.cost_usd.mid == pytest.approx(64 * way.wall_s.mid / HOUR_S * 3.0)
    assert way.cost_usd.low / way.wall_s.low == pytest.approx(way.cost_usd.high / way.wall_s.high)


def test_the_interval_is_at_least_that_of_published_runs() -> None:
    wall_s = pace().way(1e11, name="x", why="").wall_s
    assert wall_s.low <= wall_s.mid * PUBLISHED_RATIO.low
    assert wall_s.high >= wall_s.mid * PUBLISHED_RATIO.high


def test_nine_of_ten_published_rows_lie_within_the_interval() -> None:
    """Those that the model was not fitted on."""
    ratios = [row.ratio() for row in rows() if not row.fitted]
    inside = [PUBLISHED_RATIO.low <= ratio <= PUBLISHED_RATIO.high for ratio in ratios]
    assert sum(inside) >= 0.9 * len(inside)


def test_own_runs_move_the_time_and_its_interval() -> None:
    usual, learnt = pace(), pace(factor=LEARNT)
    assert learnt.tokens_per_s == pytest.approx(usual.tokens_per_s / 1.2)
    way = learnt.way(1e11, name="x", why="")
    assert way.wall_s.high / way.wall_s.mid == pytest.approx(1.35 / 1.2, rel=0.02)
    assert any("2 own runs" in step.source for step in learnt.derivation(way).steps)


def test_a_factor_without_runs_changes_nothing() -> None:
    ignorant = Factor(system="8xh100", ratio=Interval(0.5, 1.0, 2.0))
    found = pace(factor=ignorant)
    assert found.ratio == PUBLISHED_RATIO
    assert any("no own runs yet" in step.formula for step in found.derivation(found.way(1e9, name="", why="")).steps)


@pytest.mark.parametrize("span_s", [60.0, HOUR_S, DAY_S, 30 * DAY_S])
def test_the_tokens_of_a_span_fill_it(span_s: float) -> None:
    found = pace()
    assert found.wall_s(found.tokens_within(span_s)) == pytest.approx(span_s, rel=1e-3)


@given(st.floats(60, 90 * DAY_S), st.floats(1.001, 10))
def test_more_time_never_reaches_fewer_tokens(span_s: float, factor: float) -> None:
    found = pace()
    assert found.tokens_within(span_s * factor) >= found.tokens_within(span_s)


def test_more_failures_never_finish_sooner() -> None:
    cluster = catalogue().cluster("8xh100", hosts=512)
    ask = Ask(budget_usd=1.0)
    walls = []
    for rate in (0.0, 2.0, 4.0, 16.0, 64.0):
        struck = replace(cluster, failures_per_1000_node_days=rate)
        walls.append(pace_of(LLAMA["70b"], struck, ask, batch_flop=1e24, factor=None).wall_s(1e12))
    assert walls == sorted(walls)
    assert walls[-1] > 1.1 * walls[0]


@given(st.floats(1e15, 1e28), st.sampled_from([512, 2048, 8192]), st.integers(1, 16_384))
def test_a_batch_is_the_rules_as_far_as_the_devices_can_share_it(flop: float, context: int, hosts: int) -> None:
    samples, odd = batch_samples(flop, context=context, devices=8 * hosts), odd_part(8 * hosts)
    assert samples % odd == 0
    assert math.log2(samples / odd).is_integer()
    wanted = batch_tokens(flop) / context
    assert samples == odd or wanted / math.sqrt(2) <= samples * 1.000001 <= 2.000001 * wanted


def test_a_hundred_thousand_devices_get_no_batch_of_a_million_tokens() -> None:
    assert batch_samples(1e26, context=8192, devices=98_304) * 8192 > 5e7


def test_the_derivation_names_its_rows_and_shows_a_missing_price() -> None:
    priced = pace()
    told = priced.derivation(priced.way(1e11, name="", why=""))
    assert any(row.startswith("price 8xh100-nanochat") for row in told.rows)
    assert any(row.startswith("host 8xh100") for row in told.rows)
    owned = pace_of(
        LLAMA["8b"],
        replace(catalogue().cluster("8xh100", hosts=8), price=None),
        Ask(devices=64, span_s=60.0),
        batch_flop=1e22,
        factor=None,
    )
    way = owned.way(1e9, name="", why="")
    assert way.cost_usd == Interval(0.0, 0.0, 0.0)
    assert any("no price for 8xh100" in warning for warning in owned.derivation(way).warnings)
