"""Derivations put together: all steps in their order, everything else once."""

from tandem.plan.derivation import Derivation, Step


def test_steps_follow_each_other_and_the_rest_is_said_once() -> None:
    first = Derivation(
        steps=(Step(what="a", formula="1 + 1", value="2"),), rows=("host x",), conventions=("A",), warnings=("doubt",)
    )
    second = Derivation(
        steps=(Step(what="b", formula="2 + 2", value="4", source="arXiv"),),
        rows=("host x", "price y"),
        conventions=("A", "B"),
        warnings=("doubt", "more"),
    )
    both = first.then(second, first)
    assert [step.what for step in both.steps] == ["a", "b", "a"]
    assert both.rows == ("host x", "price y")
    assert both.conventions == ("A", "B")
    assert both.warnings == ("doubt", "more")


def test_nothing_is_the_beginning() -> None:
    one = Derivation(rows=("host x",))
    assert Derivation().then(one) == one
