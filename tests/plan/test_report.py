"""The report of a plan: all of it is there, well formed, escaped, and needs nothing beside it."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import msgspec
import pytest

from tandem.kit.pages import percent, size, span
from tandem.plan import Cluster, Interval
from tandem.plan.layout import Job, rank_layouts
from tandem.plan.quote import Ask, Quote, quote
from tandem.plan.report import report
from tandem.plan.units import DAY_S, parameters_text, usd_text
from tandem.plan.workshop import Factor
from tests.pages import Checked
from tests.plan.published import catalogue

CLOUD = catalogue().cluster("8xh100", hosts=64)
SECTIONS = [
    "What would change it",
    "Memory of a device, by layout",
    "Instead",
    "How it was found",
    "What it rests on",
]
PLOTS = [
    "Loss against computing, nats a token",
    "Cost against time, US dollars",
    "Goodput against the checkpoint interval, %",
]


@cache
def planned() -> Quote:
    return quote(Ask(budget_usd=1e4), CLOUD)


def drawn(found: Quote, cluster: Cluster = CLOUD, factor: Factor | None = None) -> str:
    """The report, once it was seen to be whole and to stand alone."""
    page = report(found, cluster, factor=factor)
    checked = Checked(page)
    assert not {"script", "link", "img", "iframe"} & checked.tags
    for figure in figures(page):
        ET.fromstring(figure)
    assert not re.search(r"url\(|@import|https?://", page), "nothing is fetched"
    return page


def figures(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


@pytest.fixture(scope="module")
def page() -> str:
    return drawn(planned())


def test_all_sections_and_plots_are_there(page: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    assert re.findall(r'aria-label="(.*?)"', page) == PLOTS
    for figure in figures(page):
        assert 'class="line main"' in figure
        assert 'class="dots held"' in figure, "the plan itself has a dot"
    assert page.count("<div class=bar>") > 2


def test_a_loss_worse_than_guessing_is_not_shown_as_one() -> None:
    found = quote(Ask(devices=8, span_s=1.0), CLOUD)
    assert found.loss_nats.mid > found.guessing_nats
    text = Checked(drawn(found)).text
    assert "loss, nats a token" in text
    assert "not known" in text
    assert f"{found.loss_nats.mid:.3f} (" not in text


def test_the_numbers_are_the_plans(page: str) -> None:
    found, text = planned(), Checked(page).text
    for told in (
        f"{parameters_text(found.model.parameters)} weights on {parameters_text(found.tokens)} tokens",
        f"{found.loss_nats.mid:.3f} ({found.loss_nats.low:.3f} to {found.loss_nats.high:.3f})",
        f"{span(found.wall_s.mid)} ({span(found.wall_s.low)} to {span(found.wall_s.high)})",
        f"{usd_text(found.cost_usd.mid)} ({usd_text(found.cost_usd.low)} to",
        f"{found.devices:,}",
        percent(found.layout.step.mfu_share),
        span(found.checkpoint_every_s),
        found.layout.layout.words,
    ):
        assert told in text
    for way in found.alternatives:
        assert way.name in text
        assert way.why in text
    for step in found.derivation.steps:
        assert step.formula in text
        assert step.value in text
    for told in (*found.derivation.rows, *found.derivation.conventions, *found.derivation.warnings):
        assert told in text


def test_the_loss_of_each_law_is_drawn_and_the_asked_one_stands_out(page: str) -> None:
    assert "best by epoch" in figures_caption(page, 0)
    assert "best by chinchilla" in figures_caption(page, 0)
    main = re.search(r'key main">best by (\w+)<', page)
    assert main is not None
    assert main[1] == "epoch"
    other = report(quote(Ask(devices=8, span_s=DAY_S, law="chinchilla"), CLOUD), CLOUD)
    assert 'key main">best by chinchilla<' in other


def test_computing_goes_by_powers_of_ten_as_far_to_both_sides_of_the_plan(page: str) -> None:
    dot = re.search(r'<g class="dots held"><circle cx="([\d.]+)"', figures(page)[0])
    assert dot is not None
    assert float(dot[1]) == pytest.approx(240, abs=0.1), "the middle of the frame"


def figures_caption(page: str, place: int) -> str:
    return re.findall(r"<figcaption>(.*?)</figcaption>", page)[place]


def test_bars_are_the_memory_of_the_layouts_that_would_do(page: str) -> None:
    found = planned()
    job = Job(model=found.model, samples=found.samples)
    ranking = rank_layouts(job, CLOUD.of_hosts(found.hosts), keep=8)
    every = (ranking.best, *ranking.others)
    assert page.count("<div class=bar>") == len(every)
    for one, bar in zip(every, re.findall(r"<div class=bar>(.*?)</div>", page), strict=True):
        assert f"{one.layout.words}: {size(one.memory.total_bytes)} of" in page
        shares = dict(re.findall(r'class="(\w+)" style="flex:([\d.]+)"', bar))
        assert float(shares["weights"]) == pytest.approx(one.memory.weights_bytes / one.memory.device_bytes, abs=1e-4)
        assert sum(map(float, shares.values())) == pytest.approx(1.0, abs=1e-3)


def test_own_runs_move_the_cost_plot_and_the_layouts() -> None:
    factor = Factor(system="8xh100", ratio=Interval(1.8, 2.0, 2.2), runs=("run_1",))
    found = quote(Ask(devices=8, span_s=DAY_S), CLOUD, factors={"8xh100": factor})
    slow, untaught = drawn(found, factor=factor), drawn(found)
    step = span(found.layout.step.total_s)
    assert f"{step} a step" in slow
    assert f"{step} a step" not in untaught


def test_without_a_price_device_hours_take_its_place() -> None:
    free = replace(CLOUD, price=None)
    page = drawn(quote(Ask(devices=16, span_s=DAY_S), free), free)
    assert re.findall(r'aria-label="(.*?)"', page)[1] == "Device hours against time"
    assert "<dd>not known</dd>" in page
    assert "the cost is not known, and shown as 0" in page


def test_texts_of_the_catalogue_are_text() -> None:
    evil = "<script>alert(1)</script> & co"
    accelerator = msgspec.structs.replace(CLOUD.accelerator, source=evil)
    cluster = replace(CLOUD, accelerator=accelerator, name="a<b>")
    page = drawn(quote(Ask(devices=8, span_s=DAY_S), cluster), cluster)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    assert "a&lt;b&gt;" in page


def test_a_plan_of_one_short_run_on_one_host_has_a_report() -> None:
    cluster = catalogue().cluster("8xh100", hosts=1)
    found = quote(Ask(devices=8, span_s=60.0), cluster)
    page = drawn(found, cluster)
    assert re.findall(r'aria-label="(.*?)"', page) == PLOTS
    assert 'class="dots main"' in figures(page)[1], "one number of hosts alone is a dot"
    alone = drawn(replace(found, alternatives=()), cluster)
    assert re.findall(r"<h2>(.*?)</h2>", alone) == [one for one in SECTIONS if one != "Instead"]
