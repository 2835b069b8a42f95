"""Durable flows: they go on at the right step, say why they wait, and end cleanly."""

import asyncio
import fcntl
import re
import sqlite3
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tandem.compute.systems import Fake
from tandem.compute.systems.processes import marked
from tandem.flows import (
    Flow,
    FlowState,
    Hands,
    Order,
    StepState,
    cancel_flow,
    executing,
    executor_role,
    go_on_with_flows,
    has_flows,
    is_executed,
    parse_order,
    stop,
)
from tandem.flows.durable.database import flows_url
from tandem.flows.durable.flow import made_at, run_id
from tandem.kit.config import load_settings
from tandem.kit.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from tandem.kit.ids import new_id
from tandem.registry import Signer
from tandem.serve import DeployOptions, Plan, RolloutState
from tandem.server import House
from tandem.spec import AttemptFolder, RunState
from tests.compute.stand_ins import MANY, hurry
from tests.conftest import FreshUrl
from tests.flows.stand_ins import METRICS, followed, hands, noted, opened, ordered, sign, without_reports
from tests.serving import pulled, tiny_model, wait_until

SHIPPED = ["prepare", "train", "evaluate", "request", "signatures", "deploy"]


@pytest.fixture
def house(home: Path, migrated_sqlite: Path) -> Iterator[House]:
    """A house with a charter of one person."""
    house = opened(home, migrated_sqlite)
    with without_reports():
        yield house
    for attempt in (home / "runs").glob("*/attempts/*"):
        _async(Fake().stop(AttemptFolder(attempt), grace_s=0))
    house.flows.close()
    house.db.close()


@contextmanager
def executor(house: House, doing: Hands | None = None, *, only: str = "") -> Iterator[None]:
    with executor_role(house.settings), executing(house, house.flows, hands=doing or hands(house), only=only):
        yield


def shipping(house: House, **changes: object) -> Flow:
    return house.flows.start("ship", ordered(**{"plan": None, **changes}), by="ada")


def over(flow: Flow) -> bool:
    return flow.state.over


def waits(flow: Flow) -> bool:
    return flow.state is FlowState.WAITING


def steps(flow: Flow) -> dict[str, StepState]:
    return {step.name: step.state for step in flow.steps}


def trains(flow: Flow) -> bool:
    return flow.why.startswith(("trains on fake: step", "waits for the training on fake"))


def steps_taken(flow: Flow) -> bool:
    return re.search(r"step [1-9]\d* of", flow.why) is not None


def test_nothing_is_made_before_the_first_flow(house: House) -> None:
    assert house.flows.page() == []
    with pytest.raises(NotFound, match="no flow 'flow_1'"):
        house.flows.get("flow_1")
    assert not has_flows(house.settings)
    assert not is_executed(house.settings)


def test_a_recipe_is_shipped(house: House) -> None:
    flow = shipping(house)
    assert (flow.state, flow.story, flow.by, flow.tries) == (FlowState.QUEUED, "ship", "ada", 1)
    assert "`tandem up`" in flow.why
    with executor(house):
        assert is_executed(house.settings)
        waiting = followed(house, flow.id, waits)
        assert waiting.why == "waits for a signature of tests"
        assert steps(waiting) == dict.fromkeys(SHIPPED[:4], StepState.DONE) | {
            "signatures": StepState.CURRENT,
            "deploy": StepState.AHEAD,
        }
        assert house.flows.page(state=FlowState.WAITING) == [house.flows.page()[0]]
        assert house.flows.page(state=FlowState.RUNNING) == []
        sign(house, waiting)
        done = followed(house, flow.id, over)
    assert (done.state, done.why) == (FlowState.SUCCEEDED, "")
    assert steps(done) == dict.fromkeys(SHIPPED, StepState.DONE)
    assert all(step.began_at and step.ended_at and step.began_at <= step.ended_at for step in done.steps)
    assert done.facts["run"] == run_id(flow.id, 1)
    assert done.facts["version"] == "coder@1"
    assert set(done.facts["evidence"]) == {"quality-code", "regression"}
    assert house.deployments.get("code").version == "coder@1"
    assert noted(house) == ["prepared", "measured quality-code", "measured regression"]


