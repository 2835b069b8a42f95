"""Limits: never more than promised in any minute, never less than what is left, and no waiting in vain."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.accounts import Lease, Limiter, Limits, Principal
from tandem.accounts import limits as limits_module
from tandem.accounts.limits import Window
from tandem.kit.errors import LimitExceeded
from tests.accounts.stand_ins import StoppedClock, principal

STARTS = st.floats(min_value=0, max_value=1e6)
PAUSES = st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 70), st.floats(59, 62))


def limiter_at(now_s: float) -> tuple[Limiter, StoppedClock]:
    ticking = StoppedClock(now_s)
    return Limiter(ticking), ticking


def refusal(limiter: Limiter, caller: Principal, tokens: int) -> LimitExceeded | None:
    try:
        limiter.admit(caller, tokens=tokens)
    except LimitExceeded as error:
        return error
    return None


@given(start=STARTS, limit=st.integers(1, 10), pauses=st.lists(PAUSES, max_size=60))
def test_no_minute_has_more_requests_than_the_limit(start: float, limit: int, pauses: list[float]) -> None:
    limiter, ticking = limiter_at(start)
    caller = principal(limits=Limits(requests_per_minute=limit))
    admitted: list[float] = []
    for pause in pauses:
        ticking.now_s += pause
        try:
            limiter.admit(caller, tokens=1)
        except LimitExceeded:
            continue
        admitted.append(ticking.now_s)
        assert sum(ticking.now_s - 60 < time <= ticking.now_s for time in admitted) <= limit


REQUESTS = st.lists(
    st.tuples(PAUSES, st.integers(0, 60), st.integers(0, 60), st.integers(0, 3)),  # pause, estimate, actual, who ends
    max_size=60,
)


@given(start=STARTS, requests=REQUESTS)
def test_no_minute_has_more_tokens_than_the_limit(start: float, requests: list[tuple[float, int, int, int]]) -> None:
    """Requests that arrive in any minute use no more than the limit, while none exceeds its estimate."""
    limiter, ticking = limiter_at(start)
    caller = principal(limits=Limits(tokens_per_minute=100))
    running: list[tuple[Lease, int, int]] = []
    charged: list[list[float]] = []  # arrival, tokens that count
    for pause, estimate, actual, ending in requests:
        ticking.now_s += pause
        for lease, index, used in running[:ending]:
            lease.settle(used)
            charged[index][1] = used
        del running[:ending]
        try:
            lease = limiter.admit(caller, tokens=estimate)
        except LimitExceeded:
            continue
        charged.append([ticking.now_s, estimate])
        running.append((lease, len(charged) - 1, min(actual, estimate)))
        assert sum(tokens for time, tokens in charged if ticking.now_s - 60 < time) <= 100


@given(
    start=STARTS,
    limits=st.builds(Limits, requests_per_minute=st.integers(1, 5), tokens_per_minute=st.integers(20, 60)),
    arrivals=st.lists(st.tuples(PAUSES, st.integers(0, 20)), min_size=1, max_size=40),
)
def test_whoever_waits_as_told_is_let_in(start: float, limits: Limits, arrivals: list[tuple[float, int]]) -> None:
    limiter, ticking = limiter_at(start)
    caller = principal(limits=limits)
    for pause, tokens in arrivals:
        ticking.now_s += pause
        refused = refusal(limiter, caller, tokens)
        if refused is not None:
            assert 0 < refused.retry_after_s <= 61.01
            ticking.now_s += refused.retry_after_s
            limiter.admit(caller, tokens=tokens if "TPM" in refused.message else 0)


@given(start=STARTS, steps=st.lists(st.tuples(PAUSES, st.integers(1, 9)), max_size=60))
def test_a_window_is_the_sum_of_the_last_61_seconds(start: float, steps: list[tuple[float, int]]) -> None:
    window, now_s = Window(), start
    added: list[tuple[int, int]] = []
    for pause, amount in steps:
        now_s += pause
        added.append((window.add(amount, now_s=now_s), amount))
        assert window.total == sum(amount for second, amount in added if second > math.floor(now_s) - 61)


def test_concurrent_requests_cannot_exceed_the_token_limit() -> None:
    limiter, _ = limiter_at(1000)
    caller = principal(limits=Limits(tokens_per_minute=100))
    refused = [refusal(limiter, caller, 40) for _ in range(5)]
    assert [one and "TPM" in one.message for one in refused] == [None, None, True, True, True]


def test_what_a_request_did_not_use_is_free_at_once_and_only_once() -> None:
    limiter, ticking = limiter_at(1000)
    caller = principal(limits=Limits(tokens_per_minute=100))
    lease = limiter.admit(caller, tokens=90)
    ticking.now_s += 10
    for _ in range(3):
        lease.settle(30)
        lease.release()
    limiter.admit(caller, tokens=70)
    with pytest.raises(LimitExceeded):
        limiter.admit(caller, tokens=1)


def test_what_a_request_used_beyond_its_estimate_counts() -> None:
    limiter, _ = limiter_at(1000)
    caller = principal(limits=Limits(tokens_per_minute=100))
    limiter.admit(caller, tokens=10).settle(95)
    with pytest.raises(LimitExceeded):
        limiter.admit(caller, tokens=6)
    limiter.admit(caller, tokens=5)


def test_a_refund_after_the_window_moved_on_is_not_counted_twice() -> None:
    limiter, ticking = limiter_at(1000)
    caller = principal(limits=Limits(tokens_per_minute=100))
    lease = limiter.admit(caller, tokens=100)
    ticking.now_s += 61
    limiter.admit(caller, tokens=100)
    lease.settle(0)
    with pytest.raises(LimitExceeded):
        limiter.admit(caller, tokens=1)


def test_refused_requests_count_as_requests_and_not_as_tokens() -> None:
    limiter, ticking = limiter_at(1000)
    caller = principal(limits=Limits(requests_per_minute=3, tokens_per_minute=100))
    limiter.admit(caller, tokens=100)
    for _ in range(2):
        with pytest.raises(LimitExceeded, match="TPM"):
            limiter.admit(caller, tokens=50)
    with pytest.raises(LimitExceeded, match="RPM"):
        limiter.admit(caller, tokens=0)
    ticking.now_s += 61
    limiter.admit(caller, tokens=100)


def test_a_request_larger_than_the_limit_is_told_so() -> None:
    limiter, _ = limiter_at(1000)
    with pytest.raises(LimitExceeded) as caught:
        limiter.admit(principal(limits=Limits(tokens_per_minute=100)), tokens=101)
    assert "max_tokens" in caught.value.remedy


def test_concurrency() -> None:
    limiter, _ = limiter_at(1000)
    caller = principal(limits=Limits(concurrency=2))
    first, _second = limiter.admit(caller, tokens=5), limiter.admit(caller, tokens=5)
    with pytest.raises(LimitExceeded, match="concurrent requests: limit 2, used 2"):
        limiter.admit(caller, tokens=5)
    first.release()
    first.settle(3)
    limiter.admit(caller, tokens=5)
    with pytest.raises(LimitExceeded):
        limiter.admit(caller, tokens=5)


def test_keys_do_not_share_limits() -> None:
    limiter, _ = limiter_at(1000)
    limits = Limits(requests_per_minute=1)
    limiter.admit(principal("key_1", limits=limits), tokens=1)
    limiter.admit(principal("key_2", limits=limits), tokens=1)
    with pytest.raises(LimitExceeded):
        limiter.admit(principal("key_2", limits=limits), tokens=1)


def test_headers_say_what_is_left() -> None:
    limiter, ticking = limiter_at(1000.25)
    caller = principal(limits=Limits(requests_per_minute=10, tokens_per_minute=100))
    lease = limiter.admit(caller, tokens=60)
    assert dict(lease.headers) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-reset-requests": b"60.750s",
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"40",
        b"x-ratelimit-reset-tokens": b"60.750s",
    }
    lease.settle(500)
    assert dict(limiter.headers(caller))[b"x-ratelimit-remaining-tokens"] == b"0"
    ticking.now_s += 61
    later = dict(lease.headers)
    assert later[b"x-ratelimit-remaining-tokens"] == b"100"
    assert later[b"x-ratelimit-reset-tokens"] == b"0.000s"


def test_keys_without_limits_leave_no_trace() -> None:
    limiter, _ = limiter_at(1000)
    leases = {id(limiter.admit(principal(f"key_{number}"), tokens=10**9)) for number in range(100)}
    assert len(leases) == 1
    assert not limiter._gauges
    assert limiter.headers(principal()) == []


def test_memory_is_bounded_by_the_keys_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "_FIRST_SWEEP", 8)
    limiter, ticking = limiter_at(1000)
    limits = Limits(requests_per_minute=2, concurrency=1)
    held = limiter.admit(principal("held", limits=limits), tokens=1)
    for number in range(500):
        ticking.now_s += 10
        limiter.admit(principal(f"key_{number}", limits=limits), tokens=1).release()
    assert len(limiter._gauges) < 32
    with pytest.raises(LimitExceeded):
        limiter.admit(principal("held", limits=limits), tokens=1)
    held.release()
    limiter.admit(principal("held", limits=limits), tokens=1)
