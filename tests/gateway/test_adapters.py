"""What clients notice of versions that share a base: each answers as itself, and none as what is not released."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tandem.kit.config import Settings
from tandem.serve import DeployOptions
from tandem.server import House
from tandem.spec import Version
from tests.adapters import add_adapter, write_tiny_adapter
from tests.gateway.test_rollouts import CHAT, OPTIONS, QUICK, Shop, crowd
from tests.serving import pulled, released, running, tiny_model, wait_until, withdrawn

ASK = {"messages": CHAT["messages"]}


class Unhurried:
    """Faults of an engine that has a minute of words to say, or as fast as it can once `delay` is 0."""

    fail = hang = tool = False
    drop = malformed = -1
    tokens = 1500
    delay = 0.04


@contextmanager
def shop(folder: Path, settings: Settings, *, engine: str = "fake") -> Iterator[Shop]:
    """`base@1` and its adapters `tiny@1` to `tiny@4`, all but the last one released; `chat` is `tiny@1`."""
    house = House.open(settings)
    path = tiny_model(folder, "base")
    base = pulled(house, "base", path)
    adapters = [
        add_adapter(house.registry, write_tiny_adapter(folder / f"adapter{n}.gguf", path, seed=n), base)
        for n in range(4)
    ]
    releases = {version.ref: released(house, version) for version in (base, *adapters[:3])}
    options = DeployOptions(**OPTIONS)
    house.deployments.bind("chat", version=adapters[0], options=options, engine=engine)
    house.deployments.bind("plain", version=base, options=options, engine=engine)
    with running(house) as served:
        yield Shop(served, releases, engine)


@pytest.fixture
def fakes(tmp_path: Path, settings: Settings) -> Iterator[Shop]:
    """A shop in front of fake engines."""
    with shop(tmp_path, settings) as opened:
        yield opened


def version(shop: Shop, ref: str) -> Version:
    return shop.served.house.registry.resolve(ref)


def signature(shop: Shop, ref: str) -> str:
    """What a fake engine says last as this version: the name of the adapter's file, or nothing for the base."""
    artifact = version(shop, ref).artifact
    return artifact.digest.removeprefix("sha256:") if artifact.base else ""


def spoken(shop: Shop, name: str, **more: Any) -> tuple[str, str]:
    """Which version an answer says that it is, and whose it is."""
    reply = shop.ask({**ASK, "model": name, **more})
    assert reply.status == 200, reply.body
    said = reply.json["choices"][0]["message"]["content"]
    return reply.json["system_fingerprint"], said.removeprefix("one two three").strip()


def test_each_version_answers_as_itself(fakes: Shop) -> None:
    assert spoken(fakes, "plain") == ("fp_base@1", "")
    assert spoken(fakes, "chat") == ("fp_tiny@1", signature(fakes, "tiny@1"))
    fakes.deploy("tiny@2")
    wait_until(lambda: fakes.answers("tiny@2"))
    assert spoken(fakes, "chat") == ("fp_tiny@2", signature(fakes, "tiny@2"))
    assert spoken(fakes, "plain") == ("fp_base@1", "")

    def told() -> list[tuple[str, list[int]]]:
        rows = fakes.admin("GET", "/deployments")["data"]
        return [(row["base"], [one["sharing"] for one in row["replicas"]]) for row in rows]

    wait_until(lambda: told() == [(version(fakes, "base@1").artifact.digest, [2]), ("", [2])])


def test_clients_choose_no_adapter(fakes: Shop) -> None:
    for name, ref in (("plain", "base@1"), ("chat", "tiny@1")):
        said = spoken(fakes, name, lora=[{"id": 0, "scale": 0.5}, {"id": 1, "scale": 1.0}])
        assert said == (f"fp_{ref}", signature(fakes, ref))
    assert all(len(sent["lora"]) == 1 for engine in fakes.served.made for sent in engine.requests)