def test_a_waiting_flow_is_left_to_the_next_executor(house: House) -> None:
    flow = shipping(house)
    with executor(house):
        followed(house, flow.id, waits)
    left = house.flows.get(flow.id)
    assert (left.state, left.why) == (FlowState.WAITING, "waits for a signature of tests")
    with executor(house):
        sign(house, followed(house, flow.id, waits))
        assert followed(house, flow.id, over).state is FlowState.SUCCEEDED
    assert len(noted(house)) == 3, "what was done is not done again"


def test_a_run_outlives_the_executor_and_is_adopted(house: House) -> None:
    flow = shipping(house)
    with executor(house, hands(house, step_s=0.3, steps=MANY)):
        followed(house, flow.id, steps_taken)
    attempt = house.runs.folder(run_id(flow.id, 1)).attempt(1)
    assert marked(attempt), "it goes on without an executor"
    hurry(attempt)
    left = house.flows.get(flow.id)
    assert (left.state, left.step) == (FlowState.QUEUED, "train")
    with executor(house):
        followed(house, flow.id, lambda one: one.step == "signatures")
    run = house.runs.read(run_id(flow.id, 1))
    assert (run.state, run.attempt, run.restarts) == (RunState.SUCCEEDED, 1, 0)
    assert [one.run_id for one in house.runs.newest()] == [run.run_id]


def test_a_paused_run_is_waited_for(house: House) -> None:
    flow = house.flows.start("train", msgspec.structs.replace(ordered(), name="", engine="llamacpp", plan=None), by="a")
    with executor(house, hands(house, step_s=0.2, steps=MANY)):
        followed(house, flow.id, steps_taken)
        _async(stop(run_id(flow.id, 1), house=house))
        waiting = followed(house, flow.id, waits)
        assert f"paused run (user): `tandem runs resume {run_id(flow.id, 1)}`" in waiting.why
    with executor(house):
        assert followed(house, flow.id, waits).why == waiting.why, "nobody wanted it to go on"
        cancel_flow(house, flow.id)
        house.flows.retry(flow.id)
        done = followed(house, flow.id, over)
    assert (done.state, done.tries, done.facts["run"]) == (FlowState.SUCCEEDED, 2, run_id(flow.id, 1))
    assert len(house.runs.newest()) == 1, "the same run went on"


def test_who_cancels_pauses_the_run(house: House) -> None:
    flow = shipping(house)
    with executor(house, hands(house, step_s=0.3, steps=MANY)):
        followed(house, flow.id, steps_taken)
        assert cancel_flow(house, flow.id).state is FlowState.CANCELLED
        wait_until(lambda: house.runs.read(run_id(flow.id, 1)).state is RunState.PAUSED)
        with pytest.raises(Conflict, match="is cancelled"):
            cancel_flow(house, flow.id)
    assert not _left(house, run_id(flow.id, 1))
    assert house.flows.get(flow.id).state is FlowState.CANCELLED


def test_what_failed_is_retried_at_its_step_with_a_new_run(house: House) -> None:
    flow = shipping(house)
    with executor(house, hands(house, step_s=0.2, steps=MANY)):
        followed(house, flow.id, steps_taken)
        _async(stop(run_id(flow.id, 1), house=house, cancel=True))
        failed = followed(house, flow.id, over)
        assert failed.state is FlowState.FAILED
        assert failed.why.startswith(f"Run {run_id(flow.id, 1)} cancelled: cancel.")
        assert steps(failed)["train"] is StepState.FAILED
    assert house.flows.retry(flow.id).state is FlowState.QUEUED
    with executor(house):
        again = followed(house, flow.id, waits)
    assert again.facts["run"] == run_id(flow.id, 2)
    assert noted(house).count("prepared") == 1
    assert [one.state for one in house.runs.newest()] == [RunState.SUCCEEDED, RunState.CANCELLED]


def test_a_refused_release_is_requested_again(house: House) -> None:
    flow = shipping(house)
    with executor(house):
        waiting = followed(house, flow.id, waits)
        signer = Signer(name="ada", party="tests", key=house.members.key("ada"))
        house.releases.refuse(waiting.facts["release"], reason="Not on a Friday.", signer=signer)
        failed = followed(house, flow.id, over)
        assert "refused it: Not on a Friday." in failed.why
        house.flows.retry(flow.id)
        again = followed(house, flow.id, waits)
        assert again.facts["release"] != waiting.facts["release"]
        sign(house, again)
        assert followed(house, flow.id, over).state is FlowState.SUCCEEDED
    with pytest.raises(Conflict, match="is succeeded"):
        house.flows.retry(flow.id)


