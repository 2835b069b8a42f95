"""What the planner answers: the arithmetic of its rooms with the catalogue, the charter and own runs in hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.flows.planning import (
    AskedLayout,
    FailuresAsk,
    Ground,
    LayoutAsk,
    QuoteAsk,
    ServingAsk,
    SimulationAsk,
    Where,
    answer_failures,
    answer_layout,
    answer_quote,
    answer_serving,
    answer_simulation,
    asked,
)
from tandem.formats import write_tiny_gguf
from tandem.kit.errors import InvalidRequest, NotFound, TandemError
from tandem.plan import Interval, size_of
from tandem.plan.layout import rank_layouts
from tandem.plan.quote import Ask, quote
from tandem.plan.reliability import checkpoint_cost
from tandem.plan.simulation import DESIGNS
from tandem.plan.workshop import Factor
from tests.plan.published import catalogue
from tests.run_folders import recipe

HOST = "8xh100"
GROUND = Ground(catalogue=catalogue(), allowed=("a100-cloud", "h100-cloud"), factors={})
TWICE = Factor(system=HOST, ratio=Interval(1.9, 2.0, 2.1), runs=("run_1",))
TAUGHT = replace(GROUND, factors={HOST: TWICE})
PARENT = f"sha256:{'b' * 64}"


def no_file(digest: str) -> Path:
    raise AssertionError(f"{digest} is not needed")


def serving(**said: Any) -> ServingAsk:
    told: dict[str, Any] = {"requests_per_s": 1.0, "prompt_tokens": 100.0, "answer_tokens": 50.0, "hosts": 2}
    return ServingAsk(**{"system": "h100-cloud", **told, **said})


def test_who_names_no_system_gets_the_first_that_may_train() -> None:
    assert GROUND.cluster(Where()).name == "a100-cloud"
    named = GROUND.cluster(Where(system=HOST, hosts=3, price="8xh100-spot"))
    assert (named.name, named.hosts, named.usd_per_hour) == (HOST, 3, pytest.approx(3 * 7.2))
    with pytest.raises(NotFound, match=r"none of the catalogue's systems train.*catalogue.toml"):
        replace(GROUND, allowed=()).cluster(Where())
    assert replace(GROUND, allowed=()).cluster(Where(system=HOST)).hosts == 1, "plans may be made for any"


def test_own_runs_count_for_their_system_alone() -> None:
    assert TAUGHT.factor_ratio(HOST) == 2.0
    assert TAUGHT.factor_ratio("8xh200") == 1.0


def test_a_quote_is_the_rooms_own() -> None:
    ask = QuoteAsk(system=HOST, hosts=4, budget_usd=500.0)
    found = answer_quote(ask, GROUND)
    assert found == quote(Ask(budget_usd=500.0), GROUND.cluster(ask))
    assert answer_quote(ask, TAUGHT).flop == pytest.approx(found.flop / 2, rel=0.1), "own runs took twice as long"


@pytest.mark.parametrize(
    "said",
    [{}, {"budget_usd": 1.0, "devices": 8, "span_s": 1.0}, {"devices": 8}, {"span_s": 5.0, "budget_usd": 5.0}],
)
def test_an_ask_is_for_one_thing(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="exactly one of money"):
        asked(QuoteAsk(**said))


def test_an_ask_keeps_what_was_said() -> None:
    told = asked(QuoteAsk(target_loss_nats=2.5, law="chinchilla", precision="fp8", most_wall_s=60.0, system="x"))
    assert told == Ask(target_loss_nats=2.5, law="chinchilla", precision="fp8", most_wall_s=60.0)


def test_layouts_of_a_number_of_weights() -> None:
    answer = answer_layout(LayoutAsk(system=HOST, parameters=10**9, context=1024, keep=2), GROUND, file=no_file)
    assert answer.asked is None
    assert (answer.system, answer.hosts, answer.job.samples, answer.job.precision) == (HOST, 1, 256, "bf16")
    assert answer.job.model == size_of(10**9, context=1024)
    assert answer.ranking == rank_layouts(answer.job, GROUND.cluster(Where(system=HOST)), keep=2)
    slow = answer_layout(LayoutAsk(system=HOST, parameters=10**9, context=1024), TAUGHT, file=no_file)
    assert slow.ranking.best.step.total_s == pytest.approx(2 * answer.ranking.best.step.total_s, rel=0.01)


def test_a_layout_of_ones_own_is_looked_at() -> None:
    wanted = AskedLayout(data=4, tensor=2, recompute="full")
    answer = answer_layout(LayoutAsk(system=HOST, parameters=10**9, layout=wanted), GROUND, file=no_file)
    assert answer.asked is not None
    assert answer.asked.layout == wanted.layout
    assert answer.asked.step.total_s > answer.ranking.best.step.total_s


def test_layouts_of_a_recipe_are_of_its_batch_and_precision() -> None:
    ask = LayoutAsk(system=HOST, recipe=recipe(precision="fp32", batch={"samples": 16, "context": 64}))
    job = answer_layout(ask, GROUND, file=no_file).job
    assert (job.samples, job.precision, job.model.context, job.trained_parameters) == (16, "fp32", 64, None)
    other = LayoutAsk(system=HOST, recipe=ask.recipe, samples=32, precision="bf16")
    changed = answer_layout(other, GROUND, file=no_file).job
    assert (changed.samples, changed.precision) == (32, "bf16")


def test_an_adapter_trains_its_own_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "parent.gguf"
    write_tiny_gguf(path, seed=1)
    one = recipe(
        model={"parent": "starter@1", "parent_sha256": PARENT},
        adapter={"rank": 4},
        batch={"samples": 8, "context": 64},
    )
    job = answer_layout(LayoutAsk(system=HOST, recipe=one), GROUND, file=lambda _: path).job
    assert job.frozen
    assert job.trained < job.model.parameters / 2


@pytest.mark.parametrize("said", [{}, {"parameters": 10**9, "recipe": recipe()}])
def test_a_layout_is_of_one_model(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="Give one of both") as caught:
        answer_layout(LayoutAsk(system=HOST, **said), GROUND, file=no_file)
    assert caught.value.param == "recipe"


def test_failures_are_those_of_the_systems_row_unless_said() -> None:
    row = GROUND.catalogue.systems["h100-cloud"]
    known = answer_failures(FailuresAsk(system="h100-cloud", hosts=64, useful_s=1e6), GROUND)
    assert known.faults.nodes == 64
    assert known.faults.failures_per_1000_node_days == row.failures_per_1000_node_days
    assert (known.faults.restart_s, known.faults.checkpoint_s) == (row.restart_s, 30.0)
    assert known.simulated is None
    said = answer_failures(
        FailuresAsk(
            system="h100-cloud",
            hosts=64,
            useful_s=1e6,
            failures_per_1000_node_days=0.0,
            restart_s=0.0,
            checkpoint_s=5.0,
            measured=True,
        ),
        GROUND,
    )
    assert (said.faults.failures_per_1000_node_days, said.faults.restart_s) == (0.0, 0.0)
    assert said.closed.interruptions.mid == 0
    assert said.closed.wall_s.mid < known.closed.wall_s.mid


def test_longer_repairs_need_more_spares() -> None:
    short, long = (
        answer_failures(FailuresAsk(system=HOST, hosts=512, useful_s=1e6, repair_s=days * 86_400.0), GROUND).closed
        for days in (1, 14)
    )
    assert short.spare_nodes < long.spare_nodes


def test_a_save_takes_as_long_as_the_weights_do() -> None:
    ask = FailuresAsk(system=HOST, hosts=64, useful_s=1e6, parameters=405 * 10**9)
    answer = answer_failures(ask, GROUND)
    cost = checkpoint_cost(ask.parameters or 0, GROUND.cluster(ask))
    assert answer.faults.checkpoint_s == cost.save_s
    assert set(cost.derivation.steps) <= set(answer.derivation.steps)
    assert (
        answer_failures(
            FailuresAsk(system=HOST, useful_s=1e6, parameters=10**9, checkpoint_s=7.0), GROUND
        ).faults.checkpoint_s
        == 7.0
    ), "what is said goes before what is reckoned"


def test_runs_are_simulated_beside_the_closed_form() -> None:
    ask = FailuresAsk(system=HOST, hosts=512, useful_s=1e6, runs=300, seed=3)
    answer = answer_failures(ask, GROUND)
    assert answer.simulated is not None
    assert answer.simulated.wall_s.mid == pytest.approx(answer.closed.wall_s.mid, rel=0.02)
    assert answer_failures(ask, GROUND) == answer, "the same seed, the same answer"


def test_serving_a_number_of_weights_or_a_version() -> None:
    plan = answer_serving(serving(parameters=10**9), GROUND)
    assert plan.pace.replica.model == size_of(10**9, context=8192)
    known = size_of(3 * 10**9, context=4096)
    assert answer_serving(serving(version="coder@1"), GROUND, model=known).pace.replica.model == known
    with pytest.raises(InvalidRequest, match="Name a version or a number of weights"):
        answer_serving(serving(), GROUND)


def test_serving_hears_all_that_is_said() -> None:
    plain = answer_serving(serving(parameters=10**9, hosts=64), GROUND)
    for said in (
        {"requests_per_s": 3000.0},
        {"prompt_tokens": 4000.0},
        {"answer_tokens": 4000.0},
        {"peak_ratio": 50.0},
        {"cached_share": 0.9},
        {"growth_share": 0.5},
        {"first_token_s": 0.02},
        {"token_s": 0.004},
        {"weights": "q8_0"},
        {"cache": "fp8"},
        {"spare_hosts": 3},
    ):
        other = answer_serving(serving(**{"parameters": 10**9, "hosts": 64, **said}), GROUND)
        assert other != plain, said


@pytest.mark.parametrize("said", [{"hosts": 4}, {"price": "8xh100-spot"}])
def test_a_simulation_refuses_what_it_has_no_use_for(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="has no place in it") as refusal:
        answer_simulation(SimulationAsk(system="h100-cloud", sizes=(64,), runs=1, **said), GROUND)
    assert refusal.value.param == next(iter(said))


def test_simulations_are_of_the_designs_and_sizes_asked() -> None:
    ask = SimulationAsk(system=HOST, sizes=(512, 1024), designs=("plain", "elastic"), runs=1, span_s=86_400.0)
    swept = answer_simulation(ask, GROUND)
    assert [(one.design, one.devices) for one in swept.points] == [
        ("plain", 512),
        ("plain", 1024),
        ("elastic", 512),
        ("elastic", 1024),
    ]
    every = answer_simulation(SimulationAsk(system=HOST, sizes=(64,), runs=1, span_s=3600.0), GROUND)
    assert [one.design for one in every.points] == list(DESIGNS)
    calm = SimulationAsk(
        system=HOST, sizes=(1024,), designs=("plain",), runs=1, span_s=1e6, failures_per_1000_node_days=0.0
    )
    harsh = SimulationAsk(
        system=HOST, sizes=(1024,), designs=("plain",), runs=1, span_s=1e6, failures_per_1000_node_days=100.0
    )
    assert (
        answer_simulation(calm, GROUND).points[0].interruptions.mid
        < answer_simulation(harsh, GROUND).points[0].interruptions.mid
    )


@pytest.mark.parametrize(
    ("said", "problem", "kind"),
    [
        ({"designs": ("plain", "moon")}, "no design 'moon'. There are plain, ", InvalidRequest),
        ({"sizes": (2048, 1024)}, "rising sizes", InvalidRequest),
        ({"system": "moon"}, "no system or host 'moon'. It has", NotFound),
    ],
)
def test_a_simulation_that_cannot_be_is_refused(said: dict[str, Any], problem: str, kind: type[TandemError]) -> None:
    with pytest.raises(kind, match=problem):
        answer_simulation(SimulationAsk(**{"system": HOST, "runs": 1, **said}), GROUND)
