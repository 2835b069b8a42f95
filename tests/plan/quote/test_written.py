"""Plans written down: recipes and placements that the ground reads back, for what the workshop can run."""

from dataclasses import replace

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan.quote import Ask, Quote, quote, written
from tandem.plan.units import DAY_S, HOUR_S
from tandem.spec import parse_placement, parse_recipe
from tests.plan.published import catalogue

CLOUD = catalogue().cluster("8xh100", hosts=64)


@pytest.fixture(scope="module")
def small() -> Quote:
    return quote(Ask(budget_usd=20.0), CLOUD)


@pytest.fixture(scope="module")
def large() -> Quote:
    return quote(Ask(devices=512, span_s=30 * DAY_S, precision="fp8"), CLOUD)


def test_the_recipe_is_the_plan(small: Quote) -> None:
    recipe = parse_recipe(written(small, CLOUD, name="mine").recipe, where="the plan")
    assert recipe.name == "mine"
    assert recipe.model.shape == small.model.shape
    assert recipe.tokenizer.vocab == small.model.vocab
    assert (recipe.batch.samples, recipe.batch.context) == (small.samples, small.model.context)
    assert recipe.budget.tokens == small.tokens
    assert 0 < recipe.optimizer.warmup_steps < small.steps
    assert recipe.precision == "bf16"


def test_the_placement_runs_all_of_it(small: Quote) -> None:
    placement = parse_placement(written(small, CLOUD).placement, where="the plan")
    assert placement.system == CLOUD.name
    assert placement.workers == small.devices
    assert small.samples % (placement.workers * placement.micro_samples) == 0
    assert placement.limits.usd == 20.0
    assert placement.checkpoints.every_s == 0, "the workshop finds it"
    assert placement.checkpoints.mtbf_s > DAY_S


def test_alternatives_can_be_written_too(small: Quote) -> None:
    for way in small.alternatives:
        found = written(small, CLOUD, way=way)
        assert parse_recipe(found.recipe, where="the plan").model.shape == way.model.shape
        assert parse_placement(found.placement, where="the plan").workers == way.devices


def test_what_the_workshop_cannot_do_is_said(large: Quote) -> None:
    assert large.layout.layout.tensor * large.layout.layout.context * large.layout.layout.pipeline > 1
    found = written(large, CLOUD)
    placement = parse_placement(found.placement, where="the plan")
    assert placement.sharding == "fsdp"
    assert placement.limits.wall_s >= 30 * DAY_S
    assert "cannot run this placement" in found.warnings[0]
    assert any("no fp8" in warning for warning in found.warnings)
    assert parse_recipe(found.recipe, where="the plan").model.shape is not None


def test_a_better_layout_that_the_workshop_lacks_is_weighed(small: Quote) -> None:
    """As if the best layout recomputed: the workshop does not, and what it has fits here."""
    layout = replace(small.layout.layout, recompute="full")
    planned = replace(small, layout=replace(small.layout, layout=layout))
    warning = written(planned, CLOUD).warnings[0]
    assert "data parallelism only" in warning
    assert "full recomputation" in warning
    assert "times as long" in warning


def test_a_plan_that_the_workshop_can_run_has_no_such_warning(small: Quote) -> None:
    found = " ".join(written(small, CLOUD).warnings)
    assert "workshop does not have" not in found
    assert "cannot run" not in found


def test_a_batch_smaller_than_the_devices_takes_fewer_workers(small: Quote) -> None:
    planned = replace(small, samples=4)
    found = written(planned, CLOUD)
    assert found.placement["workers"] == 4
    assert any("dealt to 4 workers" in warning for warning in found.warnings)


def test_example_data_are_said_to_be_an_example(small: Quote) -> None:
    assert any("name yours" in warning for warning in written(small, CLOUD).warnings)
    own = written(small, CLOUD, data=[{"format": "text", "source": "folder:/data"}])
    assert not any("name yours" in warning for warning in own.warnings)
    assert parse_recipe(own.recipe, where="the plan").data[0].source == "folder:/data"


def test_a_long_run_counts_steps_and_a_long_context_has_its_base(large: Quote) -> None:
    long = replace(large, tokens=2 * 10**12)
    recipe = parse_recipe(written(long, CLOUD).recipe, where="the plan")
    assert recipe.budget.steps == long.steps
    assert recipe.model.shape is not None
    assert recipe.model.shape.rope_theta == (500_000.0 if large.model.context >= 8192 else 10_000.0)


def test_a_vocabulary_that_no_recipe_can_say_is_refused() -> None:
    found = quote(Ask(devices=8, span_s=HOUR_S, vocab=300_000), CLOUD)
    with pytest.raises(InvalidRequest, match="Ask for a vocabulary of 262,144"):
        written(found, CLOUD)