def test_the_gate_says_which_clauses_it_wants(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "quality-code", {"edit_similarity_gain": -0.2, "edit_similarity": 0.5})
    flow = shipping(house)
    with executor(house):
        waiting = followed(house, flow.id, waits)
        assert waiting.step == "request"
        assert "the gate refuses: " in waiting.why
        assert "edit_similarity_gain" in waiting.why
        cancel_flow(house, flow.id)
    assert house.releases.page() == []


def test_a_rollout_is_waited_for_and_goes_back_with_its_flow(house: House, tmp_path: Path) -> None:
    base = pulled(house, "base", tiny_model(tmp_path, "base"))
    asked = house.releases.request(base.ref, by="ada")
    house.releases.sign(asked.digest, [house.members.key("ada")])
    house.deployments.bind("code", version=base, options=DeployOptions(), engine="fake")
    flow = shipping(house, plan=Plan())
    with executor(house):
        sign(house, followed(house, flow.id, waits))
        waiting = followed(house, flow.id, lambda one: one.step == "rollout" and waits(one))
        assert waiting.why == "rollout: 5 % coder@1"
        cancel_flow(house, flow.id)
        rollout = house.rollouts.get(waiting.facts["rollout"])
        assert (rollout.state, rollout.reason) == (RolloutState.ROLLED_BACK, f"Flow {flow.id} was cancelled.")
        house.flows.retry(flow.id)
        second = followed(house, flow.id, lambda one: one.step == "rollout" and waits(one))
        assert second.facts["rollout"] != rollout.id
        house.rollouts.roll_back(house.rollouts.get(second.facts["rollout"]), "Too slow.")
        assert "was rolled back: Too slow." in followed(house, flow.id, over).why
        house.flows.retry(flow.id)
        again = followed(house, flow.id, lambda one: one.step == "rollout" and waits(one))
        house.rollouts.promote(house.rollouts.get(again.facts["rollout"]), "Enough.")
        assert followed(house, flow.id, over).state is FlowState.SUCCEEDED
    assert house.deployments.get("code").version == "coder@1"


def test_one_thing_of_a_kind_at_a_time(house: House) -> None:
    first, second = shipping(house), shipping(house, again=True)
    with executor(house, hands(house, step_s=0.3, steps=MANY)):
        words = [followed(house, flow.id, trains) for flow in (first, second)]
        both = sorted(one.why.split(":")[0] for one in words)
        assert both == ["trains on fake", "waits for the training on fake of another flow"]


def test_a_command_executes_its_own_flow_only(house: House) -> None:
    others, own = shipping(house), shipping(house)
    with executor(house, only=own.id):
        followed(house, own.id, waits)
    assert house.flows.get(others.id).state is FlowState.QUEUED
    with executor(house):
        assert followed(house, others.id, waits).step == "signatures"


def test_there_is_one_executor_at_a_time(house: House) -> None:
    with executor_role(house.settings):
        with pytest.raises(Conflict, match="Another process"), executor_role(house.settings):
            pass
        assert is_executed(house.settings)
    assert not is_executed(house.settings)


