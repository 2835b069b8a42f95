"""`tandem plan failures` and `simulate`: what failures do to a job and to fleets, and what cannot be meant."""

import json

import pytest

from tandem.flows.planning import FailuresAsk, answer_failures
from tandem.kit.pages import span
from tandem.plan.simulation import DESIGNS
from tandem.plan.units import DAY_S
from tests.cli.conftest import Run
from tests.cli.planning.conftest import Refused, Told
from tests.flows.planning.test_answers import GROUND

FAILURES = ("plan", "failures", "54d", "--system", "h100-cloud", "--hosts", "2048")
SIMULATE = ("plan", "simulate", "--devices", "2k", "--devices", "512", "--runs", "1", "--lasting", "2d")


def test_a_job_under_failures(told: Told) -> None:
    forms = told(*FAILURES)
    found = answer_failures(FailuresAsk(system="h100-cloud", hosts=2048, useful_s=54 * DAY_S), GROUND)
    assert forms.bare == [f"{found.closed.wall_s.mid:.0f}"]
    assert forms.json["closed"]["interruptions"]["mid"] == pytest.approx(found.closed.interruptions.mid)
    assert forms.json["simulated"] is None
    assert forms.shown.startswith(f"2,048 hosts, interrupted each {span(found.faults.mean_s)}\n")
    for words in (
        "by                 closed form",
        f"interruptions      {found.closed.interruptions.mid:,.1f} (",
        f"save each          {span(found.closed.interval_s)}",
        f"goodput            {100 * found.closed.goodput_share.mid:.1f} % (",
        f"from start to end  {span(found.closed.wall_s.mid)} (",
        f"spare hosts        {found.closed.spare_nodes:,}",
        "intervals hold with 90% probability",
    ):
        assert words in forms.shown


def test_runs_stand_beside_the_closed_form_and_steps_are_explained(ask: Run) -> None:
    shown = ask(*FAILURES, "--runs", "40", "--seed", "7", "--explain").stdout
    assert shown.count("interruptions      ") == 2
    assert "How it was found\n  1. mean time between interruptions: " in shown


def test_all_that_may_be_asked_is_heard(ask: Run) -> None:
    said = ("--rate", "8", "--restart", "1min", "--checkpoint", "5s", "--every", "10min", "--measured")
    found = json.loads(ask(*FAILURES, *said, "--json").stdout)
    assert found["faults"] == {
        "nodes": 2048,
        "failures_per_1000_node_days": 8.0,
        "restart_s": 60.0,
        "checkpoint_s": 5.0,
        "repair_s": 86_400.0,
        "measured": True,
    }
    assert found["closed"]["interval_s"] == 600.0
    large = json.loads(ask(*FAILURES, "--parameters", "405B", "--json").stdout)
    small = json.loads(ask(*FAILURES, "--parameters", "8B", "--json").stdout)
    assert large["faults"]["checkpoint_s"] > small["faults"]["checkpoint_s"]


def test_nothing_fails_at_a_rate_of_nothing(ask: Run) -> None:
    found = json.loads(ask("plan", "failures", "1d", "--rate", "0", "--measured", "--json").stdout)
    assert found["closed"]["interruptions"]["mid"] == 0.0


def test_fleets_over_weeks(told: Told) -> None:
    forms = told(*SIMULATE, "--design", "plain", "--design", "elastic")
    assert [(one["design"], one["devices"]) for one in forms.json["points"]] == [
        ("plain", 512),
        ("plain", 2000),
        ("elastic", 512),
        ("elastic", 2000),
    ]
    first = forms.json["points"][0]
    assert forms.bare[0] == f"plain 512 {first['goodput_share']['mid']:.4f}"
    assert len(forms.bare) == 4
    for words in ("goodput", "devices at which goodput falls", "time at 2,000", "Mind: Slow nodes", "Rests on"):
        assert words in forms.shown
    assert f"elastic            {DESIGNS['elastic'].about}" in forms.shown
    assert DESIGNS["in-memory"].about not in forms.shown.replace(DESIGNS["elastic"].about, "")


def test_the_same_seed_is_the_same_fleet(ask: Run) -> None:
    words = (*SIMULATE, "--design", "plain", "--rate", "50", "-q")
    once, again, other = (ask(*words, "--seed", seed).stdout for seed in ("3", "3", "4"))
    assert once == again != other


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("failures 0d", "The training is '0d'", "30d, 12h"),
        ("failures x", "The training is 'x'", "30d, 12h"),
        ("failures 1d --rate inf", "wrong at failures_per_1000_node_days", "docs/reference/cli.md"),
        ("failures 1d --hosts 0", "wrong at hosts", "docs/reference/cli.md"),
        ("failures 1d --restart -1s", "--restart is '-1s'", "30d, 12h"),
        ("failures 1d --checkpoint 0s", "--checkpoint is '0s'", "30d, 12h"),
        ("failures 1d --parameters 1e29", "wrong at parameters", "docs/reference/cli.md"),
        ("failures 54d --every 100d", "never finishes", "Save each "),
        ("failures 1d --system moon", "no system or host 'moon'", "It has "),
        ("simulate --devices 0", "--devices is '0'", "7B, 1.4T"),
        ("simulate --devices 1e12", "wrong at sizes", "docs/reference/cli.md"),
        ("simulate --design moon", "no design 'moon'", "There are plain, "),
        ("simulate --rate 1e9 --devices 1k", "negative, or beyond anything", "Give rates of 0 to "),
        ("simulate --parameters 1e29 --devices 1k", "wrong at parameters", "docs/reference/cli.md"),
        ("simulate --lasting 1000y --devices 1k", "is no run", "up to a year"),
    ],
)
def test_nonsense_is_refused_with_its_remedy(refused: Refused, words: str, problem: str, remedy: str) -> None:
    said = refused("plan", *words.split())
    assert problem in said
    assert remedy in said


@pytest.mark.parametrize(
    "words",
    [
        "failures",
        "failures 1d --rate -1",
        "failures 1d --rate nan",
        "simulate --rate nan",
        "failures 1d --runs -1",
        "simulate --runs 0",
        "simulate --seed -1",
    ],
)
def test_what_the_shell_got_wrong_ends_with_two(refused: Refused, words: str) -> None:
    assert "Error: " in refused("plan", *words.split(), status=2)
