"""What may be asked: bounded, typed, nothing unknown; and a layout of one's own is the planner's."""

from typing import Any

import msgspec
import pytest

from tandem.flows.planning import (
    AskedLayout,
    FailuresAsk,
    FundingAsk,
    LayoutAsk,
    QuoteAsk,
    RunAsk,
    ServingAsk,
    SimulationAsk,
    SystemsAsk,
    Where,
)
from tandem.plan.layout import Layout

SERVED = {"requests_per_s": 1, "prompt_tokens": 10, "answer_tokens": 10}
KINDS = (FailuresAsk, FundingAsk, LayoutAsk, QuoteAsk, RunAsk, ServingAsk, SimulationAsk, SystemsAsk)


def read(kind: type[Any], told: dict[str, Any]) -> Any:
    return msgspec.convert(told, kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_nothing_unknown_is_taken(kind: type[Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `buget_usd`"):
        read(kind, {"buget_usd": 5})


@pytest.mark.parametrize(
    ("kind", "told", "key"),
    [
        (LayoutAsk, {"layout": {"tensro": 8}}, "tensro"),
        (FundingAsk, {"tranches": [{"name": "a", "amount_usd": 1, "month": "2027-01", "conditon": "x"}]}, "conditon"),
        (FundingAsk, {"planned": [{"stage": "train", "month": "2027-01", "amount_usd": 1, "usd": 2}]}, "usd"),
        (FundingAsk, {"commitments": [{"name": "a", "months": 2}]}, "months"),
        (FundingAsk, {"tariffs": [{"deployment": "a", "price": 2}]}, "price"),
    ],
)
def test_nor_inside_of_what_is_asked(kind: type[Any], told: dict[str, Any], key: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"unknown field `{key}`"):
        read(kind, told)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (QuoteAsk, {"budget_usd": 0}),
        (QuoteAsk, {"budget_usd": -1}),
        (QuoteAsk, {"budget_usd": float("nan")}),
        (QuoteAsk, {"budget_usd": float("inf")}),
        (QuoteAsk, {"budget_usd": "1"}),
        (QuoteAsk, {"devices": 1.5, "span_s": 1}),
        (QuoteAsk, {"parameters": 0}),
        (QuoteAsk, {"context": 2**25}),
        (QuoteAsk, {"precision": "int8"}),
        (QuoteAsk, {"hosts": 0}),
        (QuoteAsk, {"system": "x" * 81}),
        (SystemsAsk, {"systems": ["x"] * 33}),
        (LayoutAsk, {"samples": 0}),
        (LayoutAsk, {"keep": 51}),
        (LayoutAsk, {"layout": {"data": 0}}),
        (LayoutAsk, {"layout": {"recompute": "some"}}),
        (FailuresAsk, {}),
        (FailuresAsk, {"useful_s": 1, "runs": 20_001}),
        (FailuresAsk, {"useful_s": 1, "failures_per_1000_node_days": -1}),
        (FailuresAsk, {"useful_s": 1, "interval_s": 0}),
        (ServingAsk, {**SERVED, "requests_per_s": 0}),
        (ServingAsk, {**SERVED, "cached_share": 1.1}),
        (ServingAsk, {**SERVED, "growth_share": -1}),
        (ServingAsk, {**SERVED, "peak_ratio": 0.5}),
        (ServingAsk, {**SERVED, "weights": "int3"}),
        (ServingAsk, {**SERVED, "months": 121}),
        (SimulationAsk, {"runs": 0}),
        (SimulationAsk, {"sizes": [0]}),
        (SimulationAsk, {"seed": -1}),
        (FundingAsk, {"month": "2027-13"}),
        (FundingAsk, {"month": "2027-01\n"}),
        (FundingAsk, {"reserve_usd": -1}),
        (FundingAsk, {"returned_usd": {"lab": -1}}),
        (RunAsk, {}),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: type[Any], told: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(kind, told)


def test_nobody_says_is_what_is_usual() -> None:
    ask = read(ServingAsk, SERVED)
    assert (ask.system, ask.hosts, ask.weights, ask.spare_hosts) == ("", None, "bf16", 1)
    assert isinstance(ask, Where)
    assert read(QuoteAsk, {}).law == "epoch"
    assert read(SimulationAsk, {}).parameters == 10**12


def test_a_layout_of_ones_own_has_the_planners_fields_and_defaults() -> None:
    assert AskedLayout().layout == Layout()
    one = Layout(data=2, tensor=4, pipeline=3, context=5, sharded=False, micro_samples=6, recompute="full", chunks=7)
    told = {name: getattr(one, name) for name in Layout.__slots__}
    assert read(AskedLayout, told).layout == one
