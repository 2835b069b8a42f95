"""Recipes: what changes their identity and what does not, and errors that name the key."""

import contextlib
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.spec import Recipe, canonical, load_recipe, parse_recipe, recipe_id
from tandem.spec.recipe import Lora

REPOSITORY = Path(__file__).parent.parent.parent
RECIPES = sorted((REPOSITORY / "recipes").glob("*.toml"))

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda digits: f"sha256:{digits}")
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
POSITIVE = st.floats(min_value=1e-9, max_value=1e3)
COUNTS = st.integers(1, 10_000)

TEXT = """
name = "tiny"

[model.shape]
width = 64
layers = 2
heads = 1
kv_heads = 1
ffn = 128

[[data]]
format = "code"
source = "stdlib:"

[objective]
name = "fim"

[optimizer]
lr = 1e-3

[batch]
samples = 4
context = 64

[budget]
steps = 10
"""


@st.composite
def plain_recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Pinned recipes as plain tables; what is optional is there or not."""
    heads = draw(st.integers(1, 4))
    fresh = draw(st.booleans())
    shape = {"width": 64 * heads, "layers": draw(COUNTS), "heads": heads, "kv_heads": 1, "ffn": draw(COUNTS)}
    table = {
        "name": draw(NAMES),
        "model": {"shape": shape} if fresh else {"parent": draw(NAMES), "parent_sha256": draw(DIGESTS)},
        "tokenizer": {"vocab": draw(st.integers(263, 9000)), "sha256": draw(DIGESTS)},
        "data": draw(st.lists(plain_data(), min_size=1, max_size=3)),
        "objective": {"name": draw(NAMES), "params": draw(st.dictionaries(NAMES, PARAMETERS, max_size=3))},
        "optimizer": {"lr": draw(POSITIVE)} | draw(st.fixed_dictionaries({}, optional=OPTIMIZER)),
        "batch": {"samples": draw(COUNTS), "context": draw(COUNTS)},
        "budget": {draw(st.sampled_from(["steps", "tokens"])): draw(COUNTS)},
        **draw(st.fixed_dictionaries({}, optional=OPTIONAL)),
    }
    if not fresh and draw(st.booleans()):
        table["adapter"] = draw(st.fixed_dictionaries({}, optional={"rank": st.integers(1, 64), "alpha": POSITIVE}))
    return table


@st.composite
def plain_data(draw: st.DrawFn) -> dict[str, Any]:
    must = {"format": draw(st.sampled_from(["text", "code", "chat"])), "sha256": draw(DIGESTS)}
    optional = {
        "source": st.text(max_size=10),
        "weight": POSITIVE,
        "license": st.text(max_size=10),
        "limit": st.integers(0, 100),
        "include": st.lists(st.text(max_size=5), max_size=2),
    }
    return must | draw(st.fixed_dictionaries({}, optional=optional))


PARAMETERS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(-1e30, 1e30), st.text(max_size=5))
OPTIMIZER = {
    "name": st.sampled_from(["adamw", "muon"]),
    "beta1": st.floats(0, 1),
    "clip": st.floats(0, 10),
    "schedule": st.sampled_from(["cosine", "wsd"]),
    "warmup_steps": st.integers(0, 1000),
}
OPTIONAL = {
    "about": st.text(max_size=10),
    "seed": st.integers(0, 2**63 - 1),
    "precision": st.sampled_from(["fp32", "bf16"]),
    "evaluation": st.fixed_dictionaries({}, optional={"every": COUNTS, "samples": COUNTS}),
    "curation": st.fixed_dictionaries({}, optional={"held_out": st.floats(0, 1)}),
    "export": st.fixed_dictionaries({}, optional={"gguf": st.sampled_from(["f16", "q8_0"])}),
}


def read(table: object) -> Recipe:
    return parse_recipe(table, where="here")


def reordered(value: Any) -> Any:
    """The same tables with their keys the other way round."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(one) for one in value] if isinstance(value, list) else value


def with_defaults(recipe: Recipe) -> Any:
    """All that a recipe says or means, as JSON would give it back: every default written out."""

    def spelt(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            names = (field.name for field in msgspec.structs.fields(value))
            return {name: spelt(one) for name in names if (one := getattr(value, name)) is not None}
        return [spelt(one) for one in value] if isinstance(value, tuple) else value

    return json.loads(json.dumps(spelt(recipe)))


@given(plain_recipes())
def test_the_identity_does_not_depend_on_how_a_recipe_is_written(table: dict[str, Any]) -> None:
    recipe = read(table)
    assert recipe_id(read(reordered(table))) == recipe_id(recipe)
    assert recipe_id(read(with_defaults(recipe))) == recipe_id(recipe), "a default that is spelt out is a default"
    assert recipe_id(msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)) == recipe_id(recipe)


