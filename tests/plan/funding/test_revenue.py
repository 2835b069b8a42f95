"""Revenue by a price list: exact, rounded once a line, and unpriced usage is told."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.funding import Tariff, Used, earned


def used(deployment: str = "chat", *, prompt: int, answer: int, cached: int = 0, month: str = "2027-01") -> Used:
    return Used(
        month=month, deployment=deployment, prompt_tokens=prompt, completion_tokens=answer, cached_tokens=cached
    )


PRICES = (
    Tariff(
        deployment="chat",
        prompt_usd_per_million_tokens=0.15,
        cached_usd_per_million_tokens=0.075,
        answer_usd_per_million_tokens=0.6,
    ),
    Tariff(deployment="code-*", prompt_usd_per_million_tokens=2.0, answer_usd_per_million_tokens=8.0),
)


def test_a_bill_by_hand() -> None:
    [line] = earned([used(prompt=3_000_000, cached=1_000_000, answer=500_000)], PRICES)
    assert line.earned_micro_usd == 300_000 + 75_000 + 300_000
    assert line.tokens == 3_500_000
    assert line.priced


def test_cached_tokens_cost_like_others_where_nothing_else_is_said() -> None:
    [line] = earned([used("code-small", prompt=1_000_000, cached=400_000, answer=0)], PRICES)
    assert line.earned_micro_usd == 2_000_000


def test_a_line_is_rounded_once() -> None:
    """A token costs 0.15 micro-dollars: ten events of one token are 1.5 and not ten times nothing."""
    [line] = earned([used(prompt=1, answer=0)] * 10, PRICES)
    assert line.earned_micro_usd == 2


def test_lines_by_month_and_deployment_and_what_has_no_price() -> None:
    lines = earned(
        [
            used(prompt=10, answer=0, month="2027-02"),
            used(prompt=10_000_000, answer=0, month="2027-01"),
            used("other", prompt=10_000_000, answer=0),
        ],
        PRICES,
    )
    assert [(line.month, line.deployment, line.priced) for line in lines] == [
        ("2027-01", "chat", True),
        ("2027-01", "other", False),
        ("2027-02", "chat", True),
    ]
    assert [line.earned_micro_usd for line in lines] == [1_500_000, 0, 2]


def test_the_first_line_that_fits_holds() -> None:
    every = Tariff(deployment="*", prompt_usd_per_million_tokens=9.0, answer_usd_per_million_tokens=9.0)
    [line] = earned([used(prompt=1_000_000, answer=0)], (*PRICES, every))
    assert line.earned_micro_usd == 150_000
    [line] = earned([used(prompt=1_000_000, answer=0)], (every, *PRICES))
    assert line.earned_micro_usd == 9_000_000


counts = st.integers(0, 10**13)
events = st.lists(
    st.builds(
        lambda prompt, share, answer: used(prompt=prompt, cached=prompt * share // 100, answer=answer),
        counts,
        st.integers(0, 100),
        counts,
    ),
    min_size=1,
    max_size=5,
)


@given(events)
def test_nothing_is_lost_in_sums(many: list[Used]) -> None:
    [line] = earned(many, PRICES)
    whole = sum(
        (one.prompt_tokens - one.cached_tokens) * Fraction(15, 100)
        + one.cached_tokens * Fraction(75, 1000)
        + one.completion_tokens * Fraction(6, 10)
        for one in many
    )
    assert abs(line.earned_micro_usd - whole) <= Fraction(1, 2)
    assert earned(many[::-1], PRICES) == (line,), "whatever the order"


def test_nonsense() -> None:
    with pytest.raises(InvalidRequest, match="more cached than sent"):
        used(prompt=1, cached=2, answer=0)
    with pytest.raises(InvalidRequest, match="negative tokens"):
        used(prompt=1, answer=-1)
    with pytest.raises(InvalidRequest, match="has the month"):
        used(prompt=1, answer=1, month="January")
    bad = Tariff(deployment="*", prompt_usd_per_million_tokens=-1.0, answer_usd_per_million_tokens=1.0)
    with pytest.raises(InvalidRequest, match=r"The price of \* is -1"):
        earned([used(prompt=1, answer=1)], [bad])
