"""`tandem plan funding`: what was agreed beside what runs cost and usage earned here."""

from pathlib import Path

import pytest

from tandem.registry import first_charter
from tandem.server import House
from tests.accounts.test_usage import add
from tests.cli.conftest import Run
from tests.cli.planning.conftest import Refused, Told
from tests.flows.planning.runs import write_measured

AGREED = """
reserve_usd = 50
[[tranches]]
name = "first"
amount_usd = 1000
month = "2023-11"
paid = true
[[tranches]]
name = "second"
amount_usd = 4000
month = "2023-12"
condition = "A model that completes code"
[[planned]]
stage = "train"
month = "2023-11"
amount_usd = 10
[[planned]]
stage = "people"
month = "2023-12"
amount_usd = 700
[[planned]]
stage = "people"
month = "2024-02"
amount_usd = 700
[[spent]]
stage = "people"
month = "2023-11"
amount_usd = 700
[[commitments]]
name = "rent"
stage = "serve"
month_usd = 5
first_month = "2023-11"
last_month = "2024-03"
[[tariffs]]
deployment = "*"
prompt_usd_per_million_tokens = 1e6
answer_usd_per_million_tokens = 2e6
"""


@pytest.fixture
def agreed(house: House, tmp_path: Path) -> str:
    """A file of what was agreed, in a home where a run cost 0.021 USD in November 2023."""
    write_measured(house.settings.home, "run_0001")
    house.runs.reindex()
    path = tmp_path / "funding.toml"
    path.write_text(AGREED)
    return str(path)


def test_a_home_without_money_says_so(told: Told) -> None:
    forms = told("plan", "funding")
    assert forms.bare == ["0.00"]
    assert forms.json["balance_micro_usd"] == 0
    assert "Nothing was spent or planned yet." in forms.shown
    assert "runs out        not within what is known" in forms.shown


def test_where_the_money_stands(told: Told, agreed: str) -> None:
    forms = told("plan", "funding", agreed, "--month", "2023-11", "--explain")
    assert forms.json["paid_micro_usd"] == 1_000_000_000
    assert forms.json["spent_micro_usd"] == 700_021_000
    assert forms.bare == [f"{forms.json['balance_micro_usd'] / 1e6:.2f}"]
    for words in (
        "month               2023-11",
        "paid in             $1,000",
        "still due           $4,000, of it $4,000 with conditions",
        "spent               $700 of $10.00 planned",
        "runs out            not within what is known",
        "without conditions  runs out 2023-12",
        "Mind: people has cost $700 of $0.00 planned.",
        "How it was found",
        "money is counted in whole micro-dollars",
    ):
        assert words in forms.shown
    stages = {row["stage"]: row for row in forms.json["stages"]}
    assert stages["train"]["spent_micro_usd"] == 21_000, "what the run cost"
    assert [one["month"] for one in forms.json["months"]] == sorted(one["month"] for one in forms.json["months"])
    for one in forms.json["months"]:
        assert f"\n{one['month']} " in forms.shown


def test_usage_earns_and_parties_are_paid_up_to_their_caps(told: Told, house: House, agreed: str) -> None:
    add(house.db, "req_1")
    returns = '[[returns]]\nparty = "ours"\ninvested_usd = 100\ncap = 2.0\n'
    text = first_charter("ours", {"ours": {"ada": house.members.make("ada")}}, solo=True)
    house.charters.propose(f"{text}\n{returns}", [house.members.key("ada")])
    forms = told("plan", "funding", agreed)
    assert forms.json["earned_micro_usd"] == 210 * 10**6, "10 tokens of prompt at 1 USD, 100 of answers at 2"
    (part,) = forms.json["distribution"]["parts"]
    assert part["party"] == "ours"
    assert "\nto ours " in forms.shown
    assert "until its cap" in forms.shown
    row = next(line for line in forms.shown.splitlines() if " starter " in line)
    assert row.split()[1:] == ["starter", "110", "$210"]


PRICES = (
    '[[tariffs]]\ndeployment = "code-*"\nprompt_usd_per_million_tokens = {}\nanswer_usd_per_million_tokens = {}\n'
    "cached_usd_per_million_tokens = {}"
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tranches = 5", "is wrong at tranches"),
        ('[[tranches]]\nname = "a"\namount_usd = -5\nmonth = "2027-01"', "-5"),
        ('[[tranches]]\nname = "a"\namount_usd = nan\nmonth = "2027-01"', "nan"),
        ('[[tranches]]\nname = "a"\namount_usd = 5\nmonth = "January"', "January"),
        ('[[tranches]]\nname = "a"\namount_usd = 5\nmonth = "2027-01"\npayed = true', "unknown field `payed`"),
        ('[[tranches]]\nname = "a"', "wrong at tranches.0"),
        (PRICES.format("-1", "1", "1"), "The price of code-* is -1 US dollars"),
        (PRICES.format("1", "nan", "1"), "The price of code-* is nan US dollars"),
        (PRICES.format("1", "1", "-1"), "The price of code-* is -1 US dollars"),
        ("[returned_usd]\nzoe = 5", "zoe got money back, but has no claim"),
        ("bugdet = 5", "unknown field `bugdet`"),
        ("tranches = [", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(refused: Refused, tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "funding.toml"
    path.write_text(text)
    said = refused("plan", "funding", str(path))
    assert said.startswith("Error: ")
    assert problem in said


def test_options_that_cannot_be_meant_are_refused(refused: Refused, ask: Run) -> None:
    assert "Cannot read the funding nowhere.toml" in refused("plan", "funding", "nowhere.toml")
    said = refused("plan", "funding", "--month", "2027")
    assert "wrong at month" in said
    assert "docs/guides/plan.md" in said


def test_a_balance_below_nothing_reads_as_one(ask: Run, agreed: str) -> None:
    lent = Path(agreed).read_text().replace("amount_usd = 1000", "amount_usd = 100")
    Path(agreed).write_text(lent)
    assert "\nbalance         -$600\n" in ask("plan", "funding", agreed, "--month", "2023-11").stdout
