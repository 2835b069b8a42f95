"""The funding view: balances by hand, stages against plan, the month when money ends, and what can be returned."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.funding import Claim, Commitment, Cost, Funding, FundingView, Tariff, Tranche, Used, funding_view, usd

MICRO = 10**6


def cost(stage: str, month: str, amount_usd: float) -> Cost:
    return Cost(stage=stage, month=month, amount_usd=amount_usd)


FUNDING = Funding(
    tranches=(
        Tranche(name="first", amount_usd=1000.0, month="2027-01", paid=True),
        Tranche(name="second", amount_usd=500.0, month="2027-05", condition="a coder is released"),
        Tranche(name="third", amount_usd=100.0, month="2027-06"),
    ),
    commitments=(
        Commitment(name="hosts", stage="train", month_usd=100.0, first_month="2027-02", last_month="2027-06"),
    ),
    planned=(
        *(cost("train", f"2027-0{month}", 90.0) for month in range(1, 9)),
        *(cost("people", f"2027-0{month}", 200.0) for month in range(1, 9)),
    ),
    spent=(
        cost("people", "2027-01", 200.0),
        cost("people", "2027-02", 250.0),
        cost("train", "2027-02", 100.0),
        cost("serve", "2027-03", 10.5),
    ),
    tariffs=(Tariff(deployment="chat", prompt_usd_per_million_tokens=1.0, answer_usd_per_million_tokens=4.0),),
    used=(Used(month="2027-03", deployment="chat", prompt_tokens=2_000_000, completion_tokens=1_000_000),),
)


def view(month: str = "2027-03", **changes: Any) -> FundingView:
    fields = {name: getattr(FUNDING, name) for name in Funding.__dataclass_fields__}
    return funding_view(Funding(**(fields | changes)), month=month)


def test_sums_by_hand() -> None:
    found = view()
    assert usd(found.paid_micro_usd) == 1000
    assert usd(found.due_micro_usd) == 600
    assert usd(found.conditional_micro_usd) == 500
    assert usd(found.planned_micro_usd) == 3 * 290
    assert usd(found.spent_micro_usd) == 560.5
    assert usd(found.earned_micro_usd) == 6
    assert usd(found.balance_micro_usd) == 1000 + 6 - 560.5
    assert usd(found.committed_ahead_micro_usd) == 300


def test_stages_against_plan() -> None:
    stages = {line.stage: line for line in view().stages}
    assert list(stages) == ["train", "people", "serve"]
    train, people, serve = stages.values()
    assert (train.planned_micro_usd, train.spent_micro_usd) == (270 * MICRO, 100 * MICRO)
    assert (train.planned_ahead_micro_usd, train.committed_ahead_micro_usd) == (450 * MICRO, 300 * MICRO)
    assert (people.planned_micro_usd, people.spent_micro_usd) == (600 * MICRO, 450 * MICRO)
    assert (serve.planned_micro_usd, serve.spent_micro_usd) == (0, 10_500_000)
    assert "serve has cost $10.50 of $0.00 planned." in view().derivation.warnings


def test_months_and_the_one_that_money_ends_in() -> None:
    found = view()
    assert [line.month for line in found.months] == [f"2027-0{month}" for month in range(1, 9)]
    balances = [usd(line.balance_micro_usd) for line in found.months]
    # From April on people cost 200, and training what is committed, 100, then what is planned, 90.
    assert balances == [800, 450, 445.5, 145.5, 345.5, 145.5, -144.5, -434.5]
    assert found.dry_month == "2027-07"
    certain = [usd(line.certain_micro_usd) for line in found.months]
    assert certain[3:6] == [145.5, -154.5, -354.5]
    assert found.certain_dry_month == "2027-05"
    assert view(planned=(), commitments=()).dry_month == ""


def test_an_overdue_tranche_is_not_money() -> None:
    found = view("2027-05")
    assert any("second is overdue" in said for said in found.derivation.warnings)
    assert usd(found.due_micro_usd) == 100
    assert usd(found.balance_micro_usd) == 1000 + 6 - 560.5


def test_usage_without_a_price_is_told() -> None:
    found = view(tariffs=())
    assert found.earned_micro_usd == 0
    assert "chat is used without a price, and earns nothing." in found.derivation.warnings


CLAIMS = (
    Claim(party="lab", invested_micro_usd=100 * MICRO, cap_ratio=2.0),
    Claim(party="platform", invested_micro_usd=300 * MICRO, cap_ratio=1.0, returned_micro_usd=10 * MICRO),
)
RICH = (Used(month="2027-03", deployment="chat", prompt_tokens=0, completion_tokens=400_000_000),)


def test_returns_come_of_revenue_after_costs_commitments_and_the_reserve() -> None:
    assert view(claims=CLAIMS).distribution.available_micro_usd == 0, "6 were earned, and 10 returned before"
    found = view(claims=CLAIMS, used=RICH)
    # 1600 earned, 10 returned; the balance of 2029.5 has 300 committed.
    assert usd(found.distribution.available_micro_usd) == 1590
    assert [usd(part.returned_micro_usd) for part in found.distribution.parts] == [200, 300]
    assert usd(found.distribution.mission_micro_usd) == 1590 - 200 - 290
    kept = view(claims=CLAIMS, used=RICH, reserve_usd=1000.0)
    assert usd(kept.distribution.available_micro_usd) == 2029.5 - 300 - 1000
    assert view(claims=CLAIMS, used=RICH, reserve_usd=1e9).distribution.available_micro_usd == 0
    assert any("return lab: $100 invested, at most 2 times" in row for row in found.derivation.rows)


def test_tranches_are_never_returned() -> None:
    rich = view(
        claims=CLAIMS, tranches=(Tranche(name="one", amount_usd=1e9, month="2027-01", paid=True),), used=(), spent=()
    )
    assert rich.distribution.available_micro_usd == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tranches": (Tranche(name="x", amount_usd=-1.0, month="2027-01"),)}, "The tranche x is -1"),
        ({"tranches": (Tranche(name="x", amount_usd=1.0, month="2027"),)}, "The tranche x has the month"),
        ({"tranches": (Tranche(name="x", amount_usd=1.0, month="2027-04", paid=True),)}, "paid already"),
        ({"spent": (cost("train", "2027-04", 1.0),)}, "spent in 2027-04, which is after 2027-03"),
        ({"spent": (cost("train", "2027-01", float("nan")),)}, "The spending of train"),
        ({"planned": (cost("train", "x", 1.0),)}, "The plan of train has the month"),
        ({"planned": (cost("train", "2127-01", 1.0),)}, "too many"),
        (
            {
                "commitments": (
                    Commitment(name="c", stage="s", month_usd=1, first_month="2027-02", last_month="2027-01"),
                )
            },
            "The commitment c goes from",
        ),
        ({"reserve_usd": -1.0}, "The reserve"),
        ({"claims": (CLAIMS[0], CLAIMS[0])}, "once to each party"),
        ({"month": "2027-3"}, "The view has the month"),
    ],
)
def test_nonsense(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        view(**changes)
    assert caught.value.remedy


def test_an_answer_is_json() -> None:
    decoded = msgspec.json.decode(msgspec.json.encode(view(claims=CLAIMS)))
    assert decoded["balance_micro_usd"] == view(claims=CLAIMS).balance_micro_usd


usd_amounts = st.floats(0, 1e9, allow_subnormal=False)
months = st.integers(1, 9).map(lambda number: f"2027-0{number}")
costs = st.lists(st.builds(cost, st.sampled_from(["train", "serve"]), months, usd_amounts), max_size=6).map(tuple)
tranches = st.lists(
    st.builds(
        lambda amount, month, paid, condition: Tranche(
            name="t", amount_usd=amount, month=month, paid=paid and month <= "2027-05", condition=condition
        ),
        usd_amounts,
        months,
        st.booleans(),
        st.sampled_from(["", "if"]),
    ),
    max_size=5,
).map(tuple)


@given(tranches, costs, costs)
def test_the_lines_add_up(
    given_tranches: tuple[Tranche, ...], planned: tuple[Cost, ...], all_costs: tuple[Cost, ...]
) -> None:
    spent = tuple(one for one in all_costs if one.month <= "2027-05")
    found = view("2027-05", tranches=given_tranches, planned=planned, spent=spent, claims=CLAIMS, used=RICH)
    now = next(line for line in found.months if line.month == "2027-05")
    assert now.balance_micro_usd == found.balance_micro_usd
    assert sum(line.spent_micro_usd for line in found.stages) == found.spent_micro_usd
    assert sum(line.planned_micro_usd for line in found.months) == sum(
        line.planned_micro_usd + line.planned_ahead_micro_usd for line in found.stages
    )
    last = found.months[-1]
    assert last.certain_micro_usd == last.balance_micro_usd - found.conditional_micro_usd
    assert found.distribution.available_micro_usd <= max(0, found.earned_micro_usd - found.returned_micro_usd)
