"""Single runs by hand: what one failure, one stop in order, one slow node or one replica that leaves costs."""

import math
from dataclasses import replace

import pytest

from tandem.plan.simulation import DESIGNS, Design, Fleet
from tandem.plan.simulation.causes import PLANNED, STRAGGLER, Cause
from tandem.plan.simulation.saving import saving_of
from tandem.plan.simulation.strikes import Strike
from tandem.plan.simulation.walk import Pool, Walk, live
from tandem.plan.units import DAY_S, HOUR_S

FLEET = Fleet(devices=8_192, parameters=100_000_000_000, span_s=DAY_S)
PLAIN = DESIGNS["plain"]
BROKEN = Cause(name="broken", count=1)
LATE = Cause(name="late", count=1, everywhere=True, late_s=2 * HOUR_S)
SAVING = saving_of(FLEET, PLAIN)
CYCLE_S = SAVING.interval_s + SAVING.block_s


def test_nothing_strikes() -> None:
    walk = _live()
    cycles, rest_s = divmod(DAY_S, CYCLE_S)
    assert walk.training.saving_s == pytest.approx(cycles * SAVING.block_s + max(0.0, rest_s - SAVING.interval_s))
    assert walk.training.work_s == pytest.approx(DAY_S - walk.training.saving_s)
    assert walk.restarting_s == walk.waiting_s == walk.training.repeated_s == 0


def test_a_failure_loses_what_was_not_saved_and_the_restart() -> None:
    walk = _live(_strike(3.5 * CYCLE_S, BROKEN))
    assert walk.training.repeated_s == pytest.approx(0.5 * CYCLE_S)
    assert walk.restarting_s == pytest.approx(PLAIN.restart_s + SAVING.load_s)
    assert walk.waiting_s == 0
    assert _whole(walk) == pytest.approx(DAY_S)


def test_a_failure_during_a_save_loses_the_whole_interval() -> None:
    walk = _live(_strike(4 * CYCLE_S - 0.5 * SAVING.block_s, BROKEN))
    assert walk.training.repeated_s == pytest.approx(SAVING.interval_s)


def test_a_failure_during_a_restart_begins_it_again() -> None:
    walk = _live(_strike(3.5 * CYCLE_S, BROKEN), _strike(3.5 * CYCLE_S + 100, BROKEN))
    assert walk.training.repeated_s == pytest.approx(0.5 * CYCLE_S)
    assert walk.restarting_s == pytest.approx(100 + PLAIN.restart_s + SAVING.load_s)


def test_without_a_spare_all_wait_for_the_repair() -> None:
    fleet = replace(FLEET, repair_s=5 * HOUR_S)
    walk = live(fleet, PLAIN, [_strike(3.5 * CYCLE_S, BROKEN)], spares=0)
    assert walk.waiting_s == pytest.approx(5 * HOUR_S)
    assert _whole(walk) == pytest.approx(DAY_S)
    software = _strike(3.5 * CYCLE_S, replace(BROKEN, takes_node=False))
    assert live(fleet, PLAIN, [software], spares=0).waiting_s == 0


def test_a_stop_in_order_loses_only_the_restart() -> None:
    walk = _live(_strike(3.5 * CYCLE_S, PLANNED))
    assert walk.training.repeated_s == 0
    assert walk.restarting_s == pytest.approx(PLAIN.restart_s + SAVING.orderly_s + SAVING.load_s)
    # What was saved in order stays when the next failure comes.
    both = _live(_strike(3.5 * CYCLE_S, PLANNED), _strike(3.5 * CYCLE_S + 2_000, BROKEN))
    done_s = 2_000 - PLAIN.restart_s - SAVING.orderly_s - SAVING.load_s
    assert both.training.repeated_s == pytest.approx(done_s % CYCLE_S)


def test_what_is_noticed_late_spoils_older_saves() -> None:
    walk = _live(_strike(30.5 * CYCLE_S, LATE))
    spoilt = 30 - math.floor(30.5 - LATE.late_s / CYCLE_S)
    assert 1 < spoilt < 30
    assert walk.training.repeated_s == pytest.approx(0.5 * CYCLE_S + spoilt * SAVING.interval_s)
    # After going back it goes on from there, and what is newer cannot be gone back to.
    again = _live(_strike(30.5 * CYCLE_S, LATE), _strike(30.5 * CYCLE_S + 1, LATE))
    assert again.training.repeated_s == pytest.approx(walk.training.repeated_s)
    # Before there is any save that old, all is lost.
    early = _live(_strike(1.5 * CYCLE_S, LATE))
    assert early.training.repeated_s == pytest.approx(SAVING.interval_s + 0.5 * CYCLE_S)


