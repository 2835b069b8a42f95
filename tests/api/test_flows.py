"""/api/v1/flows: flows asked for over HTTP, executed beside the server, looked at, ended and retried."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tandem.server import House
from tests.api.conftest import Keys
from tests.flows.stand_ins import ordered
from tests.serving import Served, pulled, tiny_model, wait_until


@pytest.fixture(scope="module")
def house(fake: Served) -> Iterator[House]:
    """The house, with a version `other@1` that is not released."""
    pulled(fake.house, "other", tiny_model(fake.house.settings.home, "other"))
    yield fake.house
    fake.house.flows.close()


def begun(fake: Served, keys: Keys, story: str, **arguments: Any) -> dict[str, Any]:
    made = fake.request("POST", "/api/v1/flows", {"story": story, "arguments": arguments}, key=keys.admin)
    assert made.status == 201, made.body
    flow: dict[str, Any] = made.json
    assert flow["updated_at"] >= flow["created_at"]
    return flow


def looked_at(fake: Served, keys: Keys, flow: dict[str, Any]) -> Any:
    return fake.request("GET", f"/api/v1/flows/{flow['id']}", key=keys.admin).json


def reached(fake: Served, keys: Keys, flow: dict[str, Any], state: str) -> Any:
    wait_until(lambda: looked_at(fake, keys, flow)["state"] == state)
    return looked_at(fake, keys, flow)


def test_a_server_without_flows_has_none(fake: Served, keys: Keys) -> None:
    assert fake.request("GET", "/api/v1/flows", key=keys.admin).json == {"data": [], "next": None}
    assert not (fake.house.settings.home / "flows.db").exists()


def test_a_flow_is_executed_beside_the_server(fake: Served, keys: Keys, house: House) -> None:
    flow = begun(fake, keys, "release", model="tiny@1")
    assert flow["state"] in {"queued", "running", "waiting", "succeeded"}, "who executes it may be quick"
    assert (flow["by"], flow["tries"]) == ("a-admin", 1)
    done = reached(fake, keys, flow, "succeeded")
    assert [(step["name"], step["state"]) for step in done["steps"]] == [("request", "done"), ("signatures", "done")]
    assert done["facts"]["version"] == "tiny@1"


def test_a_flow_waits_is_cancelled_and_retried(fake: Served, keys: Keys, house: House) -> None:
    flow = begun(fake, keys, "release", model="other@1")
    waiting = reached(fake, keys, flow, "waiting")
    assert (waiting["step"], waiting["why"]) == ("signatures", "waits for a signature of tests")
    path = f"/api/v1/flows/{flow['id']}"
    tag = fake.request("GET", path, key=keys.admin).headers["etag"]
    assert fake.request("POST", f"{path}/cancel", key=keys.admin, if_match='"other"').status == 412
    gone = fake.request("POST", f"{path}/cancel", key=keys.admin, if_match=tag)
    assert (gone.status, gone.json["state"]) == (200, "cancelled")
    assert fake.request("POST", f"{path}/cancel", key=keys.admin).status == 409
    again = fake.request("POST", f"{path}/retry", key=keys.admin)
    assert (again.status, again.json["tries"]) == (200, 2)
    reached(fake, keys, flow, "waiting")


def test_flows_come_in_pages(fake: Served, keys: Keys, house: House) -> None:
    made = [begun(fake, keys, "release", model="nobody@1")["id"] for _ in range(3)]
    first = fake.request("GET", "/api/v1/flows?limit=2", key=keys.admin).json
    assert [row["id"] for row in first["data"]] == made[:0:-1]
    rest = fake.request("GET", f"/api/v1/flows?limit=1&after={first['next']}", key=keys.admin).json
    assert [row["id"] for row in rest["data"]] == made[:1]
    wait_until(lambda: len(fake.request("GET", "/api/v1/flows?state=failed", key=keys.admin).json["data"]) == 3)
    failed = fake.request("GET", "/api/v1/flows?state=failed", key=keys.admin).json["data"]
    assert all("nobody@1" in row["why"] for row in failed)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"story": "fly"}, 400, "There is no story 'fly'."),
        ({"story": "ship", "arguments": {"speed": 1}}, 400, "speed"),
        ({"story": "ship", "arguments": {"name": "code"}}, 400, "either a recipe to train or a model"),
        ({"story": "deploy", "arguments": {"model": "a", "name": "b", "engine": "abacus"}}, 400, "no engine 'abacus'"),
        ({"story": "ship", "when": "now"}, 400, "when"),
        ({"arguments": {}}, 400, "story"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    fake: Served, keys: Keys, body: dict[str, Any], status: int, message: str
) -> None:
    reply = fake.request("POST", "/api/v1/flows", body, key=keys.admin)
    assert (reply.status, message in reply.json["error"]["message"]) == (status, True), reply.body


@pytest.mark.parametrize("source", ["file:secrets.txt", "folder:/etc"])
def test_a_client_names_no_files_of_the_server(fake: Served, keys: Keys, source: str) -> None:
    order = msgspec.to_builtins(ordered())
    order["recipe"]["data"][0]["source"] = source
    reply = fake.request("POST", "/api/v1/flows", {"story": "ship", "arguments": order}, key=keys.admin)
    assert reply.status == 403
    assert "files of the server" in reply.json["error"]["message"]


def test_flows_are_for_admins(fake: Served, keys: Keys) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/flow_1"), ("POST", "/flow_1/cancel")):
        assert fake.request(method, f"/api/v1/flows{path}", {}, key=keys.user).status == 403
    assert fake.request("GET", "/api/v1/flows/flow_1", key=keys.admin).status == 404
    assert fake.request("GET", "/api/v1/flows?state=lost", key=keys.admin).status == 400
