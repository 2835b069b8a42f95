"""`tandem plan catalogue`: every row with its date and source, and who may train."""

from tandem.registry import first_charter
from tandem.server import House
from tests.cli.planning.conftest import Told
from tests.plan.published import catalogue


def test_all_rows_are_there(told: Told) -> None:
    forms, rows = told("plan", "catalogue"), catalogue()
    names = [*rows.systems, *rows.prices, *rows.hosts, *rows.accelerators]
    assert forms.bare == names
    assert {kind: list(forms.json[kind]) for kind in ("systems", "prices", "hosts", "accelerators")} == {
        "systems": list(rows.systems),
        "prices": list(rows.prices),
        "hosts": list(rows.hosts),
        "accelerators": list(rows.accelerators),
    }
    assert forms.json["prices"]["8xh100-nanochat"]["usd_per_hour"] == 24.0
    for words in ("h100-cloud", "4,096 x 8xh100, may train", "8xh100: 24 USD/h, on-demand", "8 x h100-80", "2025-10"):
        assert words in forms.shown
    for words in ("85.9GB, 989.5 TFLOP/s bf16", "193GB, 2,250 TFLOP/s bf16", "34.4GB, 125 TFLOP/s fp16"):
        assert words in forms.shown


def test_own_rows_come_first_and_the_charter_is_heard(told: Told, house: House) -> None:
    (house.settings.home / "catalogue.toml").write_text(
        '[systems.west]\nhost = "8xh100"\nhosts = 2\nsource = "ours"\n'
        '[prices.ours]\nhost = "8xh100"\nusd_per_hour = 9\n'
    )
    text = first_charter("ours", {"ours": {"ada": house.members.make("ada")}}, solo=True)
    house.charters.propose(text.replace('train = ["*"]', 'train = ["w*"]'), [house.members.key("ada")])
    forms = told("plan", "catalogue")
    west = next(line for line in forms.shown.splitlines() if " west " in line)
    assert "2 x 8xh100, may train" in west
    assert "ours" in west
    cloud = next(line for line in forms.shown.splitlines() if " h100-cloud " in line)
    assert "the charter does not let it train" in cloud
    assert forms.bare[len(forms.json["systems"])] == "ours", "one's own price goes before those of the house"
