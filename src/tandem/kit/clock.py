"""The one source of time: wall time for records, monotonic time for durations."""

import time
from datetime import UTC, datetime


def now() -> datetime:
    """The current time, timezone-aware, in UTC."""
    return datetime.now(UTC)


def unix_seconds() -> int:
    """Whole seconds since 1970-01-01 UTC, as the OpenAI wire format writes times."""
    return int(time.time())


def unix_milliseconds() -> int:
    """Whole milliseconds since 1970-01-01 UTC, for records that are written in great numbers."""
    return time.time_ns() // 1_000_000


def monotonic_seconds() -> float:
    """Seconds on a clock that never goes back; only differences mean something."""
    return time.monotonic()
