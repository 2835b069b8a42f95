"""`tandem plan run`, `--against` and `factors`: what a run should take, what it took, and what that taught."""

from pathlib import Path

import pytest

from tandem.kit.pages import span
from tandem.server import House
from tests.cli.conftest import Run
from tests.cli.planning.conftest import Refused, Told
from tests.cli.planning.test_layout import RECIPE
from tests.flows.planning.runs import write_measured
from tests.run_folders import write_run


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "coder.toml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def ran(house: House, ask: Run) -> House:
    """A home with five runs that left their outcomes."""
    for number in range(1, 6):
        write_measured(house.settings.home, f"run_{number:04}")
    house.runs.reindex()
    for number in range(1, 6):
        ask("plan", "--against", f"run_{number:04}", "-q")
    return house


def test_nothing_was_learnt_yet(told: Told) -> None:
    forms = told("plan", "factors")
    assert (forms.json, forms.bare) == ({}, [])
    assert forms.shown == "No run has taught anything yet. Next: tandem train recipes/code-fim-tiny.toml\n"


def test_what_own_runs_taught(told: Told, ran: House) -> None:
    forms = told("plan", "factors")
    factor = forms.json["local"]
    assert factor["runs"] == [f"run_{number:04}" for number in range(1, 6)]
    assert forms.bare == [f"local {factor['ratio']['mid']:.4f}"]
    row = forms.shown.splitlines()[1]
    assert row.startswith("local ")
    assert f"{factor['ratio']['mid']:.3f} (" in row
    assert row.rstrip().endswith("5 runs")


def test_a_finished_run_beside_its_plan(told: Told, ran: House) -> None:
    forms = told("plan", "--against", "run_0002")
    found = forms.json
    assert found["factor"]["runs"] == [f"run_{number:04}" for number in (1, 3, 4, 5)], "without itself"
    assert found["measured"]["train_s"] == pytest.approx(12.0)
    assert forms.bare == [f"{found['ratios']['wall_s']:.4f}"]
    lines = forms.shown.splitlines()
    assert lines[0] == "run_0002 (coder) on local"
    assert lines[2].split() == ["predicted", "measured", "ratio"]
    train = next(line for line in lines if line.startswith("train "))
    assert train.split()[-1] == f"{found['ratios']['train_s']:.2f}"
    assert f" {span(found['measured']['train_s'])} " in train
    assert "Training was as expected. Calibration of local: " in forms.shown
    assert ", from 4 other runs." in forms.shown


def test_an_odd_run_is_called_odd(told: Told, ran: House) -> None:
    write_measured(ran.settings.home, "run_0009", train_s=1200.0)
    ran.runs.reindex()
    forms = told("plan", "--against", "run_0009")
    assert forms.json["expected"] is False
    assert "Training was not as expected." in forms.shown
    assert "How it was found" not in forms.shown


def test_explaining_a_comparison_shows_the_prediction(ask: Run, ran: House) -> None:
    assert "How it was found\n  1. calibration of local" in ask("plan", "--against", "run_0001", "--explain").stdout


def test_a_run_that_has_not_begun(told: Told, ran: House, recipe_file: str) -> None:
    forms = told("plan", "run", recipe_file)
    stages = forms.json["stages"]
    total_s = sum(stages.values())
    assert forms.bare == [f"{total_s:.1f}"]
    assert forms.shown.startswith(f"from start to end  {span(total_s)}\n")
    for name, took_s in stages.items():
        assert f"{name.removesuffix('_s')} {span(took_s)}" in forms.shown
    assert "tokens/s" in forms.shown
    assert "measured bf16 GEMM, 2 threads" in forms.shown


def test_the_placement_says_where_and_how(ask: Run, ran: House, recipe_file: str, tmp_path: Path) -> None:
    place = tmp_path / "place.toml"
    place.write_text("[checkpoints]\nevery_s = 0.05\n")
    often = float(ask("plan", "run", recipe_file, "--placement", str(place), "-q").stdout)
    assert often > float(ask("plan", "run", recipe_file, "-q").stdout)
    assert "How it was found" in ask("plan", "run", recipe_file, "--workers", "2", "--explain").stdout


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("run nowhere.toml", "Cannot read the recipe nowhere.toml", "Check the path"),
        ("run {recipe} --placement nowhere.toml", "Cannot read the placement nowhere.toml", "Check the path"),
        (
            "run {recipe} --system moon",
            "No run has measured the system moon",
            "`tandem plan layout RECIPE --system NAME`",
        ),
        ("--against nothing", "no run 'nothing'", "tandem runs list"),
        ("--against run_0001", "left no measurements", "Compare one that succeeded"),
    ],
)
def test_nonsense_is_refused_with_its_remedy(
    refused: Refused, house: House, recipe_file: str, words: str, problem: str, remedy: str
) -> None:
    write_run(house.settings.home, "run_0001")
    house.runs.reindex()
    said = refused("plan", *words.format(recipe=recipe_file).split())
    assert problem in said
    assert remedy in said
