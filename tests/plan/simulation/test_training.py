"""Work and saves of a run: cut into any pieces it is the same, and going back finds the last save that was whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.simulation.saving import Saving
from tandem.plan.simulation.training import Training

SAVING = Saving(
    interval_s=90, block_s=10, write_s=10, behind_s=0, behind_late_s=0, load_s=10, orderly_s=10
)  # cycles of 100 s


@given(st.lists(st.floats(0.01, 500), min_size=1, max_size=12), st.floats(0, 1))
def test_pieces_are_the_whole(pieces: list[float], back: float) -> None:
    whole, cut, at_s = Training(saving=SAVING), Training(saving=SAVING), 0.0
    for piece in pieces:
        cut.go(at_s, at_s + piece, alive_share=1, slow_share=0)
        at_s += piece
    whole.go(0, at_s, alive_share=1, slow_share=0)
    assert cut.work_s == pytest.approx(whole.work_s)
    assert cut.saving_s == pytest.approx(whole.saving_s)
    assert cut.work_s + cut.saving_s == pytest.approx(at_s)
    # Not at the very moment of a save, where rounding decides.
    before_s = round(back * at_s / 100) * 100 + 50
    whole.back_to(before_s)
    cut.back_to(before_s)
    assert cut.work_s == pytest.approx(whole.work_s, abs=1e-6)


@pytest.mark.parametrize(
    ("before_s", "work_s"), [(1_000, 360), (401, 360), (399, 270), (250, 180), (150, 90), (99, 0), (-5, 0)]
)
def test_going_back(before_s: float, work_s: float) -> None:
    training = Training(saving=SAVING)
    training.go(0, 450, alive_share=1, slow_share=0)
    assert training.work_s == pytest.approx(410)
    training.back_to(before_s)
    assert training.work_s == pytest.approx(work_s)
    assert training.repeated_s == pytest.approx(410 - work_s)


def test_speeds_share_the_time_among_their_reasons() -> None:
    training = Training(saving=SAVING)
    training.go(0, 100, alive_share=0.75, slow_share=0.2)
    assert training.work_s == pytest.approx(90 * 0.75 * 0.8)
    assert training.shrunk_s == pytest.approx(90 * 0.25)
    assert training.slow_s == pytest.approx(90 * 0.75 * 0.2)
    assert training.saving_s == pytest.approx(10)


def test_a_new_start_begins_a_new_interval_and_a_save_in_order_stays() -> None:
    training = Training(saving=SAVING)
    training.go(0, 50, alive_share=1, slow_share=0)
    training.save(50)
    training.stop()
    training.go(200, 260, alive_share=1, slow_share=0)
    training.back_to(260)
    assert training.work_s == pytest.approx(50)
