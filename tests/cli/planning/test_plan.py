"""`tandem plan`: what it says of money, devices or a loss; what it leaves; and what it refuses."""

import json
from pathlib import Path

import pytest

from tandem.flows.planning import QuoteAsk, answer_quote
from tandem.kit.pages import span
from tandem.plan.plain import plain
from tandem.plan.units import parameters_text, usd_text
from tandem.server import House
from tandem.spec import load_placement, load_recipe
from tests.cli.conftest import Run
from tests.cli.planning.conftest import Refused, Told
from tests.flows.planning.runs import write_measured
from tests.flows.planning.test_answers import GROUND
from tests.pages import Checked

WORDS = ("plan", "--budget", "200", "--system", "8xh100")
ASK = QuoteAsk(budget_usd=200.0, system="8xh100")


def test_a_budget_becomes_a_page_json_and_a_number(told: Told) -> None:
    forms, found = told(*WORDS), answer_quote(ASK, GROUND)
    assert forms.json == json.loads(json.dumps(plain(found)))
    assert forms.bare == [str(found.model.parameters)]
    assert forms.shown.startswith(
        f"Train {parameters_text(found.model.parameters)} weights on {parameters_text(found.tokens)} tokens "
        "with 8 devices of 8xh100\n"
    )
    for words in (
        f"{found.loss_nats.mid:.3f} (",
        f"{span(found.wall_s.mid)} (",
        f"$200 ({usd_text(found.cost_usd.low)} to ",
        f"{found.steps:,} steps of {found.samples:,} sequences",
        "1 host: data 8",
        "Instead\n  half the size: The same loss from",
        "Mind: Jobs die of other causes than their nodes too",
        "Rests on\n  accelerator h100-80 (NVIDIA H100 SXM",
        "scaling law epoch",
    ):
        assert words in forms.shown
    assert "How it was found" not in forms.shown


def test_explaining_shows_each_step(ask: Run) -> None:
    shown = ask(*WORDS, "--explain").stdout
    steps = answer_quote(ASK, GROUND).derivation.steps
    assert "How it was found\n  1. model and tokens: " in shown
    for place, step in enumerate(steps, start=1):
        assert f"{place:>3}. {step.what}: {step.value}\n     by {step.formula}" in shown
        assert f"[{step.source}]" in shown or not step.source


def test_all_that_may_be_asked_is_heard(ask: Run) -> None:
    words = ("--hosts", "2", "--price", "8xh100-spot", "--parameters", "100M", "--sequence", "1024")
    more = ("--law", "chinchilla", "--precision", "fp8", "--within", "2d", "--system", "h100-cloud", "--json")
    found = json.loads(ask("plan", "--budget", "0.1k", *words, *more).stdout)
    expected = {
        "budget_usd": 100.0,
        "parameters": 100_000_000,
        "context": 1024,
        "law": "chinchilla",
        "precision": "fp8",
        "most_wall_s": 2 * 86_400.0,
    }
    assert expected.items() <= found["ask"].items()
    assert found["model"]["context"] == 1024
    assert any("8xh100-spot: 7.2 USD/h" in row for row in found["derivation"]["rows"])


def test_devices_and_losses_are_asked_too(ask: Run) -> None:
    hour = json.loads(ask("plan", "--devices", "8x1h", "--system", "8xh100", "--json").stdout)
    assert (hour["devices"], round(hour["wall_s"]["mid"])) == (8, 3600)
    loss = json.loads(ask("plan", "--loss", "3.2", "--system", "8xh100", "--json").stdout)
    assert loss["loss_nats"]["mid"] == pytest.approx(3.2, rel=1e-3)


def test_this_machine_is_planned_by_its_own_runs(ask: Run, house: House) -> None:
    write_measured(house.settings.home, "run_0001")
    house.runs.reindex()
    ask("plan", "--against", "run_0001")  # leaves what the run has shown
    shown = ask("plan", "--system", "local", "--devices", "1x1h", "--explain").stdout
    assert "with 1 device of local\n" in shown
    assert "cost " not in shown.split("\n\n")[1], "nobody said what an hour costs"
    assert "calibration of local" in shown
    assert "measured bf16 GEMM, 2 threads" in shown


def test_a_loss_that_the_law_does_not_know_is_not_told_as_one(ask: Run, house: House) -> None:
    write_measured(house.settings.home, "run_0001", train_s=0.12)
    house.runs.reindex()
    ask("plan", "--against", "run_0001")
    shown = ask("plan", "--system", "local", "--devices", "1x10s").stdout
    assert "loss       not known: the law says " in shown
    assert "it does not reach down so far" in shown


