import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.workshop import Comparison, factor, factors

RATIOS = st.lists(st.floats(0.2, 5.0), min_size=1, max_size=30)


def compared(*ratios: float, system: str = "local") -> list[Comparison]:
    """Runs that took so many times what was predicted."""
    return [
        Comparison(run=f"run_{number}", system=system, predicted_s=10.0, measured_s=10.0 * ratio)
        for number, ratio in enumerate(ratios)
    ]


def test_without_runs_nothing_is_corrected_and_little_is_known() -> None:
    unknown = factor("local", [])
    assert unknown.ratio.mid == 1.0
    assert unknown.ratio.low < 0.5
    assert unknown.ratio.high > 2.0
    assert unknown.step.source == "no own runs yet"


def test_one_run_moves_it_a_good_part_of_the_way_and_many_all_of_it() -> None:
    one, many = factor("local", compared(2.0)), factor("local", compared(*[2.0] * 20))
    assert 1.5 < one.ratio.mid < 1.9
    assert many.ratio.mid == pytest.approx(2.0, rel=0.02)
    assert many.ratio.high / many.ratio.low < one.ratio.high / one.ratio.low
    assert many.runs[0] == "run_0"
    assert "20 own runs" in many.step.source
    assert many.step.value.startswith("1.9") or many.step.value.startswith("2")


def test_one_odd_run_among_several_hardly_moves_it() -> None:
    even = factor("local", compared(1.2, 1.25, 1.3, 1.22, 1.28))
    odd = factor("local", compared(1.2, 1.25, 1.3, 1.22, 1.28, 12.0))
    assert odd.ratio.mid == pytest.approx(even.ratio.mid, rel=0.1)


def test_the_interval_holds_most_of_the_runs_that_made_it() -> None:
    ratios = [math.exp(0.3 * (number - 10) / 10) for number in range(21)]
    learnt = factor("local", compared(*ratios))
    inside = [ratio for ratio in ratios if learnt.ratio.low <= ratio <= learnt.ratio.high]
    assert len(inside) >= 0.9 * len(ratios)


def test_each_system_has_its_own() -> None:
    both = factors([*compared(*[2.0] * 9), *compared(*[0.5] * 9, system="west")])
    assert list(both) == ["local", "west"]
    assert both["local"].ratio.mid > 1.8
    assert both["west"].ratio.mid < 0.55
    assert factor("east", compared(2.0)).ratio.mid == 1.0


def test_what_was_not_measured_teaches_nothing() -> None:
    nothing = Comparison(run="run_1", system="local", predicted_s=10.0, measured_s=0.0)
    assert factor("local", [nothing]).runs == ()


@given(ratios=RATIOS)
def test_it_lies_between_one_and_the_runs(ratios: list[float]) -> None:
    learnt = factor("local", compared(*ratios)).ratio
    assert min(1.0, *ratios) * 0.999 <= learnt.mid <= max(1.0, *ratios) * 1.001
    assert learnt.low < learnt.mid < learnt.high


@given(ratios=RATIOS, more=st.floats(1.0, 4.0))
def test_slower_runs_never_make_it_smaller(ratios: list[float], more: float) -> None:
    slower = factor("local", compared(*(ratio * more for ratio in ratios)))
    assert slower.ratio.mid >= factor("local", compared(*ratios)).ratio.mid * 0.999
