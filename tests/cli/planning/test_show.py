"""How answers are printed: columns, intervals, and what they rest on."""

from tandem.cli.planning.show import basis, facts
from tandem.kit.pages import between
from tandem.plan import Derivation, Interval
from tandem.plan.derivation import Step


def test_facts_stand_in_two_columns_and_empty_ones_nowhere() -> None:
    assert facts([("a", "1"), ("longer", "2"), ("empty", "")]) == "a       1\nlonger  2"
    assert facts([]) == ""


def test_an_interval_that_reads_as_one_number_is_one() -> None:
    assert between(Interval(1.0, 2.0, 3.0), lambda one: f"{one:.0f}") == "2 (1 to 3)"
    assert between(Interval(1.96, 2.0, 2.04), lambda one: f"{one:.0f}") == "2"


def test_the_basis_always_warns_and_explains_only_when_asked() -> None:
    found = Derivation(
        steps=(Step(what="a", formula="f", value="1", source="s"), Step(what="b", formula="g", value="2")),
        rows=("row",),
        conventions=("convention",),
        warnings=("careful",),
    )
    short = basis(found, explain=False)
    assert short == "Mind: careful\nRests on\n  row\n  convention"
    assert basis(found, explain=True) == (
        f"How it was found\n  1. a: 1\n     by f  [s]\n  2. b: 2\n     by g\n\n{short}"
    )