def test_writing_leaves_what_tandem_train_reads(ask: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plan"
    done = ask(*WORDS, "--write", str(folder), "--name", "ours")
    found = answer_quote(ASK, GROUND)
    recipe, placement = load_recipe(folder / "recipe.toml", {}), load_placement(folder / "placement.toml")
    assert recipe.name == "ours"
    assert recipe.model.shape is not None
    assert (recipe.model.shape.width, recipe.batch.samples) == (found.model.width, found.samples)
    assert recipe.budget.tokens == found.tokens
    assert (placement.system, placement.workers, placement.limits.usd) == ("8xh100", 8, 200.0)
    command = f"tandem train {folder / 'recipe.toml'} --placement {folder / 'placement.toml'}"
    assert done.stdout.endswith(f"\n\nNext: {command}\n")
    assert "Mind: The data are an example" in done.stderr


def test_writing_does_not_overwrite_and_then_leaves_nothing_else(refused: Refused, tmp_path: Path) -> None:
    there, page = tmp_path / "placement.toml", tmp_path / "plan.html"
    there.write_text("mine")
    said = refused(*WORDS, "--write", str(tmp_path), "--html", str(page))
    assert f"{there} is there already. Name another folder" in said
    assert there.read_text() == "mine"
    assert list(tmp_path.glob("*.*ml")) == [there]


def test_a_report_is_written(ask: Run, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    done = ask(*WORDS, "--html", str(page), "-q")
    assert done.stdout == f"{answer_quote(ASK, GROUND).model.parameters}\n"
    assert f"The report is {page}" in done.stderr
    assert "a plan for 8xh100" in Checked(page.read_text()).text


def test_nothing_asked_says_what_to_do(refused: Refused) -> None:
    said = refused("plan")
    assert said.startswith("Error: A plan begins with money, devices for a time, or a loss.")
    assert "tandem plan --budget 250000, --devices 512x30d or --loss 2.1; tandem plan --help lists the rest." in said


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("--budget -5", "--budget is '-5'", "250000, 250k or 1.5M"),
        ("--budget nan", "--budget is 'nan'", "250000, 250k or 1.5M"),
        ("--budget 1k --devices 8x1d", "exactly one of money", "or target_loss_nats: --budget, --devices or --loss"),
        ("--devices 7x1d --system 8xh100", "7 devices are no whole number of hosts with 8", "Ask for 8 devices"),
        ("--devices 8x-1d", "--devices is '-1d'", "30d, 12h"),
        ("--loss 0.5", "never falls under 1.8", "Ask for a loss of 1.8"),
        ("--loss nan", "wrong at target_loss_nats", "docs/reference/cli.md"),
        ("--budget 1k --law moon", "no scaling law 'moon'", "epoch, chinchilla"),
        ("--budget 1k --precision int3", "wrong at precision", "docs/reference/cli.md"),
        ("--budget 1k --precision fp4", "h100-80 has no peak for fp4", "Use bf16, fp16"),
        ("--budget 1k --system moon", "no system or host 'moon'", "It has h100-cloud"),
        ("--budget 1k --price moon", "no price 'moon'", "It has 8xh100-nanochat"),
        ("--budget 1k --hosts 0", "wrong at hosts", "docs/reference/cli.md"),
        ("--budget 1k --hosts 5000", "5000 hosts of h100-cloud cannot be had", "Ask for 1 to 4096 hosts"),
        ("--budget 1k --parameters 0", "--parameters is '0'", "7B, 1.4T"),
        ("--budget 1k --parameters 1e20", "wrong at parameters", "docs/reference/cli.md"),
        ("--budget 1k --sequence 99999999999", "wrong at context", "docs/reference/cli.md"),
        ("--budget 1k --within 0d", "--within is '0d'", "30d, 12h"),
        ("--budget 0.0001 --system 8xh100", "over before a first step", "Ask for more, or for a smaller model"),
        ("--system local --devices 2x1h", "one device of one host, not 2 devices", "--devices 1x2h"),
        ("--budget 1k --name mine", "--name is for the recipe that --write leaves", "Give --write FOLDER too"),
        ("--against nothing", "no run 'nothing'", "tandem runs list"),
        ("--against nothing --budget 1k", "--budget is for a new plan, and `tandem plan --against`", "Leave it out"),
        ("--hosts 2 layout --parameters 8B", "--hosts is for a new plan, and `tandem plan layout`", "behind the name"),
        ("--json factors", "--json is for a new plan, and `tandem plan factors`", "behind the name"),
    ],
)
def test_nonsense_is_refused_with_its_remedy(refused: Refused, words: str, problem: str, remedy: str) -> None:
    said = refused("plan", *words.split())
    assert said.startswith("Error: ")
    assert problem in said
    assert remedy in said


@pytest.mark.parametrize("words", ["--sequence 0", "--budget", "--bugdet 5", "moon"])
def test_what_the_shell_got_wrong_ends_with_two(refused: Refused, words: str) -> None:
    assert "Error: " in refused("plan", *words.split(), status=2)


def test_a_broken_catalogue_is_named(refused: Refused, house: House) -> None:
    (house.settings.home / "catalogue.toml").write_text('[systems.west]\nhost = "8xmoon"\nhosts = 2\n')
    said = refused(*WORDS)
    assert "catalogue.toml is wrong at systems.west.host: there is no '8xmoon'" in said
