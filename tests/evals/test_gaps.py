"""Gaps cut from Python programs: whole, parsable, the same each time."""

from pathlib import Path

from tandem.evals import cut_gaps
from tandem.spec.scores import parses

PROGRAM = '''
"""A module."""


class Shelf:
    def total(self, prices: list[int]) -> int:
        """The sum of all prices.

        It is zero where there are none.
        """
        result = 0
        for price in prices:
            # each of them
            result += price * self.factor
        return result + self.shipping(prices, weight=12)


def short():
    return 1
'''


def folder(tmp_path: Path, count: int = 6) -> Path:
    place = tmp_path / "code"
    place.mkdir(exist_ok=True)
    for number in range(count):
        (place / f"m{number}.py").write_text(PROGRAM.replace("price", f"price{number}"))
    (place / "broken.py").write_text("def f(:\n")
    return place


def test_gaps_are_whole_functions_with_a_part_of_a_code_line_hidden(tmp_path: Path) -> None:
    gaps = cut_gaps(folder(tmp_path), count=100)
    assert len(gaps) == 6, "one in each function that is long enough, none in what is no Python"
    assert {gap.form for gap in gaps} == {"line", "span"}
    for gap in gaps:
        whole = gap.filled(gap.middle)
        assert parses(whole)
        assert whole.startswith("def total(")
        assert "\n" not in gap.middle
        assert gap.middle.strip() == gap.middle.lstrip() != ""
        hidden = whole.splitlines()[gap.prefix.count("\n")]
        assert '"""' not in hidden
        assert "It is zero" not in hidden
        assert "#" not in hidden
        assert gap.source.startswith("code/m")
        assert gap.form == "span" or gap.suffix.startswith("\n")


def test_the_same_seed_cuts_the_same_gaps(tmp_path: Path) -> None:
    place = folder(tmp_path)
    assert cut_gaps(place, count=4, seed=1) == cut_gaps(place, count=4, seed=1)
    assert cut_gaps(place, count=4, seed=1) != cut_gaps(place, count=4, seed=2)


def test_equal_functions_are_asked_once(tmp_path: Path) -> None:
    place = folder(tmp_path, count=1)
    (place / "copy.py").write_text((place / "m0.py").read_text())
    assert len(cut_gaps(place, count=10)) == 1