def test_two_may_ask_at_once_whether_flows_are_executed(house: House) -> None:
    with (house.settings.home / "flows.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as another one holds it who asks
        assert not is_executed(house.settings)


def test_who_goes_on_with_flows_waits_for_the_first_one(house: House) -> None:
    stopping = threading.Event()
    named = {"stopping": stopping, "hands": hands(house)}
    going = threading.Thread(target=go_on_with_flows, args=(house, house.flows), kwargs=named)
    going.start()
    try:
        flow = shipping(house)
        followed(house, flow.id, waits)
    finally:
        stopping.set()
        going.join()
    assert not is_executed(house.settings)


def test_pages_follow_each_other(house: House) -> None:
    order = Order(model="coder@1")
    made = [house.flows.start("release", order, by="ada").id for _ in range(5)]
    first = house.flows.page(limit=2)
    rest = house.flows.page(after=first[-1].id)
    assert [one.id for one in first + rest] == made[::-1]
    assert house.flows.page(after="flow_none") == []
    assert house.flows.get(made[0]).id == made[0]
    with pytest.raises(InvalidRequest, match="Several flows begin"):
        house.flows.get("flow_")


@pytest.mark.parametrize(
    ("story", "order", "message"),
    [
        ("fly", Order(), "no story 'fly'"),
        ("train", Order(), "train needs recipe"),
        ("deploy", Order(model="a@1"), "deploy needs name"),
        ("release", Order(model="a@1", name="code"), "release has no use for name"),
        ("ship", Order(name="code"), "either a recipe to train or a model"),
        ("ship", ordered(model="a@1"), "either a recipe to train or a model"),
        ("deploy", Order(model="a@1", name="no name"), "cannot name a deployment"),
        ("deploy", Order(model="a@1", name="code", options=DeployOptions(parallel=0)), "parallel is 0"),
        ("deploy", Order(model="a@1", name="code", plan=Plan(steps=(50, 5))), "The steps are 50, 5"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(house: House, story: str, order: Order, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        house.flows.start(story, order, by="ada")
    assert not has_flows(house.settings)


def test_an_order_is_read_from_json() -> None:
    order = ordered()
    assert parse_order(msgspec.to_builtins(order)) == order
    with pytest.raises(InvalidRequest, match="speed"):
        parse_order({"speed": 1})


def test_the_id_of_a_run_is_the_same_after_a_kill() -> None:
    flow = new_id("flow")
    assert run_id(flow, 1) == run_id(flow, 1) != run_id(flow, 2)
    assert len(run_id(flow, 1)) == len(new_id("run"))
    assert run_id(flow, 1) < new_id("run")[:16] + "g"
    assert made_at("flow_" + "0" * 11 + "f" + "0" * 20) == 15


def test_a_damaged_record_is_said_to_be_so(house: House) -> None:
    (house.settings.home / "flows.db").write_bytes(b"nothing" * 1000)
    with pytest.raises(IntegrityError, match=r"flows.db in the home folder is damaged"):
        house.flows.page()
    with executor_role(house.settings), pytest.raises(IntegrityError), executing(house, house.flows):
        pass


def test_orders_and_facts_are_json_and_never_pickles(house: House) -> None:
    flow = shipping(house)
    with executor(house):
        followed(house, flow.id, waits)
    house.flows.close()
    path = flows_url(house.settings).removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT output, serialization FROM operation_outputs").fetchall()
        inputs = connection.execute("SELECT inputs FROM workflow_input").fetchall()
    connection.close()
    assert len(rows) == 4
    assert {serialization for _, serialization in rows} == {"portable_json"}
    for text in (output for output, _ in rows):
        assert isinstance(msgspec.json.decode(text), dict)
    assert msgspec.json.decode(inputs[0][0])["positionalArgs"][0] == "ship"


@pytest.mark.postgres
def test_on_postgresql_flows_live_in_a_schema_of_their_own(home: Path, fresh_postgres: FreshUrl) -> None:
    with fresh_postgres() as url:
        house = opened(home, database_url=url)
        elsewhere = load_settings({}, home=home.parent, database_url=url)
        try:
            assert not has_flows(house.settings)
            assert house.flows.page() == []
            with without_reports():
                flow = shipping(house)
                assert has_flows(house.settings)
                with executor(house):
                    assert is_executed(elsewhere), "for all homes of the database"
                    with pytest.raises(Conflict, match="Another process"), executor_role(elsewhere):
                        pass
                    sign(house, followed(house, flow.id, waits))
                    assert followed(house, flow.id, over).state is FlowState.SUCCEEDED
            assert not is_executed(elsewhere)
            assert [one.id for one in house.flows.page()] == [flow.id]
            assert house.flows.page(after="a\0b") == [], "which PostgreSQL would not even compare"
            with pytest.raises(NotFound, match="There is no flow"):
                house.flows.get("a\0b")
        finally:
            house.flows.close()
            house.db.close()


def _async(work: Coroutine[Any, Any, object]) -> None:
    asyncio.run(work)


def _left(house: House, run: str) -> list[int]:
    attempts = (house.runs.folder(run).path / "attempts").iterdir()
    return [pid for path in attempts for pid in marked(AttemptFolder(path))]
