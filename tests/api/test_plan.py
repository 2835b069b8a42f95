"""/api/v1/plan: the same answers as in Python and on the command line, as the document says, or a clear refusal."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from tandem.cli.app import app
from tandem.flows import against, calibration, funding_of, ground_of
from tandem.flows.planning import (
    FailuresAsk,
    FundingAsk,
    LayoutAsk,
    QuoteAsk,
    ServingAsk,
    SimulationAsk,
    SystemsAsk,
    answer_failures,
    answer_layout,
    answer_quote,
    answer_serving,
    answer_simulation,
    answer_systems,
    rules_of,
    size_of_version,
)
from tandem.formats import write_tiny_gguf
from tandem.plan.plain import plain
from tandem.server import House
from tests.api.conftest import Keys
from tests.api.test_openapi import DOCUMENT, check
from tests.flows.planning.runs import write_measured
from tests.run_folders import recipe
from tests.serving import Reply, Served, pulled

RECIPE = json.loads(msgspec.json.encode(recipe()))
BODIES: dict[str, dict[str, Any]] = {
    "quote": {"system": "8xh100", "budget_usd": 200},
    "layout": {"system": "8xh100", "parameters": 8_000_000_000, "keep": 2},
    "failures": {"system": "h100-cloud", "useful_s": 1e6, "runs": 20, "seed": 3},
    "serving": {
        "system": "h100-cloud",
        "parameters": 8_000_000_000,
        "requests_per_s": 3,
        "prompt_tokens": 500,
        "answer_tokens": 200,
        "growth_share": 0.1,
    },
    "systems": {"systems": ["8xh100", "8xa100-80"], "budget_usd": 100, "more_usd": 100},
    "funding": {
        "month": "2027-01",
        "tranches": [{"name": "first", "amount_usd": 1000, "month": "2027-01", "paid": True}],
        "planned": [{"stage": "train", "month": "2027-02", "amount_usd": 2000}],
    },
    "simulation": {"system": "8xh100", "sizes": [512], "designs": ["plain"], "runs": 1, "span_s": 86_400},
    "run": {"recipe": RECIPE},
}
RUNS = [f"run_{number:04}" for number in range(1, 4)]


@pytest.fixture(scope="module")
def house(fake: Served) -> House:
    """The house, with three runs that measured this machine."""
    for run_id in RUNS:
        write_measured(fake.house.settings.home, run_id)
    fake.house.runs.reindex()
    for run_id in RUNS:
        against(run_id, house=fake.house)
    return fake.house


def asked(fake: Served, keys: Keys, name: str, **changes: Any) -> Reply:
    return fake.request("POST", f"/api/v1/plan/{name}", {**BODIES.get(name, {}), **changes}, key=keys.admin)


def answered(fake: Served, keys: Keys, name: str, **changes: Any) -> Any:
    """An answer that is as the document says."""
    reply = asked(fake, keys, name, **changes)
    assert reply.status == 200, reply.body
    operation = DOCUMENT["paths"][f"/api/v1/plan/{name}"]["post"]
    check({**BODIES[name], **changes}, operation["requestBody"]["content"]["application/json"]["schema"])
    check(reply.json, operation["responses"]["200"]["content"]["application/json"]["schema"])
    return reply.json


def looked(fake: Served, keys: Keys, name: str) -> Any:
    reply = fake.request("GET", f"/api/v1/plan/{name}", key=keys.admin)
    assert reply.status == 200, reply.body
    return reply.json


def wire(answer: object) -> Any:
    return json.loads(json.dumps(plain(answer), allow_nan=False))


def in_python(name: str, house: House) -> object:
    """What the functions behind a route make of its body."""
    ground, told = ground_of(house), BODIES[name]
    match name:
        case "quote":
            return answer_quote(msgspec.convert(told, QuoteAsk), ground)
        case "layout":
            return answer_layout(msgspec.convert(told, LayoutAsk), ground, file=house.registry.file)
        case "failures":
            return answer_failures(msgspec.convert(told, FailuresAsk), ground)
        case "serving":
            return answer_serving(msgspec.convert(told, ServingAsk), ground)
        case "systems":
            rules = rules_of(house.charters, house.runs)
            return answer_systems(msgspec.convert(told, SystemsAsk), ground, rules=rules)
        case "funding":
            return funding_of(msgspec.convert(told, FundingAsk), house=house)
        case _:
            return answer_simulation(msgspec.convert(told, SimulationAsk), ground)


def test_a_recipe_that_begins_from_a_version_is_laid_out(
    fake: Served, keys: Keys, house: House, tmp_path: Path
) -> None:
    path = tmp_path / "parent.gguf"
    write_tiny_gguf(path, seed=1)
    pulled(house, "parent", path)
    body = {"system": "8xh100", "recipe": {**RECIPE, "model": {"parent": "parent"}}, "samples": 8}
    reply = fake.request("POST", "/api/v1/plan/layout", body, key=keys.admin)
    assert reply.status == 200, reply.body
    assert reply.json["job"]["model"]["width"] == 64


@pytest.mark.parametrize("name", [name for name in BODIES if name != "run"])
def test_an_answer_is_that_of_the_functions(fake: Served, keys: Keys, house: House, name: str) -> None:
    assert answered(fake, keys, name) == wire(in_python(name, house))


COMMANDS = {
    "quote": "--budget 200 --system 8xh100",
    "layout": "layout --parameters 8B --system 8xh100 --keep 2",
    "failures": "failures 1000000s --system h100-cloud --runs 20 --seed 3",
    "serving": "serving 8B --requests 3 --prompt 500 --answer 200 --growth 0.1 --system h100-cloud",
    "systems": "systems --system 8xh100 --system 8xa100-80 --budget 100 --more 100",
    "funding": "funding {file}",
    "simulation": "simulate --system 8xh100 --devices 512 --design plain --runs 1 --lasting 1d",
    "run": "run {file}",
}


@pytest.mark.parametrize("name", BODIES)
def test_an_answer_is_that_of_the_command_line(
    fake: Served, keys: Keys, house: House, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "body.toml"
    file.write_bytes(msgspec.toml.encode(BODIES[name].get("recipe", BODIES[name])))
    monkeypatch.setenv("TANDEM_HOME", str(house.settings.home))
    words = ["plan", *COMMANDS[name].format(file=file).split(), "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == answered(fake, keys, name)


def test_a_version_is_as_large_as_its_file(fake: Served, keys: Keys, house: House) -> None:
    small = {"prompt_tokens": 20, "answer_tokens": 10, "context": 64}
    found = answered(fake, keys, "serving", version="tiny@1", parameters=None, **small)
    size = size_of_version(house, "tiny@1", context=64)
    assert found["pace"]["replica"]["model"] == wire(size)
    lost = asked(fake, keys, "serving", version="nobody@1")
    assert (lost.status, "nobody@1" in lost.json["error"]["message"]) == (404, True)


def test_this_machine_is_planned_by_its_own_runs(fake: Served, keys: Keys, house: House) -> None:
    found = answered(fake, keys, "quote", system="local", budget_usd=None, devices=1, span_s=3600)
    assert found["devices"] == 1
    assert found["wall_s"]["mid"] == pytest.approx(3600, rel=0.01)
    assert found["cost_usd"]["mid"] == 0
    assert found["model"]["parameters"] > found["model"]["width"]


def test_a_layout_of_ones_own(fake: Served, keys: Keys) -> None:
    found = answered(fake, keys, "layout", layout={"data": 8, "recompute": "full"})
    assert found["asked"]["layout"]["data"] == 8
    of_recipe = answered(fake, keys, "layout", parameters=None, recipe=RECIPE, samples=8)
    assert of_recipe["job"]["samples"] == 8


def test_a_run_beside_its_plan_and_what_runs_taught(fake: Served, keys: Keys, house: House) -> None:
    assert looked(fake, keys, "run/run_0002") == wire(against("run_0002", house=house))
    assert looked(fake, keys, "factors") == {"factors": wire(calibration(house))}
    assert looked(fake, keys, "factors")["factors"]["local"]["runs"] == RUNS
    lost = fake.request("GET", "/api/v1/plan/run/nothing", key=keys.admin)
    assert (lost.status, lost.json["error"]["remedy"]) == (404, "`tandem runs list` shows what runs there are.")


def test_the_catalogue_is_for_all_who_have_a_key(fake: Served, keys: Keys, house: House) -> None:
    mine = fake.request("GET", "/api/v1/plan/catalogue", key=keys.user).json
    assert mine == looked(fake, keys, "catalogue")
    rows = ground_of(house)
    assert mine["allowed"] == list(rows.allowed)
    assert mine["prices"] == wire(dict(rows.catalogue.prices))
    assert mine["systems"]["h100-cloud"]["hosts"] == 4096


def test_nothing_is_infinite_at_the_ends_of_what_may_be_asked(fake: Served, keys: Keys) -> None:
    answered(fake, keys, "failures", failures_per_1000_node_days=0, measured=True)
    answered(fake, keys, "serving", growth_share=0)
    answered(fake, keys, "simulation", failures_per_1000_node_days=0, span_s=1)
    answered(fake, keys, "systems", systems=["8xh100"], budget_usd=1e-9, more_usd=None)


@pytest.mark.parametrize(
    ("name", "changes", "status", "param", "message"),
    [
        ("quote", {"budget_usd": -1}, 400, "budget_usd", "> 0.0"),
        ("quote", {"devices": 8, "span_s": 1}, 400, None, "exactly one of money"),
        ("quote", {"budget_usd": None, "devices": 7, "span_s": 60}, 400, "devices", "Ask for 8 devices"),
        ("quote", {"budget_usd": None, "target_loss_nats": 0.1}, 400, "target_loss_nats", "never falls under"),
        ("quote", {"bugdet": 1}, 400, "bugdet", "unknown field"),
        ("quote", {"law": "moon"}, 404, None, "epoch, chinchilla"),
        ("quote", {"precision": "fp4"}, 400, "precision", "has no peak for fp4"),
        ("quote", {"system": "moon"}, 404, None, "It has h100-cloud"),
        ("quote", {"system": "local", "hosts": 2, "budget_usd": None, "target_loss_nats": 6}, 400, "hosts", "one host"),
        ("quote", {"system": "h100-cloud", "hosts": 5000}, 400, "hosts", "1 to 4096"),
        ("layout", {"parameters": None}, 400, "recipe", "Give one of both"),
        ("layout", {"layout": {"tensor": 3}}, 400, "tensor", "Use tensor = 2"),
        ("layout", {"layout": {"tensro": 2}}, 400, "layout.tensro", "unknown field"),
        ("layout", {"recipe": {"name": "x"}}, 400, "recipe.model", "missing required field"),
        ("layout", {"parameters": 2 * 10**12}, 400, "devices", "does not fit"),
        ("failures", {"useful_s": 0}, 400, "useful_s", "> 0.0"),
        ("failures", {"interval_s": 1e9}, 400, "nodes", "never finishes"),
        ("failures", {"seed": 0.5}, 400, "seed", "int"),
        ("serving", {"requests_per_s": "many"}, 400, "requests_per_s", "float"),
        ("serving", {"hosts": 1}, 400, "hosts", "need 2 hosts"),
        ("serving", {"prompt_tokens": 9000}, 400, "traffic", "Plan for 8192 tokens"),
        ("systems", {"system": "8xh100"}, 400, "systems", "Give `systems`"),
        ("systems", {"more_usd": 1, "budget_usd": None, "devices": 8, "span_s": 60}, 400, "more_usd", "on top of"),
        ("systems", {"systems": ["moon"]}, 404, None, "It has h100-cloud"),
        ("funding", {"tranches": [{"name": "a"}]}, 400, "tranches.0.amount_usd", "missing required field"),
        ("funding", {"month": "January"}, 400, "month", "regex"),
        ("funding", {"returned_usd": {"zoe": 1}}, 400, "returned_usd", "has no claim"),
        ("simulation", {"designs": ["moon"]}, 400, "designs", "There are plain, "),
        ("simulation", {"sizes": [512, 256]}, 400, "sizes", "rising sizes"),
        ("run", {"recipe": None}, 400, "recipe", "object"),
        ("run", {"recipe": {**RECIPE, "budget": {"epochs": 2.0}}}, 400, "budget.epochs", "counts epochs"),
        ("run", {"placement": {"system": "moon"}}, 400, "system", "No run has measured the system moon"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    fake: Served,
    keys: Keys,
    house: House,
    name: str,
    changes: dict[str, Any],
    status: int,
    param: str | None,
    message: str,
) -> None:
    reply = asked(fake, keys, name, **changes)
    fault = reply.json["error"]
    assert (reply.status, fault["param"]) == (status, param), reply.body
    assert message in f"{fault['message']} {fault['remedy']}"
    assert fault["remedy"], "it says what to do"
    check(reply.json, {"$ref": "#/components/schemas/ErrorAnswer"})
    assert str(status) in DOCUMENT["paths"][f"/api/v1/plan/{name}"]["post"]["responses"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"budget_usd": NaN}', b'{"budget_usd": 1e999}', b"{" * 5000])
def test_a_body_that_is_none_is_refused(fake: Served, keys: Keys, body: bytes) -> None:
    reply = fake.request("POST", "/api/v1/plan/quote", body, key=keys.admin)
    assert reply.status == 400
    assert reply.json["error"]["remedy"] == "GET /api/v1/docs lists its fields and what they take."


def test_plans_are_for_admins_and_nobody_without_a_key(fake: Served, keys: Keys) -> None:
    routes = [("POST", name) for name in BODIES] + [("GET", name) for name in ("run/run_0001", "factors", "catalogue")]
    for method, name in routes:
        path = f"/api/v1/plan/{name}"
        assert fake.request(method, path, BODIES.get(name), key="").status == 401
        expected = 200 if name == "catalogue" else 403
        assert fake.request(method, path, BODIES.get(name), key=keys.user).status == expected, path
