"""The hardware catalogue: the one that ships, a person's own rows over it, and refusals that name the row."""

from itertools import pairwise
from pathlib import Path

import pytest

from tandem.kit.errors import InvalidRequest, NotFound
from tandem.plan.catalogue import Catalogue, Price, parse_catalogue
from tests.plan.published import catalogue

OWN = """
[accelerators.small]
memory_bytes = 1000
memory_bytes_per_s = 10.0
peak_flops = { bf16 = 100.0 }

[hosts.box]
accelerator = "small"
devices = 2
inside_bytes_per_s = 5.0
between_bytes_per_s = 1.0

[prices.box-owned]
host = "box"
usd_per_hour = 3.0
kind = "owned"
source = "our books"
date = "2026-11"

[systems.cellar]
host = "box"
hosts = 4
region = "cellar"
failures_per_1000_node_days = 9.0
restart_s = 60.0
"""


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return catalogue()


def test_every_shipped_row_says_where_it_is_known_from_and_when(shipped: Catalogue) -> None:
    for rows in (shipped.accelerators, shipped.hosts, shipped.prices):
        for name, row in rows.items():
            assert row.source, name
            assert row.date, name
            assert row.name == name


def test_every_shipped_system_has_a_price(shipped: Catalogue) -> None:
    for name in shipped.systems:
        cluster = shipped.cluster(name)
        assert cluster.price is not None, "a system that costs nothing would win every comparison"
        assert cluster.devices == cluster.hosts * 8


def test_newer_devices_are_not_slower(shipped: Catalogue) -> None:
    names = ("v100-32", "a100-40", "a100-80", "h100-80", "h200", "b200")
    devices = [shipped.accelerators[name] for name in names]
    for older, newer in pairwise(devices):
        assert newer.memory_bytes_per_s >= older.memory_bytes_per_s
        assert newer.memory_bytes >= older.memory_bytes
        assert newer.reached_flops("fp16") >= older.reached_flops("fp16")


def test_spot_is_cheaper_than_the_same_provider_on_demand(shipped: Catalogue) -> None:
    pairs = [
        (shipped.prices[name.removesuffix("-spot")], row)
        for name, row in shipped.prices.items()
        if row.kind == "spot" and name.removesuffix("-spot") in shipped.prices
    ]
    assert len(pairs) >= 3
    assert all(spot.usd_per_hour < price.usd_per_hour for price, spot in pairs)


def test_a_person_adds_rows_and_keeps_those_that_ship(shipped: Catalogue) -> None:
    both = parse_catalogue(OWN, where="catalogue.toml", over=shipped)
    cluster = both.cluster("cellar")
    assert (cluster.hosts, cluster.devices, cluster.region) == (4, 8, "cellar")
    assert cluster.usd_per_hour == 12.0
    assert cluster.usd_per_device_hour == 1.5
    assert (cluster.failures_per_1000_node_days, cluster.restart_s) == (9.0, 60.0)
    assert cluster.rows == (
        "accelerator small (no source given)",
        "host box (no source given)",
        "price box-owned: 3 USD/h owned (our books, 2026-11)",
    )
    assert both.cluster("h100-cloud") == shipped.cluster("h100-cloud")


def test_a_persons_price_comes_first(shipped: Catalogue) -> None:
    own = '[prices.mine]\nhost = "8xh100"\nusd_per_hour = 11.0\n'
    both = parse_catalogue(own, where="x", over=shipped)
    assert both.cluster("8xh100").price == Price(name="mine", host="8xh100", usd_per_hour=11.0)


def test_a_persons_row_replaces_the_one_of_its_name(shipped: Catalogue) -> None:
    own = '[prices.8xh100-aws]\nhost = "8xh100"\nusd_per_hour = 11.0\n'
    both = parse_catalogue(own, where="x", over=shipped)
    assert both.prices["8xh100-aws"].usd_per_hour == 11.0
    assert len(both.prices) == len(shipped.prices)


def test_a_kind_of_host_is_a_cluster_of_any_size(shipped: Catalogue) -> None:
    assert shipped.cluster("8xh100").hosts == 1
    assert shipped.cluster("8xh100", hosts=12_500).devices == 100_000
    assert shipped.cluster("8xh100", hosts=3) == shipped.cluster("8xh100").of_hosts(3)


def test_a_named_price(shipped: Catalogue) -> None:
    assert shipped.cluster("h100-cloud", hosts=2, price="8xh100-aws").usd_per_hour == pytest.approx(110.08)


