"""Traffic and latency: what cannot be meant is refused with the field's name."""

from typing import Any

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan.serving import Latency, Traffic


def traffic(**changes: Any) -> Traffic:
    return Traffic(**({"requests_per_s": 2.0, "prompt_tokens": 100.0, "answer_tokens": 50.0} | changes))


def test_what_follows_from_means() -> None:
    one = traffic(peak_ratio=3.0)
    assert one.peak_per_s == 6.0
    assert one.held_tokens == 150.0
    assert one.read_tokens == 125.0, "a token of the answer looks back at half of it"


@pytest.mark.parametrize(
    "changes",
    [
        {"requests_per_s": 0.0},
        {"requests_per_s": -1.0},
        {"requests_per_s": float("nan")},
        {"requests_per_s": float("inf")},
        {"prompt_tokens": 0.0},
        {"answer_tokens": 0.5},
        {"peak_ratio": 0.9},
        {"cached_share": 1.0},
        {"cached_share": -0.1},
        {"growth_share": -1.0},
        {"growth_share": 11.0},
    ],
)
def test_nonsense_traffic(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be meant") as caught:
        traffic(**changes)
    assert caught.value.param == next(iter(changes))
    assert caught.value.remedy


@pytest.mark.parametrize(
    "changes", [{"first_token_s": 0.0}, {"token_s": -1.0}, {"met_share": 1.0}, {"met_share": -0.1}, {"token_s": 1e9}]
)
def test_nonsense_latency(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be meant"):
        Latency(**changes)
