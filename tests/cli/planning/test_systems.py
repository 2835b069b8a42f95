"""`tandem plan systems`: which of several should have a run, and what more money would buy."""

import pytest

from tandem.flows.planning import SystemsAsk, answer_systems
from tandem.plan.systems import Rules
from tandem.registry import first_charter
from tandem.server import House
from tests.cli.planning.conftest import Refused, Told
from tests.flows.planning.test_answers import GROUND

TWO = ("--system", "8xh100", "--system", "8xa100-80")


def test_the_best_system_stands_first(told: Told) -> None:
    forms = told("plan", "systems", "--devices", "8x1h", *TWO)
    ask = SystemsAsk(systems=("8xh100", "8xa100-80"), devices=8, span_s=3600.0)
    choice = answer_systems(ask, GROUND, rules=Rules()).choice
    assert forms.bare == ["8xh100"]
    assert [offer["system"] for offer in forms.json["choice"]["offers"]] == ["8xh100", "8xa100-80"]
    assert forms.json["more"] is None
    lines = forms.shown.splitlines()
    assert lines[0] == f"  yes  8xh100: {choice.offers[0].why}"
    assert lines[1] == f"       {choice.offers[0].risks[0]}"
    assert f"  yes  8xa100-80: {choice.offers[1].why}" in lines
    assert "Rests on\n  system 8xh100\n" in forms.shown


def test_a_second_tranche_is_weighed(told: Told) -> None:
    forms = told("plan", "systems", "--budget", "100", "--more", "400", "--explain", *TWO)
    more = forms.json["more"]
    assert more["gained_nats"] > 0
    assert f"\n\n{more['why']}\n\n" in forms.shown
    assert "$400 more buy " in more["why"]
    assert "How it was found" in forms.shown


def test_the_charter_says_which_may(told: Told, house: House) -> None:
    text = first_charter("ours", {"ours": {"ada": house.members.make("ada")}}, solo=True)
    house.charters.propose(text.replace('train = ["*"]', 'train = ["8xa*"]'), [house.members.key("ada")])
    forms = told("plan", "systems", "--devices", "8x1h", *TWO)
    assert forms.bare == ["8xa100-80"]
    assert forms.shown.startswith("  yes  8xa100-80: ")
    assert "\n  no   8xh100: " in forms.shown


def test_where_none_can_nothing_is_recommended(told: Told) -> None:
    forms = told("plan", "systems", "--devices", "7x1h", *TWO)
    assert forms.bare == [""]
    assert "Mind: No system may and can have it" in forms.shown
    assert "Ask for 8 devices" in forms.shown


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("", "exactly one of money", "Give budget_usd, or"),
        ("--budget 1k --devices 8x1d", "exactly one of money", "Give budget_usd, or"),
        ("--budget 1k --system moon", "no system or host 'moon'", "It has "),
        ("--budget 1k --system 8xh100 --system 8xh100", "each once", "Name systems of the catalogue"),
        ("--devices 8x1h --system 8xh100 --more 1k", "comes on top of a budget", "Give budget_usd"),
        ("--budget 1k --more -1", "--more is '-1'", "250000, 250k"),
        ("--budget 1k --law moon", "no scaling law 'moon'", "epoch, chinchilla"),
        ("--loss nan", "wrong at target_loss_nats", "docs/reference/cli.md"),
    ],
)
def test_nonsense_is_refused_with_its_remedy(refused: Refused, words: str, problem: str, remedy: str) -> None:
    said = refused("plan", "systems", *words.split())
    assert problem in said
    assert remedy in said
