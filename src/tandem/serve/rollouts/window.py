"""What one side of a rollout has answered lately, counted in memory by whoever answers; numbers only, never texts."""

from collections import deque
from enum import StrEnum

import msgspec

# The newest latencies of each kind; the tests look no further back.
_KEPT = 500


class Answered(StrEnum):
    """How a request ended, as far as it says anything of the version."""

    OK = "ok"
    FILTERED = "filtered"
    FAILED = "failed"
    LEFT = "left"
    """The client left before the first byte: it waited too long, or changed its mind."""


# NOTE: numbers are stored for ever. Fields are only added, at the end, with a default.


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of one side in one step."""

    requests: int = 0
    """Those that ended: answered, filtered or failed."""
    failed: int = 0
    filtered: int = 0
    left: int = 0
    """Beside `requests`."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: tuple[float, ...] = ()
    """Of streams, the newest."""
    token_s: tuple[float, ...] = ()
    """The time of an answer divided by its tokens, the newest."""
    compared: int = 0
    """Answers of a shadow beside the client's."""
    equal: int = 0
    likeness: float = 0.0
    """The sum over `compared`."""
    skipped: int = 0
    """Requests that a shadow did not get because it was busy."""

    @property
    def mean_likeness(self) -> float:
        """How alike the compared answers are on average, 0 to 1."""
        return self.likeness / self.compared if self.compared else 0.0


_NOTHING = Numbers()


class Window:
    """Counts one side of one step; belongs to the event loop on which requests are answered."""

    __slots__ = (
        "_compared",
        "_completion_tokens",
        "_counts",
        "_equal",
        "_first_token_s",
        "_likeness",
        "_prompt_tokens",
        "_skipped",
        "_token_s",
    )

    def __init__(self, start: Numbers = _NOTHING) -> None:
        ok = start.requests - start.failed - start.filtered
        self._counts = {
            Answered.OK: ok,
            Answered.FILTERED: start.filtered,
            Answered.FAILED: start.failed,
            Answered.LEFT: start.left,
        }
        self._prompt_tokens = start.prompt_tokens
        self._completion_tokens = start.completion_tokens
        self._first_token_s = deque(start.first_token_s, _KEPT)
        self._token_s = deque(start.token_s, _KEPT)
        self._compared = start.compared
        self._equal = start.equal
        self._likeness = start.likeness
        self._skipped = start.skipped

    def record(
        self,
        answered: Answered,
        *,
        duration_s: float = 0.0,
        first_token_s: float | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
    ) -> None:
        """Count one request that has ended; times count where it was answered in full."""
        self._counts[answered] += 1
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
        if answered is Answered.OK:
            if first_token_s is not None:
                self._first_token_s.append(round(first_token_s, 6))
            self._token_s.append(round(duration_s / max(completion_tokens, 1), 6))

    def compare(self, *, equal: bool, likeness: float) -> None:
        """Count a shadow's answer that was held against the client's."""
        self._compared += 1
        self._equal += equal
        self._likeness += likeness

    def skip(self) -> None:
        """Count a request that a shadow did not get."""
        self._skipped += 1

    def numbers(self) -> Numbers:
        """What was counted so far."""
        counts = self._counts
        return Numbers(
            requests=counts[Answered.OK] + counts[Answered.FILTERED] + counts[Answered.FAILED],
            failed=counts[Answered.FAILED],
            filtered=counts[Answered.FILTERED],
            left=counts[Answered.LEFT],
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            first_token_s=tuple(self._first_token_s),
            token_s=tuple(self._token_s),
            compared=self._compared,
            equal=self._equal,
            likeness=self._likeness,
            skipped=self._skipped,
        )
