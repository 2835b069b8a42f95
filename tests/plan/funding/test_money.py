"""Money: exact to the micro-dollar, shared without loss, and months that are months."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.funding.money import micro_usd, month_number, month_text, shared, usd


@pytest.mark.parametrize(
    ("amount_usd", "micro"),
    [(0.1, 100_000), (0.1 + 0.2, 300_000), (1e9, 10**15), (0.000_000_5, 0), (0.000_001_5, 2), (0.29, 290_000), (0, 0)],
)
def test_amounts_are_taken_as_they_are_written(amount_usd: float, micro: int) -> None:
    assert micro_usd(amount_usd, what="it") == micro


@given(st.decimals(0, 10**9, places=6))
def test_an_amount_with_six_digits_comes_back(amount: object) -> None:
    number = float(str(amount))
    assert usd(micro_usd(number, what="it")) == number


@pytest.mark.parametrize("amount_usd", [-0.01, float("nan"), float("inf"), 1e16])
def test_nonsense_amounts(amount_usd: float) -> None:
    with pytest.raises(InvalidRequest, match="The tranche one is"):
        micro_usd(amount_usd, what="The tranche one")


@given(st.integers(0, 10**18), st.lists(st.integers(0, 10**15), max_size=8))
def test_parts_sum_to_the_whole_and_are_nearest_to_their_weights(amount: int, weights: list[int]) -> None:
    parts = shared(amount, weights)
    assert len(parts) == len(weights)
    if total := sum(weights):
        assert sum(parts) == amount
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part - Fraction(amount * weight, total)) < 1
    else:
        assert not any(parts)


def test_the_largest_remainder_gets_what_is_left() -> None:
    assert shared(10, [1, 1, 1]) == (4, 3, 3)
    assert shared(100, [1, 2, 4]) == (14, 29, 57)


@pytest.mark.parametrize("month", ["2027-13", "2027-0", "27-01", "2027-01-01", "", "2027-00", "２027-01"])
def test_nonsense_months(month: str) -> None:
    with pytest.raises(InvalidRequest, match="has the month"):
        month_number(month, what="The plan")


def test_months_can_be_counted() -> None:
    assert month_number("2028-01", what="it") - month_number("2027-11", what="it") == 2
    assert month_text(month_number("2027-12", what="it") + 1) == "2028-01"