def test_without_a_price_nothing_is_said_of_cost() -> None:
    cluster = parse_catalogue(
        OWN.replace("[prices.box-owned]", "[prices.other]").replace(
            'host = "box"\nusd_per_hour', 'host = "spare"\nusd_per_hour'
        )
        + """
[hosts.spare]
accelerator = "small"
devices = 1
inside_bytes_per_s = 5.0
between_bytes_per_s = 1.0
""",
        where="x",
    ).cluster("cellar")
    assert cluster.price is None
    assert cluster.usd_per_hour == cluster.usd_per_device_hour == 0.0
    assert len(cluster.rows) == 2


@pytest.mark.parametrize(("name", "price"), [("nowhere", None), ("8xh100", "nothing")])
def test_unknown_names_are_told_with_those_that_are_known(shipped: Catalogue, name: str, price: str | None) -> None:
    with pytest.raises(NotFound, match="8xh100"):
        shipped.cluster(name, price=price)


@pytest.mark.parametrize("hosts", [0, -1, 4097])
def test_a_system_has_only_its_hosts(shipped: Catalogue, hosts: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 4096 hosts"):
        shipped.cluster("h100-cloud", hosts=hosts)


def test_a_price_of_another_host_is_refused(shipped: Catalogue) -> None:
    with pytest.raises(InvalidRequest, match="is for 8xa100-80, not for 8xh100"):
        shipped.cluster("8xh100", price="8xa100-80-lambda")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('accelerator = "small"', 'accelerator = "big"', "hosts.box.accelerator"),
        ('[prices.box-owned]\nhost = "box"', '[prices.box-owned]\nhost = "bux"', "prices.box-owned.host"),
        ('[systems.cellar]\nhost = "box"', '[systems.cellar]\nhost = "bux"', "systems.cellar.host"),
        ("hosts = 4", 'hosts = 4\nprice = "none"', "systems.cellar.price"),
        ("devices = 2", "devices = 0", "devices"),
        ("usd_per_hour = 3.0", "usd_per_hour = -3.0", "usd_per_hour"),
        ("usd_per_hour = 3.0", "usd_per_hour = nan", "usd_per_hour"),
        ("bf16 = 100.0", "bf32 = 100.0", "peak_flops"),
        ("bf16 = 100.0", "bf16 = 0", "peak_flops"),
        ('date = "2026-11"', 'date = "soon"', "date"),
        ("restart_s = 60.0", "restarts = 60.0", "restarts"),
        ("memory_bytes = 1000", "reached_share = { bf16 = 1.5 }\nmemory_bytes = 1000", "reached_share"),
    ],
)
def test_a_wrong_row_is_refused_by_its_key(old: str, new: str, key: str) -> None:
    assert old in OWN
    with pytest.raises(InvalidRequest, match=key):
        parse_catalogue(OWN.replace(old, new), where="my.toml")


@pytest.mark.parametrize(
    ("old", "new", "row"),
    [
        ("usd_per_hour = 3.0", "usd_per_hour = -3.0", "prices.box-owned"),
        ('[prices.box-owned]\nhost = "box"', "[prices.box-owned]", "prices.box-owned"),
        ("devices = 2", "devices = 2\ncolour = 1", "hosts.box"),
        ("hosts = 4", "hosts = 0", "systems.cellar"),
        ("memory_bytes = 1000", "memory_bytes = 0", "accelerators.small"),
    ],
)
def test_a_wrong_row_is_named_among_all_the_others(old: str, new: str, row: str) -> None:
    assert old in OWN
    with pytest.raises(InvalidRequest, match=f"The row {row} of the catalogue my.toml is wrong at"):
        parse_catalogue(OWN.replace(old, new), where="my.toml")


@pytest.mark.parametrize("peaks", ["{}", "{ fp8 = 100.0 }", "{ fp8 = 100.0, fp4 = 200.0 }"])
def test_a_device_that_cannot_compute_attention_is_refused(peaks: str) -> None:
    with pytest.raises(InvalidRequest, match="accelerators.small .* at peak_flops: it has no peak of 16 or 32 bits"):
        parse_catalogue(OWN.replace("{ bf16 = 100.0 }", peaks), where="my.toml")


def test_what_is_no_toml_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"my\.toml"):
        parse_catalogue("[", where="my.toml")


def test_a_missing_unit_is_told_with_those_that_are_there(shipped: Catalogue) -> None:
    with pytest.raises(InvalidRequest, match="no peak for fp8.*bf16, fp16, fp32"):
        shipped.accelerators["a100-80"].peak_of("fp8")


def test_what_products_reach_is_a_share_of_the_peak(shipped: Catalogue) -> None:
    for device in shipped.accelerators.values():
        for precision, peak_flops in device.peak_flops.items():
            assert 0.3 * peak_flops < device.reached_flops(precision) < peak_flops


def test_the_example_of_the_page_is_one(shipped: Catalogue) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "catalogue.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    cluster = parse_catalogue(example, where="docs", over=shipped).cluster("rack")
    assert (cluster.devices, cluster.usd_per_hour) == (128, 16 * 14.5)
