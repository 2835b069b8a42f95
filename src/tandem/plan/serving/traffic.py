"""What serving is asked for: requests and their tokens, how they grow, and how long people are willing to wait."""

import math
from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest

_MOST = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests as they come, in means over a month; they come at random (as a Poisson process)."""

    requests_per_s: float
    """In the mean of the month."""
    prompt_tokens: float
    """Of a request, in the mean."""
    answer_tokens: float
    """Of a request, in the mean."""
    peak_ratio: float = 2.0
    """The busiest hour by the mean."""
    cached_share: float = 0.0
    """Of the prompt's tokens, those whose keys and values a replica still has from an earlier request."""
    growth_share: float = 0.0
    """By how much the requests grow from one month to the next."""

    def __post_init__(self) -> None:
        bounds = (
            ("requests_per_s", 0.0, _MOST, f"more than 0 and at most {_MOST:g}"),
            ("prompt_tokens", 1.0, _MOST, f"from 1 to {_MOST:g}"),
            ("answer_tokens", 1.0, _MOST, f"from 1 to {_MOST:g}"),
            ("peak_ratio", 1.0, 1e4, "from 1 to 10,000"),
            ("cached_share", 0.0, 0.999, "from 0 to 0.999"),
            ("growth_share", -0.9, 10.0, "from -0.9 to 10"),
        )
        for name, least, most, said in bounds:
            _refuse_outside(self, name, least, most, said)
        if self.requests_per_s == 0:
            raise _outside("Traffic", "requests_per_s", 0.0, "more than 0")

    @property
    def peak_per_s(self) -> float:
        """Requests a second in the busiest hour."""
        return self.requests_per_s * self.peak_ratio

    @property
    def held_tokens(self) -> float:
        """Tokens whose keys and values a request holds at its end."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def read_tokens(self) -> float:
        """Tokens whose keys and values a new token looks at, in the mean over the answer."""
        return self.prompt_tokens + self.answer_tokens / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What people wait at most."""

    first_token_s: float = 1.0
    """Until the first token of the answer."""
    token_s: float = 0.05
    """For each token after it, in the mean of an answer."""
    met_share: float = 0.95
    """Of the requests of the busiest hour, those whose first token is in time."""

    def __post_init__(self) -> None:
        _refuse_outside(self, "first_token_s", 1e-6, 1e6, "from 1e-6 to 1e6 seconds")
        _refuse_outside(self, "token_s", 1e-9, 1e6, "from 1e-9 to 1e6 seconds")
        _refuse_outside(self, "met_share", 0.0, 0.9999, "from 0 to 0.9999")


def _refuse_outside(owner: Traffic | Latency, name: str, least: float, most: float, said: str) -> None:
    value = getattr(owner, name)
    if not math.isfinite(value) or not least <= value <= most:
        raise _outside(type(owner).__name__, name, value, said)


def _outside(owner: str, name: str, value: float, said: str) -> InvalidRequest:
    return InvalidRequest(
        f"{owner} has {name} = {value:g}, which cannot be meant.", remedy=f"Give a number that is {said}.", param=name
    )