WITHOUT_EFFECT: list[Callable[[dict[str, Any]], object]] = [
    lambda table: table.update(name="another"),
    lambda table: table.update(about="Something else."),
    lambda table: table.update(curation={"near_duplicates": 0.5}),
    lambda table: table["tokenizer"].update(vocab=300, pre="smollm"),
    lambda table: table["data"][0].update(source="file:elsewhere", license="MIT", limit=7, include=["*.md"]),
    lambda table: "parent" in table["model"] and table["model"].update(parent="renamed"),
]


@settings(max_examples=12)
@given(plain_recipes())
@pytest.mark.parametrize("change", WITHOUT_EFFECT)
def test_names_places_and_licences_do_not_change_the_identity(
    change: Callable[[dict[str, Any]], object], table: dict[str, Any]
) -> None:
    before = recipe_id(read(table))
    change(table)
    assert recipe_id(read(table)) == before


WITH_EFFECT: list[Callable[[dict[str, Any]], object]] = [
    lambda table: table.update(seed=table.get("seed", 0) ^ 1),
    lambda table: table["tokenizer"].update(sha256="sha256:" + "ab" * 32),
    lambda table: table["data"][0].update(sha256="sha256:" + "ab" * 32),
    lambda table: table["data"][-1].update(weight=2000.0),
    lambda table: table["data"][0].update(format="preference"),
    lambda table: table["data"].append({"format": "text", "sha256": "sha256:" + "ab" * 32}),
    lambda table: table["objective"].update(name="another-one-that-is-longer-than-all"),
    lambda table: table["objective"]["params"].update(a_new_parameter_of_long_name=0),
    lambda table: table["optimizer"].update(lr=2000.0),
    lambda table: table["optimizer"].update(eps=1e-7),
    lambda table: table["batch"].update(samples=table["batch"]["samples"] + 1),
    lambda table: table.update(budget={"epochs": 1.5}),
    lambda table: table.update(precision="fp32" if table.get("precision", "bf16") == "bf16" else "bf16"),
    lambda table: table.update(evaluation={"task_samples": 65}),
    lambda table: table.update(export={"gguf": "f32"}),
    lambda table: table.update(model={"parent_sha256": "sha256:" + "ab" * 32}, adapter={"rank": 65}),
]


@settings(max_examples=12)
@given(plain_recipes())
@pytest.mark.parametrize("change", WITH_EFFECT)
def test_everything_else_changes_the_identity(
    change: Callable[[dict[str, Any]], object], table: dict[str, Any]
) -> None:
    before = recipe_id(read(table))
    change(table)
    assert recipe_id(read(table)) != before


def test_an_identity_is_for_ever() -> None:
    """Whoever changes this line changes the name of every model that was trained."""
    table = tomllib.loads(TEXT)
    table["data"][0]["sha256"] = "sha256:" + "0" * 64
    table["tokenizer"] = {"sha256": "sha256:" + "1" * 64}
    assert recipe_id(read(table)) == "sha256:99c135e02d6a4306ef358aef80ad8c7b4ccfdff195266b8f48f1854301d56758"


def test_an_adapter_of_defaults_is_not_no_adapter() -> None:
    table = tomllib.loads(TEXT)
    table |= {"model": {"parent": "starter", "parent_sha256": "sha256:" + "2" * 64}}
    table["data"][0]["sha256"] = table.setdefault("tokenizer", {})["sha256"] = "sha256:" + "0" * 64
    without = recipe_id(read(table))
    table["adapter"] = {}
    assert read(table).adapter == Lora()
    assert recipe_id(read(table)) != without