def test_a_background_save_is_safe_only_when_it_is_written() -> None:
    slow = replace(DESIGNS["background"], storage_bytes_per_s=2e9)  # 700 s for 1.4 TB
    saving = saving_of(FLEET, slow)
    cycle_s = saving.interval_s + saving.block_s
    assert saving.block_s < 1
    assert saving.write_s == pytest.approx(700)
    assert cycle_s >= saving.write_s * (1 - 1e-9)
    just_after = live(FLEET, slow, [_strike(3 * cycle_s + 10, BROKEN)], spares=9)
    assert just_after.training.repeated_s == pytest.approx(saving.interval_s + 10)
    written = live(FLEET, slow, [_strike(3 * cycle_s + saving.write_s - 1, BROKEN)], spares=9)
    assert written.training.repeated_s > saving.interval_s


def test_a_slow_node_slows_all_until_it_is_replaced() -> None:
    walk = _live(_strike(HOUR_S, STRAGGLER, begins=True), _strike(3 * HOUR_S, STRAGGLER))
    assert walk.training.slow_s == pytest.approx(0.1 * 2 * HOUR_S, rel=0.1)
    assert walk.training.repeated_s == 0
    assert walk.restarting_s > 0
    assert _whole(walk) == pytest.approx(DAY_S)


def test_an_elastic_run_goes_on_without_the_replica() -> None:
    elastic = DESIGNS["elastic"]
    walk = live(FLEET, elastic, [_strike(HOUR_S, BROKEN)], spares=1)
    assert FLEET.replicas == 8
    assert walk.restarting_s == elastic.stall_s
    assert walk.training.repeated_s == 0
    # One of eight is away for the restart, of which all stand still for the stall.
    assert walk.training.shrunk_s == pytest.approx((elastic.restart_s - elastic.stall_s) / 8, rel=0.05)


def test_an_elastic_run_shrinks_for_as_long_as_no_node_is_there_and_grows_again() -> None:
    elastic = DESIGNS["elastic-no-spares"]
    fleet = replace(FLEET, repair_s=6 * HOUR_S)
    walk = live(fleet, elastic, [_strike(HOUR_S, BROKEN)], spares=0)
    assert walk.waiting_s == 0
    assert walk.training.shrunk_s == pytest.approx(6 * HOUR_S / 8, rel=0.05)
    # A second one in the replica that is away costs no stall; in another it does.
    same = live(fleet, elastic, [_strike(HOUR_S, BROKEN), _strike(2 * HOUR_S, BROKEN, place=0.99)], spares=0)
    other = live(fleet, elastic, [_strike(HOUR_S, BROKEN), _strike(2 * HOUR_S, BROKEN, place=0.1)], spares=0)
    assert same.restarting_s == elastic.stall_s
    assert same.training.shrunk_s == pytest.approx(7 * HOUR_S / 8, rel=0.05)
    assert other.restarting_s == 2 * elastic.stall_s
    assert other.training.shrunk_s == pytest.approx(12 * HOUR_S / 8, rel=0.05)


def test_an_elastic_run_stops_for_what_is_everywhere_but_waits_for_no_node() -> None:
    elastic = DESIGNS["elastic-no-spares"]
    planned = live(FLEET, elastic, [_strike(HOUR_S, PLANNED)], spares=0)
    assert planned.restarting_s == pytest.approx(elastic.restart_s, rel=0.01)
    assert planned.training.shrunk_s == 0
    late = live(FLEET, elastic, [_strike(12 * HOUR_S, LATE)], spares=0)
    assert late.waiting_s == 0
    assert late.training.repeated_s > LATE.late_s
    assert late.training.shrunk_s > 0


def test_the_pool_gives_spares_then_what_comes_back() -> None:
    pool = Pool(free=1, repair_s=100)
    assert [pool.take(at_s) for at_s in (0, 10, 20)] == [0, 100, 110]
    assert pool.take(500) == 500
    assert Pool(free=0, repair_s=100).take(7) == 107


def _live(*strikes: Strike, design: Design = PLAIN) -> Walk:
    return live(FLEET, design, strikes, spares=99)


def _strike(at_s: float, cause: Cause, *, begins: bool = False, place: float = 0.5) -> Strike:
    return Strike(at_s=at_s, cause=cause, place_share=place, begins=begins)


def _whole(walk: Walk) -> float:
    training = walk.training
    parts = (training.work_s, training.saving_s, training.shrunk_s, training.slow_s, training.repeated_s)
    return sum(parts) + walk.waiting_s + walk.restarting_s
