"""The clock: aware wall time, and a monotonic one for durations."""

from datetime import UTC, datetime, timedelta

import pytest

from tandem.kit import clock


def test_now_is_in_utc() -> None:
    assert clock.now().tzinfo is UTC


def test_both_wall_clocks_agree() -> None:
    before = clock.unix_seconds()
    now = clock.now()
    after = clock.unix_seconds()
    assert before <= now.timestamp() < after + 1
    assert abs(now - datetime.fromtimestamp(after, UTC)) < timedelta(seconds=60)


def test_monotonic_time_does_not_go_back() -> None:
    readings = [clock.monotonic_seconds() for _ in range(1000)]
    assert readings == sorted(readings)


def test_whole_seconds_are_cut_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.time, "time", lambda: 1_700_000_000.999)
    assert clock.unix_seconds() == 1_700_000_000
