"""Rate limits of this process: requests and tokens per minute and requests at once, for each key.

What is guaranteed: in any 60 seconds, no more requests of a key are let in than its RPM, and the requests that are let
in use no more tokens together than its TPM, provided that none uses more than its estimate. What a request uses beyond
its estimate is counted when it becomes known. As in Azure, tokens are counted at arrival, by estimate, and corrected at
the end; and a refused request counts as a request, whichever limit refused it, but not as tokens.

How: a window keeps one sum for each second and drops it once all of that second is more than 60 seconds ago, so it
looks back over 60 to 61 seconds and is never too generous.
"""

from collections.abc import Callable

from tandem.accounts.principals import Limits, Principal
from tandem.kit import clock
from tandem.kit.errors import LimitExceeded

_WINDOW_S = 60
# The second that runs, and the 60 before it.
_SLOTS = _WINDOW_S + 1
# How soon it is worth asking again when all places are taken; nobody knows when one gets free.
_PLACE_RETRY_S = 1.0
# Added to waiting times, so that no rounding of ours or of a client brings somebody back a moment too early.
_ROUNDING_S = 0.001
_FIRST_SWEEP = 1024

Headers = list[tuple[bytes, bytes]]


class Window:
    """What was counted in the last minute, second by second. Times are seconds of one monotonic clock."""

    __slots__ = ("_second", "_slots", "total")

    def __init__(self) -> None:
        self.total = 0
        """The sum of all that is still counted, as of the last `advance`."""
        self._slots = [0] * _SLOTS
        self._second = 0

    def advance(self, now_s: float) -> int:
        """Drop what is too old; returns the running second."""
        second = int(now_s)
        passed = second - self._second
        if passed >= _SLOTS:
            if self.total:
                self._slots = [0] * _SLOTS
                self.total = 0
            self._second = second
        elif passed > 0:
            for old in range(self._second + 1, second + 1):
                self.total -= self._slots[old % _SLOTS]
                self._slots[old % _SLOTS] = 0
            self._second = second
        return self._second

    def add(self, amount: int, *, now_s: float) -> int:
        """Count now; returns the second that it was counted in, for `give_back`."""
        second = self.advance(now_s)
        self._slots[second % _SLOTS] += amount
        self.total += amount
        return second

    def give_back(self, amount: int, *, second: int, now_s: float) -> None:
        """Take back what was counted in `second`, unless it has been dropped by itself."""
        if second > self.advance(now_s) - _SLOTS:
            self._slots[second % _SLOTS] -= amount
            self.total -= amount

    def wait_s(self, amount: int, *, limit: int, now_s: float) -> float:
        """Seconds until `amount` more fits under `limit` if nothing else comes; 0 if it fits now.

        An `amount` over the limit never fits; then it is the time until all is dropped.
        """
        second = self.advance(now_s)
        excess = self.total + amount - limit
        if excess <= 0:
            return 0.0
        for old in range(second - _SLOTS + 1, second + 1):
            excess -= self._slots[old % _SLOTS]
            if excess <= 0:
                return old + _SLOTS - now_s + _ROUNDING_S
        return second + _SLOTS - now_s + _ROUNDING_S

    def reset_s(self, now_s: float) -> float:
        """Seconds after which nothing is counted any more if nothing else comes."""
        second = self.advance(now_s)
        return second + _SLOTS - now_s if self.total else 0.0


class _Gauge:
    """What a limited key uses."""

    __slots__ = ("requests", "running", "tokens")

    def __init__(self) -> None:
        self.requests = Window()
        self.tokens = Window()
        self.running = 0


class Lease:
    """A place under the limits: given back with `settle` or `release`, of which the first call counts."""

    __slots__ = ()

    @property
    def headers(self) -> Headers:
        """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` as they stand now, where there are limits."""
        return []

    def settle(self, actual_tokens: int) -> None:
        """The request ended and used this many tokens: what it did not use of its estimate is free again."""

    def release(self) -> None:
        """The request was not carried out: all of its estimate is free again."""


class _LimitedLease(Lease):
    __slots__ = ("_ended", "_gauge", "_limiter", "_limits", "_second", "_tokens")

    def __init__(self, limiter: "Limiter", gauge: _Gauge, limits: Limits, *, tokens: int, second: int) -> None:
        self._limiter = limiter
        self._gauge = gauge
        self._limits = limits
        self._tokens = tokens
        self._second = second
        self._ended = False

    @property
    def headers(self) -> Headers:
        return _headers(self._gauge, self._limits, self._limiter.clock())

    def settle(self, actual_tokens: int) -> None:
        if self._ended:
            return
        self._ended = True
        self._gauge.running -= 1
        if self._limits.tokens_per_minute is None:
            return
        unused = self._tokens - actual_tokens
        now_s = self._limiter.clock()
        if unused > 0:
            self._gauge.tokens.give_back(unused, second=self._second, now_s=now_s)
        elif unused < 0:
            self._gauge.tokens.add(-unused, now_s=now_s)

    def release(self) -> None:
        self.settle(0)


