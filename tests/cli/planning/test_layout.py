"""`tandem plan layout`: the best layout of a step, those that lose and why, or one of one's own."""

import json
from pathlib import Path

import msgspec
import pytest

from tandem.flows.planning import LayoutAsk, answer_layout
from tandem.formats import write_tiny_gguf
from tandem.server import House
from tests.cli.conftest import Run
from tests.cli.planning.conftest import Refused, Told
from tests.cli.training.conftest import RECIPE
from tests.flows.planning.test_answers import GROUND, no_file
from tests.run_folders import recipe as recipe_from
from tests.serving import pulled

WORDS = ("plan", "layout", "--parameters", "8B", "--system", "8xh100", "--hosts", "4")
THIRTY_TWO = RECIPE.replace("samples = 4", "samples = 32")


def test_the_best_and_the_others_are_told(told: Told) -> None:
    forms = told(*WORDS)
    ask = LayoutAsk(parameters=8 * 10**9, system="8xh100", hosts=4)
    ranking = answer_layout(ask, GROUND, file=no_file).ranking
    assert forms.bare == [ranking.best.layout.words]
    assert forms.json["ranking"]["best"]["layout"]["data"] == ranking.best.layout.data
    assert forms.json["job"]["model"]["parameters"] == 8_030_261_248
    assert forms.json["asked"] is None
    assert forms.shown.startswith("8.03B weights, 256 sequences of 4,096 tokens\n")
    for words in (f"layout  {ranking.best.layout.words}", "step    ", "MFU ", "a device: weights ", "Rests on\n"):
        assert words in forms.shown
    for one in ranking.others:
        assert f"{one.layout.words}: {one.why}" in forms.shown
    assert "Cannot be\n" in forms.shown
    assert f"  {ranking.rejected[0].layout.words}: {ranking.rejected[0].why}" in forms.shown


def test_a_layout_of_ones_own_stands_before_the_best(told: Told) -> None:
    own = ("--data", "4", "--tensor", "8", "--micro-samples", "2", "--recompute", "full")
    forms = told(*WORDS, *own, "--keep", "1")
    assert forms.bare == ["data 4 (sharded) x tensor 8, 2 sequences at once, full recomputation"]
    assert forms.json["asked"]["layout"]["micro_samples"] == 2
    assert f"layout  {forms.bare[0]}" in forms.shown
    best = forms.json["ranking"]["best"]["layout"]
    assert f"data {best['data']} (sharded)" in forms.shown.partition("Others\n")[2]
    whole = told(*WORDS[:3], "1B", *WORDS[4:], "--data", "32", "--whole")
    assert whole.json["asked"]["layout"]["sharded"] is False
    assert whole.bare[0].startswith("data 32, ")
    assert whole.bare[0].endswith("selective recomputation")


def test_a_recipe_is_laid_out_with_its_batch(ask: Run, tmp_path: Path) -> None:
    path = tmp_path / "coder.toml"
    path.write_text(THIRTY_TWO)
    shown = ask("plan", "layout", str(path), "--system", "8xh100", "--explain").stdout
    assert "weights, 32 sequences of 64 tokens\n" in shown
    assert "How it was found\n  1. " in shown


def test_a_recipe_that_begins_from_a_version_is_as_large_as_its_file(ask: Run, house: House, tmp_path: Path) -> None:
    weights = tmp_path / "tiny.gguf"
    write_tiny_gguf(weights, seed=1)
    pulled(house, "tiny", weights)
    path = tmp_path / "recipe.toml"
    path.write_bytes(msgspec.toml.encode(recipe_from(model={"parent": "tiny"}, batch={"samples": 8, "context": 64})))
    found = json.loads(ask("plan", "layout", str(path), "--system", "8xh100", "--hosts", "1", "--json").stdout)
    assert found["job"]["model"]["width"] == 64


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("", "for a recipe or for a number of weights", "Give one of both"),
        ("nowhere.toml", "Cannot read the recipe nowhere.toml", "Check the path"),
        ("--parameters 8B --tensor 3", "cannot be split over 3 devices", "Use tensor = 2"),
        ("--parameters 8B --hosts 1 --tensor 8 --data 2", "takes 16 devices, h100-cloud has 8", "data = 1"),
        ("--parameters 70B --hosts 1 --data 8", "does not fit", ""),
        ("--parameters 100T --hosts 1", "no usual shape", "Ask for 1e+05 to 2e+13 weights"),
        ("--parameters 2T --hosts 1", "does not fit on 8 devices", "devices"),
        ("--parameters 8B --samples 0", "wrong at samples", "docs/reference/cli.md"),
        ("--parameters 8B --samples -3", "wrong at samples", "docs/reference/cli.md"),
        ("--parameters 8B --hosts -1", "wrong at hosts", "docs/reference/cli.md"),
        ("--parameters 8B --context 99999999999", "wrong at context", "docs/reference/cli.md"),
        ("--parameters 8B --data 99999999999999999999", "wrong at layout.data", "docs/reference/cli.md"),
        ("--parameters 8B --data 8 --recompute some", "wrong at layout.recompute", "docs/reference/cli.md"),
        ("--parameters 8B --recompute full", "none is named", "--data, --tensor, --pipeline"),
        ("--parameters 8B --whole", "none is named", "--data, --tensor, --pipeline"),
        ("--parameters 8B --micro-samples 2", "none is named", "--data, --tensor, --pipeline"),
    ],
)
def test_nonsense_is_refused_with_its_remedy(refused: Refused, words: str, problem: str, remedy: str) -> None:
    said = refused("plan", "layout", *words.split())
    assert problem in said
    assert remedy in said


@pytest.mark.parametrize("words", ["--parameters 8B --data 0", "--parameters 8B --keep 51", "--context 0"])
def test_what_the_shell_got_wrong_ends_with_two(refused: Refused, words: str) -> None:
    assert "Error: " in refused("plan", "layout", *words.split(), status=2)
