"""Heartbeats: the signs of life that the workers of an attempt leave in its folder."""

import msgspec

from tandem.spec import AttemptFolder


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's sign of life; `at` in Unix milliseconds, `p95_s` of its recent steps."""

    phase: str = ""
    step: int = 0
    at: int = 0
    p95_s: float = 0.0


def heartbeats(attempt: AttemptFolder, workers: int) -> list[Beat]:
    """The last sign of life of each of the workers that has given one that is whole."""
    found: list[Beat] = []
    for rank in range(workers):
        try:
            found.append(msgspec.json.decode(attempt.heartbeat(rank).read_bytes(), type=Beat))
        except (FileNotFoundError, msgspec.DecodeError):
            pass  # it has not begun, or a crash has torn it
    return found
