"""What clients notice of releases and rollouts: nothing of a change, and nothing at all of what is not released."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tandem.kit.config import Settings
from tandem.serve import DeployOptions
from tandem.serve.engines.fake_script import Faults
from tandem.server import House
from tests.serving import Reply, Served, pulled, released, running, tiny_model, wait_until, withdrawn

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 8, "seed": 1}
STREAM = {**CHAT, "stream": True}
# Of so few answers a busy machine makes the times of one side longer by chance.
QUICK = {"steps": [20, 60, 100], "hold_s": 0.2, "least": 15, "slower": 100}
FOREVER = {"steps": [100], "hold_s": 3600}
OPTIONS = {"context_tokens": 256, "parallel": 4, "threads": 1}


@dataclass
class Shop:
    """A Tandem that serves `chat`, and clients of it; versions tiny@1, 2 and 3 are released, tiny@4 is not."""

    served: Served
    releases: dict[str, str]
    engine: str

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        reply = self.served.request(method, f"/api/v1{path}", body, key=self.served.admin_key)
        assert reply.status < 300, reply.body
        return reply.json if reply.body else None

    def deploy(self, ref: str, **more: Any) -> None:
        self.admin("PUT", "/deployments/chat", {"model": ref, "engine": self.engine, "options": OPTIONS, **more})

    def roll_out(self, ref: str, **plan: Any) -> str:
        return str(self.admin("POST", "/deployments/chat/rollouts", {"model": ref, **plan})["id"])

    def rollout(self) -> Any:
        return self.admin("GET", "/rollouts?deployment=chat&limit=1")["data"][0]

    def ask(self, body: Any = CHAT, **more: Any) -> Reply:
        return self.served.request("POST", "/v1/chat/completions", body, **more)

    def answers(self, ref: str) -> bool:
        """Whether this version, and no other one, answers now."""
        return all(json.loads(self.ask().body)["system_fingerprint"] == f"fp_{ref}" for _ in range(6))


@contextmanager
def shop(folder: Path, settings: Settings, *, engine: str = "fake") -> Iterator[Shop]:
    """A shop in front of fake or real engines."""
    house = House.open(settings)
    versions = [pulled(house, "tiny", tiny_model(folder, f"tiny{n}", context_length=512 + 16 * n)) for n in range(4)]
    releases = {version.ref: released(house, version) for version in versions[:3]}
    house.deployments.bind("chat", version=versions[0], options=DeployOptions(**OPTIONS), engine=engine)
    with running(house) as served:
        yield Shop(served, releases, engine)


@pytest.fixture
def fakes(tmp_path: Path, settings: Settings) -> Iterator[Shop]:
    """A shop in front of fake engines."""
    with shop(tmp_path, settings) as opened:
        yield opened


@dataclass
class Crowd:
    """What a number of clients, who never stop asking, have got."""

    replies: Counter[tuple[int, str]] = field(default_factory=Counter)
    failures: list[bytes] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def total(self) -> int:
        return sum(self.replies.values())

    def take(self, reply: Reply, *, streamed: bool) -> None:
        whole = reply.status == 200 and (not streamed or reply.body.endswith(b"data: [DONE]\n\n"))
        if not whole or b'"error"' in reply.body:
            self.failures.append(reply.body)
            return
        first = reply.body.partition(b"\n")[0].removeprefix(b"data: ") if streamed else reply.body
        self.replies[reply.status, json.loads(first)["system_fingerprint"]] += 1


@contextmanager
def crowd(shop: Shop, *, clients: int = 6) -> Iterator[Crowd]:
    """Clients that ask without a pause until the block ends, every other one for a stream."""
    got = Crowd()

    def ask(number: int) -> None:
        streamed = number % 2 == 1
        while not got.stopping.is_set():
            got.take(shop.ask(STREAM if streamed else CHAT), streamed=streamed)

    with ThreadPoolExecutor(clients) as threads:
        asking = [threads.submit(ask, number) for number in range(clients)]
        try:
            wait_until(lambda: got.total >= clients or got.failures)
            yield got
        finally:
            got.stopping.set()
            for one in asking:
                one.result()


def _story(shop: Shop, got: Crowd) -> None:
    """A version changes, another one comes by shares, is promoted, and everything goes back."""
    shop.deploy("tiny@2")
    wait_until(lambda: shop.answers("tiny@2"))
    shop.roll_out("tiny@3", **QUICK)
    wait_until(lambda: shop.rollout()["ended_at"] is not None)
    assert shop.rollout()["state"] == "promoted", shop.rollout()["reason"]
    wait_until(lambda: shop.answers("tiny@3"))
    shop.admin("POST", "/deployments/chat/rollback")
    wait_until(lambda: shop.answers("tiny@2"))
    shop.roll_out("tiny@1", steps=[50, 100], hold_s=3600)
    seen = got.replies[200, "fp_tiny@1"]
    wait_until(lambda: got.replies[200, "fp_tiny@1"] > seen)
    shop.admin("POST", "/deployments/chat/rollback")
    wait_until(lambda: shop.answers("tiny@2"))
    shop.roll_out("tiny@1", steps=[50, 100], hold_s=3600)
    shop.admin("POST", f"/rollouts/{shop.rollout()['id']}/promote")
    wait_until(lambda: shop.answers("tiny@1"))


def test_no_request_fails_while_versions_change(fakes: Shop) -> None:
    with crowd(fakes) as got:
        _story(fakes, got)
    assert got.failures == []
    assert {version for _, version in got.replies} == {"fp_tiny@1", "fp_tiny@2", "fp_tiny@3"}
    assert got.total > 100


@pytest.mark.timeout(300)
def test_no_request_fails_while_versions_change_on_llamacpp(tmp_path: Path, settings: Settings) -> None:
    pytest.importorskip("xllamacpp", reason="the CPU engine is not installed")
    with shop(tmp_path, settings, engine="llamacpp") as real, crowd(real, clients=4) as got:
        _story(real, got)
    assert got.failures == []
    assert {version for _, version in got.replies} == {"fp_tiny@1", "fp_tiny@2", "fp_tiny@3"}


def _candidate(shop: Shop) -> Any:
    wait_until(lambda: len(shop.served.made) > 1 and shop.served.made[-1]._address is not None)
    wait_until(lambda: shop.answers("tiny@2"))
    return shop.served.made[-1]


@pytest.mark.parametrize("faults", [Faults(fail=True), Faults(drop=0)])
def test_a_broken_candidate_fails_nobody_and_is_rolled_back(fakes: Shop, faults: Faults) -> None:
    with crowd(fakes) as got:
        wait_until(lambda: got.total > 100)
        fakes.served.faults.append(faults)
        fakes.roll_out("tiny@2", steps=[50, 100], hold_s=0.1, least=20)
        wait_until(lambda: fakes.rollout()["ended_at"] is not None)
    assert got.failures == []
    ended = fakes.rollout()
    assert (ended["state"], "Fisher's exact test" in ended["reason"]) == ("rolled_back", True), ended["reason"]


def test_a_slower_candidate_is_rolled_back(fakes: Shop) -> None:
    with crowd(fakes) as got:
        wait_until(lambda: got.total > 50)
        fakes.served.faults.append(Faults(delay=0.1))
        fakes.roll_out("tiny@2", steps=[50, 100], hold_s=0.5, least=40)
        wait_until(lambda: fakes.rollout()["ended_at"] is not None)
    assert got.failures == []
    ended = fakes.rollout()
    assert (ended["state"], "Mann-Whitney" in ended["reason"]) == ("rolled_back", True), ended["reason"]


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_the_ledger_and_the_counters_name_who_answered(fakes: Shop, body: Any) -> None:
    fakes.roll_out("tiny@2", **FOREVER)
    engine = _candidate(fakes)
    by_candidate = fakes.served.settled(fakes.ask(body).headers["x-request-id"])
    assert by_candidate.version == "tiny@2"
    engine.faults = Faults(fail=True)
    reply = fakes.ask(body)
    assert reply.status == 200
    assert b"fp_tiny@1" in reply.body
    by_stable = fakes.served.settled(reply.headers["x-request-id"])
    assert (by_stable.version, by_stable.outcome, by_stable.completion_tokens) == ("tiny@1", "ok", 3)
    metrics = fakes.served.request("GET", "/metrics").body.decode()
    assert 'tandem_version_requests_total{deployment="chat",outcome="ok",version="tiny@1"}' in metrics
    wait_until(lambda: fakes.rollout()["numbers"]["candidate"]["failed"] == 1)


def test_a_request_that_nobody_can_mean_is_the_clients_fault(fakes: Shop) -> None:
    fakes.roll_out("tiny@2", **FOREVER)
    _candidate(fakes)
    reply = fakes.ask({**CHAT, "top_logprobs": 3})
    assert (reply.status, reply.json["error"]["param"]) == (400, "top_logprobs")
    before = fakes.rollout()["numbers"]["candidate"]["requests"]
    assert fakes.ask().status == 200
    wait_until(lambda: fakes.rollout()["numbers"]["candidate"]["requests"] > before)
    assert fakes.rollout()["numbers"]["candidate"]["failed"] == 0


def test_what_the_stable_version_can_do_is_asked_of_it(fakes: Shop) -> None:
    """A candidate that cannot do what is asked loses the request, not the client, and it counts against it."""
    fakes.roll_out("tiny@2", **FOREVER)
    engine = _candidate(fakes)
    capable = engine.capabilities
    [upstream] = fakes.served.routes._splits["chat"].upstreams
    upstream.capabilities = type(capable)(features=frozenset(), context_tokens=256, parallel=4)
    reply = fakes.ask()
    assert (reply.status, reply.json["system_fingerprint"]) == (200, "fp_tiny@1")
    wait_until(lambda: fakes.rollout()["numbers"]["candidate"]["failed"] == 1)


def _shadowed(shop: Shop) -> Any:
    shop.roll_out("tiny@2", mode="shadow", hold_s=3600)
    wait_until(lambda: shop.served.routes.shadow("chat"))
    return shop.served.made[-1]


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_shadow_sees_what_clients_ask_and_nobody_sees_it(fakes: Shop, body: Any) -> None:
    engine = _shadowed(fakes)
    for _ in range(3):
        seen = len(engine.requests)
        reply = fakes.ask(body)
        assert b"fp_tiny@1" in reply.body
        wait_until(lambda seen=seen: len(engine.requests) > seen)
    assert engine.requests[-1]["messages"] == CHAT["messages"]
    wait_until(lambda: fakes.rollout()["numbers"]["candidate"]["compared"] == 3)
    numbers = fakes.rollout()["numbers"]
    assert (numbers["candidate"]["equal"], numbers["candidate"]["likeness"]) == (3, 1.0)
    assert (numbers["candidate"]["completion_tokens"], numbers["stable"]["requests"]) == (9, 3)
    events = fakes.admin("GET", "/usage/events?limit=500")["data"]
    assert [event["version"] for event in events] == ["tiny@1"] * 3, "nobody is billed for it"
    metrics = fakes.served.request("GET", "/metrics").body.decode()
    assert 'tandem_shadow_tokens_total{deployment="chat"}' in metrics
    assert "two three" not in repr(fakes.served.house.rollouts.get("chat")), "numbers, never texts"


@pytest.mark.parametrize("faults", [Faults(fail=True), Faults(drop=1), Faults(malformed=1)])
def test_a_failing_shadow_is_counted_and_fails_nobody(fakes: Shop, faults: Faults) -> None:
    engine = _shadowed(fakes)
    engine.faults = faults
    assert b"fp_tiny@1" in fakes.ask(STREAM).body
    wait_until(lambda: fakes.rollout()["numbers"]["candidate"]["failed"] == 1)
    assert fakes.rollout()["numbers"]["candidate"]["compared"] == 0


def test_a_hanging_shadow_holds_up_nobody(fakes: Shop) -> None:
    engine = _shadowed(fakes)
    engine.faults = Faults(hang=True)
    for _ in range(7):  # it takes 4 at once
        assert fakes.ask().status == 200
    wait_until(lambda: fakes.rollout()["numbers"]["candidate"]["skipped"] == 3)
    assert len(engine.requests) == 4


def test_unreleased_is_refused_at_once(fakes: Shop) -> None:
    body = {"model": "tiny@4", "engine": "fake"}
    for method, path in (
        ("PUT", "/deployments/chat"),
        ("PUT", "/deployments/new"),
        ("POST", "/deployments/chat/rollouts"),
    ):
        sent = body if method == "PUT" else {"model": "tiny@4"}
        reply = fakes.served.request(method, f"/api/v1{path}", sent, key=fakes.served.admin_key)
        assert (reply.status, reply.json["error"]["code"]) == (403, "not_released")
        assert "release" in reply.json["error"]["remedy"]
        assert "--development" in reply.json["error"]["remedy"]
    assert fakes.answers("tiny@1")


def _hand_written(shop: Shop, **values: Any) -> None:
    house = shop.served.house
    unreleased = house.registry.resolve("tiny@4")
    row = {"version": unreleased.ref, "digest": unreleased.artifact.digest, **values}
    statement = sa.text(f"UPDATE deployments SET {', '.join(f'{key} = :{key}' for key in row)} WHERE name = 'chat'")
    house.db.run_sync(lambda connection: connection.execute(statement, row))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"revision": 2},
        {"version": "tiny@1"},  # the name of what is released, and other bytes
        {"version": "tiny@1", "revision": 2},
    ],
)
def test_a_row_that_was_written_by_hand_puts_nothing_before_clients(fakes: Shop, changes: dict[str, Any]) -> None:
    _hand_written(fakes, **changes)
    wait_until(lambda: "may not be served" in str(fakes.admin("GET", "/deployments/chat")["replicas"]))
    assert len(fakes.served.made) == 1
    reply = fakes.ask()
    assert reply.status == 503 or reply.json["system_fingerprint"] == "fp_tiny@1"


@pytest.mark.parametrize("owner", ["", "key_1"])
def test_a_rollout_that_was_written_by_hand_puts_nothing_before_clients(fakes: Shop, owner: str) -> None:
    fakes.roll_out("tiny@2", **FOREVER)
    _candidate(fakes)
    unreleased = fakes.served.house.registry.resolve("tiny@4")
    row = {"version": unreleased.ref, "digest": unreleased.artifact.digest, "owner": owner}
    statement = sa.text("UPDATE rollouts SET version = :version, digest = :digest, owner = :owner")
    fakes.served.house.db.run_sync(lambda connection: connection.execute(statement, row))
    wait_until(lambda: fakes.answers("tiny@1"))
    assert "may not be served" in fakes.served.house.rollouts.get("chat").reason
    assert len(fakes.served.made) == 2


def test_a_withdrawn_release_is_not_served_any_more(fakes: Shop) -> None:
    withdrawn(fakes.served.house, fakes.releases["tiny@1"])
    wait_until(lambda: fakes.ask().status == 503)
    error = fakes.ask().json["error"]
    assert "no release in force" in error["message"]
    wait_until(lambda: fakes.admin("GET", "/deployments/chat")["state"] == "unreleased")
    fakes.deploy("tiny@2")
    wait_until(lambda: fakes.ask().status == 200)
    assert fakes.answers("tiny@2")


def test_rolling_back_to_what_was_withdrawn_is_refused(fakes: Shop) -> None:
    fakes.deploy("tiny@2")
    wait_until(lambda: fakes.answers("tiny@2"))
    withdrawn(fakes.served.house, fakes.releases["tiny@1"])
    reply = fakes.served.request("POST", "/api/v1/deployments/chat/rollback", key=fakes.served.admin_key)
    assert reply.status == 403
    assert fakes.answers("tiny@2")


PATHS = ("/v1/{}", "/openai/v1/{}", "/openai/deployments/mine/{}?api-version=2024-10-21")


@pytest.fixture
def mine(fakes: Shop) -> Shop:
    """A shop with a development deployment `mine` of the administrator's key."""
    body = {"model": "tiny@4", "engine": "fake", "options": OPTIONS, "development": True}
    made = fakes.admin("PUT", "/deployments/mine", body)
    assert made["development"] is True
    wait_until(lambda: fakes.ask({**CHAT, "model": "mine"}, key=fakes.served.admin_key).status == 200)
    return fakes