_UNLIMITED = Lease()


class Limiter:
    """Counts what the keys of this process use. It belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = clock.monotonic_seconds) -> None:
        self.clock = clock
        self._gauges: dict[str, _Gauge] = {}
        self._sweep_at = _FIRST_SWEEP

    def admit(self, principal: Principal, *, tokens: int) -> Lease:
        """Let a request in that may use up to `tokens` tokens, prompt and completion together.

        Raises:
            LimitExceeded: a limit of the key is used up; the message names it.
        """
        limits = principal.limits
        if limits.requests_per_minute is None and limits.tokens_per_minute is None and limits.concurrency is None:
            return _UNLIMITED
        now_s = self.clock()
        gauge = self._gauge(principal.key_id, now_s)
        self._count_request(principal, gauge, now_s)
        if limits.concurrency is not None and gauge.running >= limits.concurrency:
            raise _exceeded(
                principal,
                "concurrent requests",
                limit=limits.concurrency,
                used=gauge.running,
                retry_after_s=_PLACE_RETRY_S,
            )
        second = 0
        if limits.tokens_per_minute is not None:
            self._check_tokens(principal, gauge, tokens, now_s)
            second = gauge.tokens.add(tokens, now_s=now_s)
        gauge.running += 1
        return _LimitedLease(self, gauge, limits, tokens=tokens, second=second)

    def headers(self, principal: Principal) -> Headers:
        """The headers of `Lease.headers` for a request that was refused."""
        gauge = self._gauges.get(principal.key_id)
        return _headers(gauge or _Gauge(), principal.limits, self.clock())

    def _count_request(self, principal: Principal, gauge: _Gauge, now_s: float) -> None:
        limit = principal.limits.requests_per_minute
        if limit is None:
            return
        fits = gauge.requests.wait_s(1, limit=limit, now_s=now_s) == 0
        gauge.requests.add(1, now_s=now_s)
        if not fits:
            # Asked after counting, so that whoever waits that long, and only waits, is let in.
            wait_s = gauge.requests.wait_s(1, limit=limit, now_s=now_s)
            raise _exceeded(
                principal,
                "requests per minute (RPM)",
                limit=limit,
                used=gauge.requests.total - 1,
                retry_after_s=wait_s,
            )

    def _check_tokens(self, principal: Principal, gauge: _Gauge, tokens: int, now_s: float) -> None:
        limit = principal.limits.tokens_per_minute
        assert limit is not None, "asked only for keys with this limit"
        wait_s = gauge.tokens.wait_s(tokens, limit=limit, now_s=now_s)
        if wait_s > 0:
            raise _exceeded(
                principal,
                "tokens per minute (TPM)",
                limit=limit,
                used=gauge.tokens.total,
                asked=tokens,
                retry_after_s=wait_s,
            )

    def _gauge(self, key_id: str, now_s: float) -> _Gauge:
        gauge = self._gauges.get(key_id)
        if gauge is None:
            if len(self._gauges) >= self._sweep_at:
                self._sweep(now_s)
            gauge = self._gauges[key_id] = _Gauge()
        return gauge

    def _sweep(self, now_s: float) -> None:
        """Forget keys at rest. The next sweep comes when twice as many are there: it costs nothing on average."""
        self._gauges = {
            key_id: gauge
            for key_id, gauge in self._gauges.items()
            if gauge.running or gauge.requests.reset_s(now_s) or gauge.tokens.reset_s(now_s)
        }
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._gauges))


def _exceeded(
    principal: Principal, what: str, *, limit: int, used: int, asked: int = 1, retry_after_s: float
) -> LimitExceeded:
    remedy = f"Try again in {retry_after_s:.1f} s."
    if asked > limit:
        remedy = "This request alone is larger: lower max_tokens, shorten the prompt, or ask for a higher limit."
    return LimitExceeded(
        f"The key {principal.name!r} has reached its limit of {what}: "
        f"limit {limit}, used {max(used, 0)}, requested {asked}.",
        remedy=remedy,
        retry_after_s=retry_after_s,
    )


def _headers(gauge: _Gauge, limits: Limits, now_s: float) -> Headers:
    headers: Headers = []
    for name, limit, window in (
        (b"requests", limits.requests_per_minute, gauge.requests),
        (b"tokens", limits.tokens_per_minute, gauge.tokens),
    ):
        if limit is not None:
            reset_s = window.reset_s(now_s)
            headers += (
                (b"x-ratelimit-limit-" + name, b"%d" % limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % max(limit - window.total, 0)),
                (b"x-ratelimit-reset-" + name, b"%.3fs" % reset_s),
            )
    return headers
