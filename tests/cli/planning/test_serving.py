"""`tandem plan serving`: replicas, hosts, latency and cost for traffic, and when more are due."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tandem.formats import write_tiny_gguf
from tandem.plan.serving import serving_text
from tandem.server import House
from tests.cli.conftest import Run
from tests.cli.planning.conftest import Refused, Told
from tests.flows.planning.test_answers import GROUND, answer_serving, serving
from tests.serving import pulled

WORDS = ("plan", "serving", "8B", "--requests", "3", "--system", "h100-cloud")


def test_what_serving_takes(told: Told) -> None:
    forms = told(*WORDS)
    ask = serving(parameters=8 * 10**9, hosts=None, requests_per_s=3.0, prompt_tokens=500.0, answer_tokens=200.0)
    plan = answer_serving(ask, GROUND)
    assert forms.bare == [str(plan.cluster.hosts)] == ["2"]
    assert forms.json["replicas"] == plan.replicas
    assert forms.json["month_usd"] == pytest.approx(plan.month_usd)
    assert forms.json["enough_months"] is None
    assert forms.shown.startswith(serving_text(plan))
    assert "Mind: Only means of prompts and answers" in forms.shown
    assert "As it grows" not in forms.shown


def test_growth_says_when_a_host_is_due(told: Told) -> None:
    forms = told(*WORDS[:4], "600", *WORDS[5:], "--growth", "0.3", "--months", "24")
    steps = [line for line in forms.shown.partition("As it grows\n")[2].splitlines() if line.startswith("  in ")]
    needs = forms.json["growth"]
    assert steps[0].startswith(f"  in 0 months: {needs[0]['hosts']} hosts, $")
    rises = [b for a, b in pairwise(needs) if a["hosts"] != b["hosts"]]
    assert len(steps) == 1 + len(rises) > 1
    assert f"in {rises[0]['month']} months: {rises[0]['hosts']} hosts" in steps[1]


def test_all_that_may_be_asked_is_heard(ask: Run) -> None:
    plain = json.loads(ask(*WORDS, "--json").stdout)
    for said in (
        "--prompt 4000",
        "--answer 2000",
        "--peak 500",
        "--cached 0.9",
        "--growth 0.1",
        "--first-s 0.02",
        "--each-s 0.006",
        "--weights q8_0",
        "--context 65536",
        "--spare 4",
        "--months 3",
        "--hosts 64",
        "--price 8xh100-spot",
    ):
        assert json.loads(ask(*WORDS, *said.split(), "--json").stdout) != plain, said


def test_a_version_of_the_registry_is_as_large_as_its_file(ask: Run, house: House, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, seed=1)
    pulled(house, "tiny", path)
    words = ("plan", "serving", "tiny@1", "--requests", "1", "--prompt", "20", "--answer", "10", "--context", "64")
    found = json.loads(ask(*words, "--json").stdout)
    assert found["pace"]["replica"]["model"]["width"] == 64
    assert "How it was found" in ask(*words, "--explain").stdout


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("x --requests 1", "'x' is neither a number of weights nor a version", "8B, 135M or coder@1"),
        ("coder@1 --requests 1", "no model 'coder@1'", "tandem models list"),
        ("8B --requests 0", "wrong at requests_per_s", "docs/reference/cli.md"),
        ("8B --requests nan", "wrong at requests_per_s", "docs/reference/cli.md"),
        ("8B --requests 1 --weights int3", "wrong at weights", "docs/reference/cli.md"),
        ("8B --requests 1 --peak 0.5", "wrong at peak_ratio", "docs/reference/cli.md"),
        ("8B --requests 1 --cached 2", "wrong at cached_share", "docs/reference/cli.md"),
        ("8B --requests 1 --growth -1", "wrong at growth_share", "docs/reference/cli.md"),
        ("8B --requests 1 --each-s 1e-9", "A token takes", "more devices for a replica"),
        ("8B --requests 1 --prompt 9000", "longer than the model's context", "Plan for 8192 tokens"),
        ("8B --requests 1 --hosts 1", "need 2 hosts", "spare fewer"),
        ("100T --requests 1", "no usual shape", "Ask for 1e+05"),
        ("8B --requests 1 --system moon", "no system or host 'moon'", "It has "),
    ],
)
def test_nonsense_is_refused_with_its_remedy(refused: Refused, words: str, problem: str, remedy: str) -> None:
    said = refused("plan", "serving", *words.split())
    assert problem in said
    assert remedy in said


@pytest.mark.parametrize("words", ["", "8B", "8B --requests 1 --months 121", "8B --requests 1 --prompt 0"])
def test_what_the_shell_got_wrong_ends_with_two(refused: Refused, words: str) -> None:
    assert "Error: " in refused("plan", "serving", *words.split(), status=2)