def test_only_a_pinned_recipe_has_an_identity() -> None:
    recipe = read(tomllib.loads(TEXT))
    assert not recipe.pinned
    with pytest.raises(ValueError, match="pinned"):
        canonical(recipe)


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        ("optimizer.lr=0", "optimizer.lr", "> 0"),
        ("optimizer.lr=fast", "optimizer.lr", "got `str`"),
        ("optimizer.muon_lr=inf", "optimizer.muon_lr", "<= 1e+30"),
        ("optimizer.clip=nan", "optimizer.clip", "float"),
        ("optimizer.rl=1", "optimizer", "unknown field `rl`"),
        ("data.0.weight=0", "data.0.weight", "> 0"),
        ("data.0.sha256=abc", "data.0.sha256", "regex"),
        ("data.0.formt=x", "data.0", "unknown field `formt`"),
        ("data=[]", "data", "length"),
        ("model.parent=starter", "model", "either a shape or a parent"),
        ("model.shape.width=65", "model.shape", "heads times 64 or 128"),
        ("model.shape.kv_heads=2", "model.shape", "multiple of kv_heads"),
        ("budget.tokens=5", "budget", "exactly one"),
        ("budget.steps=0", "budget", "exactly one"),
        ("adapter.rank=8", "the top", "an adapter needs a parent"),
        ("objective.params.rate=inf", "objective.params[...]", "<="),
        (f"seed={2**63}", "seed", "int"),
        ("seed=-1", "seed", ">= 0"),
        ("evaluation.tasks=['spelling']", "evaluation.tasks.0", "spelling"),
        ("name='a b'", "name", "regex"),
        ("extra=1", "the top", "unknown field `extra`"),
    ],
)
def test_an_error_names_the_key_and_the_problem(tmp_path: Path, change: str, key: str, problem: str) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT)
    name, _, value = change.partition("=")
    with pytest.raises(InvalidRequest) as raised:
        load_recipe(path, {name: value})
    assert raised.value.param == key
    assert f"at {key}: " in raised.value.message
    assert str(path) in raised.value.message
    assert problem in raised.value.message
    assert raised.value.remedy


@pytest.mark.parametrize("value", [1, "text", [], None, {}, {"name": "x"}])
def test_what_is_no_recipe_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="The recipe here is wrong at the top"):
        read(value)


@pytest.mark.parametrize(
    ("key", "value", "found", "expected"),
    [
        ("optimizer.lr", "3e-4", lambda recipe: recipe.optimizer.lr, 3e-4),
        ("objective.name", "lm", lambda recipe: recipe.objective.name, "lm"),
        ("objective.params.rate", "0.9", lambda recipe: recipe.objective.params, {"rate": 0.9}),
        ("data.0.source", "file:a b.txt", lambda recipe: recipe.data[0].source, "file:a b.txt"),
        ("data.0.include", '["*.rst"]', lambda recipe: recipe.data[0].include, ("*.rst",)),
        ("evaluation.samples", "7", lambda recipe: recipe.evaluation.samples, 7),
        ("about", "", lambda recipe: recipe.about, ""),
        ("about", "'quoted'", lambda recipe: recipe.about, "quoted"),
        ("model.shape.tie", "false", lambda recipe: recipe.model.shape.tie, False),
    ],
)
def test_a_change_is_made_before_the_recipe_is_read(
    tmp_path: Path, key: str, value: str, found: Callable[[Recipe], object], expected: object
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT)
    assert found(load_recipe(path, {key: value})) == expected


@pytest.mark.parametrize(
    "key", ["name.x", "name.x.y", "data.weight", "data.1.weight", "data.-1.weight", "data.0", "batch.samples.x"]
)
def test_a_change_of_no_place_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT)
    with pytest.raises(InvalidRequest, match="names no place in the recipe"):
        load_recipe(path, {key: "1"})


@given(key=st.text(max_size=20), value=st.text(max_size=20))
def test_any_change_makes_a_recipe_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(TEXT)
    with contextlib.suppress(InvalidRequest):
        assert load_recipe(path, {key: value}).name


@pytest.mark.parametrize(
    ("written", "problem"), [(b"name =", "is not TOML"), (b"\xff", "is not TOML"), (None, "Cannot read the recipe")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, written: bytes | None, problem: str) -> None:
    path = tmp_path / "broken.toml"
    if written is not None:
        path.write_bytes(written)
    with pytest.raises(InvalidRequest) as raised:
        load_recipe(path)
    assert problem in raised.value.message
    assert str(path) in raised.value.message


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_we_ship_can_be_read(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem, "whoever looks for a run's recipe finds it by name"
    assert recipe.about
    assert path.read_text().startswith("# ")
    assert not recipe.pinned
    assert math.isfinite(recipe.optimizer.lr)


def test_we_ship_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {
        "code-fim-small",
        "code-fim-tiny",
        "code-lm-small",
        "shakespeare-char",
        "starter-dpo",
        "starter-sft",
    }
