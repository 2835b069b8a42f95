"""What all objectives promise: found by name, checked parameters, losses that are sums."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, EntryPoints
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tandem import spec
from tandem.kit.errors import InvalidRequest
from tandem.train import objectives
from tandem.train.objectives import Referenced, find_objective
from tests.train.objectives.stand_ins import ByteText, Looking, gradient, stacked

TEXT: Any = ByteText()
CHAT = [
    {"role": "user", "content": "What is heavier, a kilo of lead or of feathers?"},
    {"role": "assistant", "content": "Neither."},
]
WORDS = ["one", "two and a half", "three hundred", "the fourth is the longest of them all", "5"]


def record(name: str, place: int) -> Mapping[str, Any]:
    """A sample of the format that the objective learns from."""
    if name == "sft":
        return {"messages": [*CHAT, {"role": "user", "content": "So?"}, {"role": "assistant", "content": WORDS[place]}]}
    if name == "dpo":
        return {"prompt": CHAT[:1], "chosen": WORDS[place], "rejected": WORDS[place][::-1] + " or so"}
    return {"segments": [[*TEXT.encode(WORDS[place]), TEXT.end], TEXT.encode("def naïve() 🙂")]}


def example(name: str, place: int) -> dict[str, Any]:
    objective = find_objective(spec.Objective(name=name), context=200)
    made = dict(objective.prepare(record(name, place), TEXT, np.random.default_rng(place)))
    if objective.needs_reference:
        made["reference"] = np.array([-3.0 - place, -2.0], dtype=np.float32)
    return made


@pytest.mark.parametrize("name", ["lm", "fim", "sft", "dpo"])
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(name: str) -> None:
    objective = find_objective(spec.Objective(name=name), context=200)
    model = Looking(TEXT.size)
    examples = [example(name, place) for place in range(5)]
    whole = gradient(model, [objective.loss(model, stacked(examples))])
    for cuts in ([0, 2, 5], [0, 1, 2, 3, 4, 5]):
        parts = [stacked(examples[a:b]) for a, b in pairwise(cuts)]
        split = gradient(model, (objective.loss(model, part) for part in parts))
        torch.testing.assert_close(split, whole, rtol=1e-6, atol=1e-9)
    assert whole.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["lm", "fim", "sft", "dpo"])
def test_units_and_metrics_are_sums_too(name: str) -> None:
    objective = find_objective(spec.Objective(name=name), context=200)
    model = Looking(TEXT.size)
    examples = [example(name, place) for place in range(5)]
    whole = objective.loss(model, stacked(examples))
    parts = [objective.loss(model, stacked([one])) for one in examples]
    assert float(whole.units) == sum(float(part.units) for part in parts) > 0
    for key, value in whole.metrics.items():
        assert float(value) == pytest.approx(sum(float(part.metrics[key]) for part in parts), rel=1e-5)


@pytest.mark.parametrize("name", ["lm", "fim", "sft"])
def test_units_are_the_weights_of_all_tokens_but_the_first(name: str) -> None:
    made = example(name, 1)
    lost = find_objective(spec.Objective(name=name), context=200).loss(Looking(TEXT.size), stacked([made]))
    assert float(lost.units) == made["weights"][1:].sum()


@pytest.mark.parametrize("name", ["lm", "fim", "sft", "dpo"])
def test_an_example_has_one_token_more_than_the_context(name: str) -> None:
    objective = find_objective(spec.Objective(name=name), context=20)
    made = objective.prepare(record(name, 3), TEXT, np.random.default_rng(0))
    assert {len(array) for array in made.values()} == {21}


def test_only_dpo_asks_for_the_model_before() -> None:
    asking = {name for name in ("lm", "fim", "sft", "dpo") if _found(name).needs_reference}
    assert asking == {"dpo"} == {name for name in ("lm", "fim", "sft", "dpo") if isinstance(_found(name), Referenced)}


def _found(name: str) -> objectives.Objective:
    return find_objective(spec.Objective(name=name), context=8)


def test_an_unknown_objective_is_refused_with_what_is_spelt_like_it() -> None:
    with pytest.raises(InvalidRequest, match=r"no objective 'dop'\. Did you mean dpo\?.*dpo, fim, lm, sft"):
        find_objective(spec.Objective(name="dop"), context=8)


def test_another_package_can_offer_an_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(*, group: str) -> EntryPoints:
        place = "tandem.train.objectives.lm:Lm"
        return EntryPoints([EntryPoint("next-word", place, group)] if group == "tandem.objectives" else [])

    monkeypatch.setattr(objectives, "entry_points", offered)
    found = find_objective(spec.Objective(name="next-word"), context=8)
    assert found.formats == {"text", "code"}
    with pytest.raises(InvalidRequest, match="Did you mean next-word"):
        find_objective(spec.Objective(name="next-words"), context=8)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("lm", {"rate": 0.5}, r"'lm' has no parameter 'rate'\. It takes none\."),
        (
            "fim",
            {"rat": 0.5},
            r"'fim' has no parameter 'rat'\. Did you mean 'rate'\? It takes rate, spm, lines\.",
        ),
        ("fim", {"rate": 1.5}, r"'rate' of the objective 'fim' is wrong: Expected `float` <= 1\.0"),
        ("fim", {"spm": "half"}, r"'spm' of the objective 'fim' is wrong: Expected `float`, got `str`"),
        ("sft", {"turns": "all"}, r"'sft' has no parameter 'turns'"),
        ("dpo", {"beta": 0}, r"'beta' of the objective 'dpo' is wrong: Expected `float` > 0"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        find_objective(spec.Objective(name=name, params=params), context=8)
    assert caught.value.param == f"objective.params.{next(iter(params))}"