def _story(shop: Shop) -> None:
    """Adapters come and go beside the base, one by shares, and the base itself goes and comes."""
    shop.deploy("tiny@2")
    wait_until(lambda: shop.answers("tiny@2"))
    shop.roll_out("tiny@3", **QUICK)
    wait_until(lambda: shop.rollout()["ended_at"] is not None)
    assert shop.rollout()["state"] == "promoted", shop.rollout()["reason"]
    wait_until(lambda: shop.answers("tiny@3"))
    shop.admin("DELETE", "/deployments/plain")
    shop.admin("POST", "/deployments/chat/rollback")
    wait_until(lambda: shop.answers("tiny@2"))
    shop.admin("PUT", "/deployments/plain", {"model": "base@1", "engine": shop.engine, "options": OPTIONS})
    shop.roll_out("tiny@1", steps=[50, 100], hold_s=3600)
    shop.admin("POST", f"/rollouts/{shop.rollout()['id']}/promote")
    wait_until(lambda: shop.answers("tiny@1"))


def test_no_request_fails_while_adapters_come_and_go(fakes: Shop) -> None:
    with crowd(fakes) as got:
        _story(fakes)
    assert got.failures == []
    assert {version for _, version in got.replies} == {"fp_tiny@1", "fp_tiny@2", "fp_tiny@3"}
    by_adapter = {signature(fakes, f"tiny@{number}") for number in (1, 2, 3)}
    used = {path.name for engine in fakes.served.made for path in engine.launch.adapters}
    assert used == by_adapter


@pytest.mark.timeout(300)
def test_no_request_fails_while_adapters_come_and_go_on_llamacpp(tmp_path: Path, settings: Settings) -> None:
    pytest.importorskip("xllamacpp", reason="the CPU engine is not installed")
    with shop(tmp_path, settings, engine="llamacpp") as real:
        # Without a seed at temperature 0, so that each version always says the same.
        fixed = {"temperature": 0, "max_tokens": 16}
        said = {"base@1": spoken(real, "plain", **fixed), "tiny@1": spoken(real, "chat", **fixed)}
        assert len(set(said.values())) == 2
        with crowd(real, clients=4) as got:
            _story(real)
        assert got.failures == []
        wait_until(lambda: spoken(real, "plain", **fixed) == said["base@1"])
        assert spoken(real, "chat", **fixed) == said["tiny@1"]


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize("what", ["adapter", "base", "no base", "the base alone", "itself", "another name"])
def test_a_row_that_was_written_by_hand_puts_nothing_before_clients(
    fakes: Shop, tmp_path: Path, what: str, revision: int
) -> None:
    other = pulled(fakes.served.house, "other", tiny_model(tmp_path, "other", context_length=640))
    released(fakes.served.house, other)
    digests = {name: version(fakes, name).artifact.digest for name in ("base@1", "tiny@1", "tiny@4", "other@1")}
    row = {
        "adapter": {"digest": digests["tiny@4"]},
        "base": {"base": digests["other@1"]},
        "no base": {"base": ""},
        "the base alone": {"digest": digests["base@1"], "base": ""},
        "itself": {"base": digests["tiny@1"]},
        "another name": {"version": "base@1"},
    }[what]
    _write(fakes, "deployments", row | {"revision": revision})
    wait_until(lambda: "may not be served" in str(fakes.admin("GET", "/deployments/chat")["replicas"]))
    reply = fakes.ask({**ASK, "model": "chat"})
    said = signature(fakes, "tiny@1")
    assert reply.status == 503 or reply.json["choices"][0]["message"]["content"].endswith(said)
    assert spoken(fakes, "plain") == ("fp_base@1", ""), "the others go on"
    loaded = {path.name for engine in fakes.served.made for path in engine.launch.adapters}
    assert loaded == {said}
    assert {engine.launch.model_path.name for engine in fakes.served.made} == {
        digests["base@1"].removeprefix("sha256:")
    }


def test_a_rollout_that_was_written_by_hand_puts_nothing_before_clients(fakes: Shop) -> None:
    fakes.roll_out("tiny@2", steps=[100], hold_s=3600)
    wait_until(lambda: fakes.answers("tiny@2"))
    _write(fakes, "rollouts", {"digest": version(fakes, "tiny@4").artifact.digest})
    wait_until(lambda: fakes.answers("tiny@1"))
    assert "may not be served" in fakes.served.house.rollouts.get("chat").reason


