"""Plain answers: what JSON gets of them."""

import json
import math
from dataclasses import dataclass

import pytest

from tandem.plan import Derivation, Interval, size_of
from tandem.plan.catalogue import Price
from tandem.plan.derivation import Step
from tandem.plan.plain import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One of everything."""

    name: str
    spread: Interval
    prices: tuple[Price, ...]
    by_size: dict[int, float]
    nothing: None = None
    sure: bool = True


def test_an_answer_is_its_fields_by_name() -> None:
    price = Price(name="p", host="h", usd_per_hour=2.5)
    answer = Answer(name="a", spread=Interval(1.0, 2.0, 3.0), prices=(price,), by_size={8: 0.5})
    assert plain(answer) == {
        "name": "a",
        "spread": {"low": 1.0, "mid": 2.0, "high": 3.0},
        "prices": [{"name": "p", "host": "h", "usd_per_hour": 2.5, "kind": "on-demand", "source": "", "date": ""}],
        "by_size": {"8": 0.5},
        "nothing": None,
        "sure": True,
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_json_has_no_word_for_is_null(value: float) -> None:
    told = plain({"at": [value, {"deep": (value, 1.5)}]})
    assert told == {"at": [None, {"deep": [None, 1.5]}]}
    json.dumps(told, allow_nan=False)


def test_a_model_has_its_weights_beside_its_sizes() -> None:
    model = size_of(1e9, context=2048)
    told = plain([model])[0]
    assert told["parameters"] == model.parameters
    assert (told["layers"], told["context"]) == (model.layers, 2048)


def test_derivations_keep_their_order() -> None:
    found = plain(Derivation(steps=(Step(what="b", formula="f", value="1"), Step(what="a", formula="g", value="2"))))
    assert [step["what"] for step in found["steps"]] == ["b", "a"]
    assert found["warnings"] == []


@pytest.mark.parametrize("value", ["text", 3, True, None, 0.5])
def test_what_is_plain_stays(value: object) -> None:
    assert plain(value) is value


def test_a_type_is_no_answer() -> None:
    assert plain(Answer) is Answer