@pytest.mark.parametrize("path", PATHS)
def test_each_answer_of_a_development_deployment_says_so(mine: Shop, path: str) -> None:
    bodies: list[tuple[dict[str, Any], int]] = [
        ({**CHAT, "model": "mine"}, 200),
        ({**STREAM, "model": "mine"}, 200),
        ({**CHAT, "model": "mine", "top_logprobs": 3}, 400),
        ({**CHAT, "model": "mine", "messages": [{"role": "user", "content": "fake:fail x"}]}, 503),
    ]
    for body, status in bodies:
        reply = mine.served.request("POST", path.format("chat/completions"), body, key=mine.served.admin_key)
        assert (reply.status, reply.headers["x-tandem-development"]) == (status, "1")
    wrong = mine.served.request(
        "POST", path.format("embeddings"), {"model": "mine", "input": "x"}, key=mine.served.admin_key
    )
    assert (wrong.status, wrong.headers["x-tandem-development"]) == (400, "1")
    assert mine.ask().headers["x-tandem-development"] is None


@pytest.mark.parametrize("path", PATHS)
def test_for_other_keys_it_does_not_exist(mine: Shop, path: str) -> None:
    def refusal(name: str) -> tuple[int, bytes]:
        where = path.format("chat/completions").replace("/mine/", f"/{name}/")
        reply = mine.served.request("POST", where, {**CHAT, "model": name})
        return reply.status, reply.body.replace(name.encode(), b"NAME")

    assert refusal("mine") == refusal("none")
    assert refusal("mine")[0] == 404
    assert mine.served.request("GET", "/v1/models/mine").status == 404
    assert mine.served.request("GET", "/v1/models/mine", key=mine.served.admin_key).status == 200
    assert mine.served.request("GET", "/api/v1/deployments/mine").status == 404
    for listing in ("/v1/models", "/openai/models?api-version=2024-10-21", "/api/v1/deployments"):
        assert b"mine" not in mine.served.request("GET", listing).body
        assert b"mine" in mine.served.request("GET", listing, key=mine.served.admin_key).body
    for page in ("/", "/metrics", "/ready"):
        assert b"mine" not in mine.served.request("GET", page).body
