"""`tandem train`: from a recipe's file to a version, and what it says when it does not come to one."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tandem import flows
from tandem.cli.training.train import check_workshop, read_placement, read_recipe
from tandem.kit.errors import InvalidRequest, MissingPrerequisite, TandemError
from tandem.server import House
from tandem.spec import Placement, Recipe, RunState
from tests.cli.conftest import Run
from tests.run_folders import DATA

FAKE = ("--system", "fake")


def test_a_recipe_becomes_a_version(ask_json: Run, prepared: list[Recipe], recipe_file: Path, house: House) -> None:
    known = ask_json("train", str(recipe_file), *FAKE)
    assert (known["state"], known["version"], known["step"]) == ("succeeded", "coder@1", 6)
    assert known["recipe"]["data"][0]["sha256"] == DATA
    assert known["placement"]["system"] == "fake"
    assert house.registry.resolve("coder").origin == f"run:{known['run_id']}"


def test_people_see_the_way_and_the_next_command(ask: Run, prepared: list[Recipe], recipe_file: Path) -> None:
    done = ask("train", str(recipe_file), *FAKE)
    assert done.stdout.startswith("coder@1  held-out loss 1.0000, bits per byte 2.0000\n")
    assert done.stdout.endswith("Next: tandem evaluate coder@1\n")
    assert "collect" in done.stderr
    assert "attempt 1 started" in done.stderr
    assert "checkpoint at step 6" in done.stderr


def test_what_was_trained_before_is_not_trained_again(ask: Run, prepared: list[Recipe], recipe_file: Path) -> None:
    words = ("train", str(recipe_file), *FAKE, "--quiet")
    first, second, third = ask(*words), ask(*words), ask(*words, "--again")
    assert first.stdout == second.stdout == third.stdout == "coder@1\n", "the fake's models are all the same bytes"
    assert first.stderr == second.stderr == ""
    assert len(ask("runs", "list", "--quiet").stdout.splitlines()) == 2


def test_options_change_recipe_and_placement(
    ask_json: Run, prepared: list[Recipe], recipe_file: Path, tmp_path: Path
) -> None:
    placement = tmp_path / "two.toml"
    placement.write_text('system = "elsewhere"\nworkers = 2\n[limits]\nwall_s = 60\n')
    known = ask_json(
        "train", str(recipe_file), "--placement", str(placement), *FAKE, "--set", "budget.steps=4", "--set", "seed=7"
    )
    assert (known["recipe"]["budget"]["steps"], known["recipe"]["seed"]) == (4, 7)
    assert known["placement"]["workers"] == 2
    assert known["placement"]["limits"]["wall_s"] == 60.0
    assert known["step"] == 4


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--set", "budget.steps"), "--set 'budget.steps' changes nothing"),
        (("--set", "=1"), "changes nothing"),
        (("--set", "optimizer.lr=-1"), "wrong at optimizer.lr"),
        (("--workers", "0"), "--workers is 0"),
        (("--placement", "nowhere.toml"), "Cannot read the placement nowhere.toml"),
        (("--system", "moon"), "There is no system 'moon'"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_begun(
    ask: Run, prepared: list[Recipe], recipe_file: Path, house: House, words: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(TandemError, match=problem):
        ask("train", str(recipe_file), *words)
    assert not prepared
    assert house.runs.newest() == []


def test_a_run_that_fails_leaves_with_status_1(
    ask: Run, prepared: list[Recipe], recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.compute.systems.fake.PROGRAM", ("-c", "raise SystemExit(15)"))
    done = ask("train", str(recipe_file), *FAKE, status=1)
    assert done.stdout.startswith("Failed at step 0 of 6")
    assert "Next: tandem runs show run_" in done.stdout


def test_a_paused_run_says_how_it_goes_on(
    ask: Run, prepared: list[Recipe], recipe_file: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.compute.systems.fake.PROGRAM", ("-c", "raise SystemExit(10)"))
    done = ask("train", str(recipe_file), *FAKE, status=1)
    (run,) = house.runs.newest()
    assert run.state is RunState.PAUSED
    assert done.stdout.startswith("Paused (preempted) at step 0 of 6; the state is saved.")
    assert done.stdout.endswith(f"Next: tandem runs resume {run.run_id}\n")


def test_a_run_that_used_up_its_limits_is_told_to_raise_them_and_not_to_go_on_as_it_was(
    ask: Run, prepared: list[Recipe], recipe_file: Path, house: House, tmp_path: Path
) -> None:
    placement = tmp_path / "placement.toml"
    placement.write_text("[limits]\nwall_s = 0.001\n")
    done = ask("train", str(recipe_file), "--placement", str(placement), *FAKE, status=1)
    (run,) = house.runs.newest()
    assert done.stdout.startswith("Paused (budget) at step")
    assert "raise them in a copy of that file" in done.stdout
    assert done.stdout.endswith(f"Next: tandem runs resume {run.run_id} --placement FILE\n")
    placement.write_text("[limits]\nwall_s = 1000\n")
    again = ask("runs", "resume", run.run_id, "--placement", str(placement), *FAKE)
    assert "Paused" not in again.stdout


def test_paths_in_a_recipe_count_from_its_folder(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = recipe_file.parent
    recipe_file.write_text(recipe_file.read_text().replace("stdlib:", "file:data/a.py"))
    assert read_recipe(recipe_file, ()).data[0].source == f"file:{folder}/data/a.py"
    monkeypatch.chdir(folder.parent)
    assert read_recipe(Path("recipes/coder.toml"), ()).data[0].source == f"file:{folder}/data/a.py"
    # Whoever writes a path on the command line means the folder that they are in.
    changed = read_recipe(recipe_file, ["data.0.source=folder:here"]).data[0].source
    assert changed == f"folder:{folder.parent}/here"


@pytest.mark.parametrize("source", ["stdlib:", "hf:org/name", "file:/data/a.txt", "file:"])
def test_other_sources_stay_as_they_are(recipe_file: Path, source: str) -> None:
    assert read_recipe(recipe_file, [f"data.0.source={source}"]).data[0].source == source


def test_a_value_may_hold_an_equals_sign(recipe_file: Path) -> None:
    assert read_recipe(recipe_file, ["about = a=b"]).about == "a=b"


def test_a_placement_is_only_made_where_somebody_says_something() -> None:
    mine = Placement(workers=3)
    assert read_placement(None, system=None, workers=None, otherwise=mine) is None
    assert read_placement(None, system="fake", workers=None, otherwise=mine) == Placement(system="fake", workers=3)
    with pytest.raises(InvalidRequest):
        read_placement(None, system=None, workers=-1, otherwise=mine)


@pytest.mark.parametrize(
    ("missing", "message", "remedy"),
    [
        ("torch", "needs torch, which is not", "pip install 'torch==2.13.0'\npip install 'tandem-platform[train]'"),
        ("jinja2", "needs jinja2, which is not", "pip install 'tandem-platform[train]'"),
        ("tokenizers jinja2", "needs tokenizers and jinja2, which are not", "pip install 'tandem-platform[train]'"),
    ],
)
def test_a_missing_workshop_is_said_before_anything_starts(
    ask: Run, recipe_file: Path, home: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str, remedy: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing.split() else found(name) or 1)

    async def never(*_words: Any, **_named: Any) -> None:
        raise AssertionError("nothing may start")

    monkeypatch.setattr(flows, "train", never)
    with pytest.raises(MissingPrerequisite, match=message) as raised:
        ask("train", str(recipe_file))
    assert raised.value.remedy == remedy
    assert not (home / "runs").exists()


def test_a_whole_workshop_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: 1)
    check_workshop()


def test_the_command_line_never_imports_torch() -> None:
    program = "import sys, tandem.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
