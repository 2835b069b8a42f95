"""Sweeps: where designs break, in words and numbers, and refusals."""

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan.simulation import DESIGNS, Fleet, sweep

FLEET = Fleet(devices=1_024)
SOME = {name: DESIGNS[name] for name in ("plain", "fast-restart", "no-spares")}


def test_where_designs_break() -> None:
    swept = sweep(FLEET, designs=SOME, sizes=(1_024, 16_384, 131_072), runs=2)
    broken = {(one.design, one.goodput_share): one.devices for one in swept.breaks}
    shares = {(point.design, point.devices): point.goodput_share.mid for point in swept.points}
    assert shares["plain", 16_384] > 0.8
    assert shares["plain", 131_072] < 0.5
    strained, failed = broken["plain", 0.8], broken["plain", 0.5]
    assert strained is not None
    assert failed is not None
    assert 16_384 < strained < failed < 131_072
    assert broken["fast-restart", 0.5] is None
    assert broken["no-spares", 0.8] == 1_024  # at the least size already
    # What is found between two sizes is found again when it is simulated.
    there = sweep(FLEET, designs={"plain": DESIGNS["plain"]}, sizes=(strained, failed), runs=2)
    assert [point.goodput_share.mid for point in there.points] == pytest.approx([0.8, 0.5], abs=0.06)


def test_the_text_has_all_of_it() -> None:
    swept = sweep(FLEET, designs=SOME, sizes=(1_024, 131_072), runs=2)
    goodput, breaks, losses = swept.text.split("\n\n")
    assert goodput.splitlines()[0].split() == ["goodput", "1,024", "131,072"]
    first = swept.points[0]
    assert goodput.splitlines()[1].split()[:2] == ["plain", f"{first.goodput_share.mid:.0%}"]
    assert "under 80%" in breaks
    assert "over 131,072" in breaks
    assert "restarting" in losses
    assert len({len(line) for line in losses.splitlines()}) == 1, "columns are aligned"


def test_the_page_shows_what_a_sweep_gives() -> None:
    page = (Path(__file__).parents[3] / "docs" / "concepts" / "scale.md").read_text()
    assert f"```text\n{sweep(FLEET).text}\n```" in page


def test_equal_seeds_equal_sweeps() -> None:
    once, again, other = (sweep(FLEET, designs=SOME, sizes=(8_192,), runs=2, seed=seed) for seed in (5, 5, 6))
    assert once == again
    assert once != other


@pytest.mark.parametrize("sizes", [(), (2_048, 1_024), (1_024, 1_024), tuple(range(1, 600))])
def test_no_sweep_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="no sweep"):
        sweep(FLEET, sizes=sizes)


def test_a_sweep_is_as_bounded_as_one_fleet() -> None:
    with pytest.raises(InvalidRequest, match="events"):
        sweep(replace(FLEET, span_s=360 * 86_400.0), sizes=(1_000_000, 2_000_000))