def test_facts_that_were_written_by_hand_lead_to_no_other_bytes(fakes: Shop) -> None:
    house, good = fakes.served.house, version(fakes, "tiny@1")
    forged = {"merged": version(fakes, "tiny@4").artifact.digest, "parent": version(fakes, "tiny@4").artifact.digest}
    _write(fakes, "deployments", {"facts": json.dumps(dict(good.facts) | forged), "revision": 2})
    wait_until(lambda: house.deployments.get("chat").facts["merged"] == forged["merged"])
    assert spoken(fakes, "chat") == ("fp_tiny@1", signature(fakes, "tiny@1"))


@pytest.mark.parametrize("column", ["digest", "base"])
def test_a_version_that_was_written_by_hand_is_not_deployed(fakes: Shop, column: str) -> None:
    forged = {"digest": "x", "base": "base@1"}[column]
    value = f"sha256:{'1' * 64}" if forged == "x" else version(fakes, "tiny@4").artifact.digest
    statement = sa.text(f"UPDATE versions SET {column} = :value WHERE name = 'tiny' AND number = 2")
    fakes.served.house.db.run_sync(lambda connection: connection.execute(statement, {"value": value}))
    sent = {"model": "tiny@2", "engine": "fake", "options": OPTIONS}
    reply = fakes.served.request("PUT", "/api/v1/deployments/chat", sent, key=fakes.served.admin_key)
    assert (reply.status, reply.json["error"]["code"]) == (403, "not_released")
    assert spoken(fakes, "chat") == ("fp_tiny@1", signature(fakes, "tiny@1"))


def test_a_withdrawn_version_is_cut_off_and_its_neighbours_are_not(fakes: Shop) -> None:
    begun = threading.Barrier(3)

    def read(name: str) -> bytes:
        begun.wait()
        return fakes.ask({**ASK, "stream": True, "model": name}).body

    (engine,) = [one for one in fakes.served.made if one._address is not None]
    engine.faults = pace = Unhurried()
    with ThreadPoolExecutor(2) as threads:
        cut, whole = threads.submit(read, "chat"), threads.submit(read, "plain")
        begun.wait()
        wait_until(lambda: engine.active == 2)
        withdrawn(fakes.served.house, fakes.releases["tiny@1"])
        wait_until(cut.done)
        assert not whole.done(), "it has most of its words left"
        wait_until(lambda: engine.active == 1)
        pace.delay = 0.0
        assert b'"error"' in cut.result()
        assert not cut.result().endswith(b"data: [DONE]\n\n")
        assert whole.result().endswith(b"data: [DONE]\n\n")
    reply = fakes.ask({**ASK, "model": "chat"})
    assert (reply.status, "no release in force" in reply.json["error"]["message"]) == (503, True)
    assert len(fakes.served.made) == 1, "nobody had to move"


def test_a_withdrawn_version_is_cut_off_before_its_first_word(fakes: Shop) -> None:
    hanging = {**ASK, "model": "chat", "messages": [{"role": "user", "content": "fake:hang word"}]}
    with ThreadPoolExecutor(1) as threads:
        cut = threads.submit(fakes.ask, hanging)
        wait_until(lambda: fakes.served.made[0].active == 1)
        withdrawn(fakes.served.house, fakes.releases["tiny@1"])
        assert cut.result().status == 503
    wait_until(lambda: fakes.served.made[0].active == 0)
    assert spoken(fakes, "plain") == ("fp_base@1", "")


def _write(shop: Shop, table: str, row: dict[str, Any]) -> None:
    """What somebody with a database client does to `chat`."""
    name = "name" if table == "deployments" else "deployment"
    statement = sa.text(f"UPDATE {table} SET {', '.join(f'{key} = :{key}' for key in row)} WHERE {name} = 'chat'")
    shop.served.house.db.run_sync(lambda connection: connection.execute(statement, row))
