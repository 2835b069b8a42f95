"""The waterfall: sums conserve, no cap is exceeded, and the mission waits until all are at theirs."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.funding import Claim, distribute

MILLION = 10**12
"""Micro-dollars of a million US dollars."""


def claim(party: str, invested: int, cap: float, returned: int = 0) -> Claim:
    return Claim(party=party, invested_micro_usd=invested, cap_ratio=cap, returned_micro_usd=returned)


def test_by_hand() -> None:
    """A hundred invested for up to twice, three hundred for up to once and a half: four hundred come in, then more."""
    claims = [claim("lab", 100 * MILLION, 2.0), claim("platform", 300 * MILLION, 1.5)]
    found = distribute(400 * MILLION, claims)
    assert [part.paid_micro_usd for part in found.parts] == [100 * MILLION, 300 * MILLION]
    assert [part.left_micro_usd for part in found.parts] == [100 * MILLION, 150 * MILLION]
    assert found.mission_micro_usd == 0
    # Of 640 the platform's cap of 450 is reached first; the rest of its share is the lab's.
    found = distribute(640 * MILLION, claims)
    assert [part.paid_micro_usd for part in found.parts] == [190 * MILLION, 450 * MILLION]
    found = distribute(700 * MILLION, claims)
    assert [part.left_micro_usd for part in found.parts] == [0, 0]
    assert found.mission_micro_usd == 50 * MILLION


def test_what_was_returned_before_counts() -> None:
    found = distribute(100, [claim("lab", 100, 2.0, returned=150), claim("platform", 100, 1.0, returned=120)])
    assert [(part.paid_micro_usd, part.returned_micro_usd) for part in found.parts] == [(50, 200), (0, 120)]
    assert found.mission_micro_usd == 50


def test_nobody_invested_all_is_the_missions() -> None:
    assert distribute(5, []).mission_micro_usd == 5
    assert distribute(5, [claim("lab", 0, 100.0)]).mission_micro_usd == 5
    assert distribute(0, [claim("lab", 10, 2.0)]).mission_micro_usd == 0


def test_caps_are_as_written() -> None:
    assert claim("lab", 10, 1.1).cap_micro_usd == 11, "not the nearest float, which is a little more"
    assert claim("lab", 3, 1.1).cap_micro_usd == 3, "a broken micro-dollar is not paid"


claims = st.lists(
    st.builds(claim, st.just(""), st.integers(0, 10**16), st.floats(0, 100), st.integers(0, 10**17)), max_size=6
).map(
    lambda many: [
        claim(f"p{number}", one.invested_micro_usd, one.cap_ratio, one.returned_micro_usd)
        for number, one in enumerate(many)
    ]
)
amounts = st.integers(0, 10**18)


@given(amounts, claims)
def test_sums_conserve_and_caps_hold(amount: int, known: list[Claim]) -> None:
    found = distribute(amount, known)
    assert sum(part.paid_micro_usd for part in found.parts) + found.mission_micro_usd == amount
    for one, part in zip(known, found.parts, strict=True):
        assert part.party == one.party
        assert part.paid_micro_usd >= 0
        assert part.paid_micro_usd <= one.left_micro_usd
        assert part.returned_micro_usd == one.returned_micro_usd + part.paid_micro_usd
        assert part.returned_micro_usd <= max(one.cap_micro_usd, one.returned_micro_usd)
        assert part.left_micro_usd == one.left_micro_usd - part.paid_micro_usd


@given(amounts, claims)
def test_the_mission_comes_last(amount: int, known: list[Claim]) -> None:
    found = distribute(amount, known)
    if found.mission_micro_usd:
        assert not any(part.left_micro_usd for part in found.parts)


@given(amounts, claims)
def test_who_is_not_at_the_cap_gets_as_much_for_a_dollar_as_anybody(amount: int, known: list[Claim]) -> None:
    found = distribute(amount, known)
    invested = {one.party: one.invested_micro_usd for one in known}
    best = max(
        (Fraction(part.paid_micro_usd - 1, invested[part.party]) for part in found.parts if part.paid_micro_usd),
        default=0,
    )
    for part in found.parts:
        if part.left_micro_usd:
            # One micro-dollar for rounding in each round, of which there are as many as claims.
            assert Fraction(part.paid_micro_usd + len(known), invested[part.party]) >= best


@given(amounts, st.integers(0, 10**18), claims)
def test_more_money_gives_nobody_less(amount: int, more: int, known: list[Claim]) -> None:
    one, other = distribute(amount, known), distribute(amount + more, known)
    assert other.mission_micro_usd >= one.mission_micro_usd
    for before, after in zip(one.parts, other.parts, strict=True):
        assert after.paid_micro_usd >= before.paid_micro_usd - len(known), "but for rounding"


def test_nonsense() -> None:
    with pytest.raises(InvalidRequest, match="once to each party"):
        distribute(1, [claim("lab", 1, 1.0), claim("lab", 2, 1.0)])
    with pytest.raises(InvalidRequest, match="amount of 0 or more"):
        distribute(-1, [])
    for invested, cap, returned in ((-1, 1.0, 0), (1, -1.0, 0), (1, float("nan"), 0), (1, 1.0, -1)):
        with pytest.raises(InvalidRequest, match="The claim of lab"):
            claim("lab", invested, cap, returned)
