"""The page of a plan: each line says what the plan says, and what has no value is left out."""

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.cli.planning.quote import page_of, write_plan
from tandem.kit.errors import Conflict, InvalidRequest
from tandem.plan import Cluster
from tandem.plan.quote import Ask, Quote, quote
from tests.plan.published import catalogue

CLOUD = catalogue().cluster("8xh100", hosts=4)


@pytest.fixture(scope="module")
def found() -> Quote:
    return quote(Ask(devices=16, span_s=7200.0), CLOUD)


def lines(found: Quote) -> dict[str, str]:
    """The facts by their names."""
    facts = page_of(found, explain=False).split("\n\n")[1]
    return {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in facts.splitlines()}


def test_facts_are_those_of_the_plan(found: Quote) -> None:
    told = lines(found)
    memory = found.layout.memory
    assert told["model"].startswith(f"{found.model.layers} layers of width {found.model.width:,}")
    assert told["layout"] == f"2 hosts: {found.layout.layout.words}"
    assert told["memory"] == f"{memory.total_bytes / 1e9:.3g}GB of {memory.device_bytes / 1e9:.3g}GB a device"
    assert told["time"].startswith("2 h 00 min (")
    assert told["cost"].startswith("$96.00 (")
    assert ("standing by" in told) == bool(found.spare_hosts)


def test_hosts_that_stand_by_are_told(found: Quote) -> None:
    assert lines(replace(found, spare_hosts=1))["standing by"].startswith("1 more host to replace")
    assert lines(replace(found, spare_hosts=3))["standing by"].startswith("3 more hosts to replace")
    assert "standing by" not in lines(replace(found, spare_hosts=0))


def test_a_cost_that_is_not_known_is_not_told(found: Quote) -> None:
    free: Cluster = replace(CLOUD, price=None)
    page = page_of(quote(Ask(devices=16, span_s=7200.0), free), explain=False)
    assert "\ncost" not in page
    assert "Mind: The catalogue has no price for 8xh100: the cost is not known" in page


def test_a_plan_without_alternatives_offers_none(found: Quote) -> None:
    assert "Instead" not in page_of(replace(found, alternatives=()), explain=False)


def test_what_the_workshop_cannot_say_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    small = quote(Ask(devices=8, span_s=600.0, vocab=100), CLOUD)
    with pytest.raises(InvalidRequest, match="tokenizer has 263 to"):
        write_plan(small, CLOUD, tmp_path / "plan", name="")
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("name", ["../mine", "two words", "é", "x" * 200])
def test_a_name_that_no_model_can_have_is_refused_before_anything_is_written(
    found: Quote, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidRequest, match="recipe of the plan is wrong at name"):
        write_plan(found, CLOUD, tmp_path / "plan", name=name)
    assert not (tmp_path / "plan").exists()


def test_a_second_plan_goes_elsewhere(found: Quote, tmp_path: Path) -> None:
    files = write_plan(found, CLOUD, tmp_path, name="")
    assert [path.name for path in files] == ["recipe.toml", "placement.toml"]
    with pytest.raises(Conflict, match="recipe.toml is there already"):
        write_plan(found, CLOUD, tmp_path, name="")
