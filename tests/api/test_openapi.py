"""The description of the control plane: whole, sound, and true of every answer."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator

from tandem.accounts import Role
from tandem.api.openapi import Endpoint, Says, describe, docs_page
from tandem.api.routes import description, endpoints
from tandem.flows import Order
from tandem.kit.signing import signed
from tandem.registry.releases.documents import sealed
from tandem.spec import Evidence, Metric, Version
from tests.api.conftest import Keys
from tests.compute.stand_ins import pinned, placed
from tests.flows.planning.runs import write_measured
from tests.serving import Served, pulled, released, tiny_model

DOCUMENT = json.loads(json.dumps(description()))
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method.upper()} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
GETS = [path for path, operations in DOCUMENT["paths"].items() if "get" in operations and path.startswith("/api/v1")]
SINGLE = {f"/api/v1/{name}" for name in ("charter", "versions/{ref}/card", "plan/catalogue", "plan/factors")}
LISTS = [path for path in GETS if any(one["name"] == "limit" for one in DOCUMENT["paths"][path]["get"]["parameters"])]


@dataclass(frozen=True, slots=True)
class Filled:
    """A server with something of everything; `names` are the parts of paths that name it."""

    served: Served
    names: dict[str, str]

    def get(self, path: str, query: str = "") -> Any:
        """What a path of the document answers for the things that are here, to an administrator."""
        fill = [self.names.get(f"{path}#{name}") or self.names[name] for name in re.findall(r"{(\w+)}", path)]
        where = re.sub(r"{\w+}", "{}", path).format(*(quote(name, safe="@:") for name in fill))
        reply = self.served.request("GET", f"{where}{query}", key=self.served.admin_key)
        assert reply.status == 200, reply.body
        return reply.json if reply.headers["content-type"] == "application/json" else reply.body.decode()


@pytest.fixture(scope="module")
def filled(fake: Served, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Two keys, a run of a dataset, one that measured itself, a released second version with evidence that comes as a
    rollout, and a request.
    """
    house = fake.house
    recipe = pinned()
    run = house.runs.create(recipe, placed())
    house.datasets.record(run.run_id, recipe)
    second = pulled(house, "tiny", tiny_model(tmp_path_factory.mktemp("second"), seed=2))
    evidence = house.evidence.add(signed(sealed(proof(second)), house.members.key("ada")))
    release = released(house, second)
    begun = fake.request(
        "POST",
        "/api/v1/deployments/tiny/rollouts",
        {"model": second.ref, "steps": [1, 2], "least": 1000},
        key=keys.admin,
    )
    assert begun.status == 201, begun.body
    flow = house.flows.start("release", Order(model=second.ref), by="test")
    write_measured(house.settings.home, "run_measured")
    house.runs.reindex()
    asked = fake.request("POST", "/v1/completions", {"model": "tiny", "prompt": "one two"})
    fake.settled(asked.headers["x-request-id"])
    return Filled(
        fake,
        {
            "name": "tiny",
            "ref": "tiny@1",
            "revision": "1",
            "/api/v1/keys/{name}#name": "a-user",
            "/api/v1/runs/{id}#id": run.run_id,
            "/api/v1/plan/run/{id}#id": "run_measured",
            "/api/v1/rollouts/{id}#id": begun.json["id"],
            "/api/v1/flows/{id}#id": flow.id,
            "/api/v1/lineage/{id}#id": asked.headers["x-request-id"],
            "/api/v1/datasets/{digest}#digest": recipe.data[0].sha256,
            "/api/v1/evidence/{digest}#digest": evidence,
            "/api/v1/releases/{digest}#digest": release,
        },
    )


def proof(version: Version) -> Evidence:
    number = Metric(name="failures", value=0, low=0, high=0, samples=5)
    return Evidence(
        version=version.ref,
        digest=version.artifact.digest,
        suite="regression",
        suite_digest=f"sha256:{7:064}",
        metrics=(number,),
        answered=5,
        filtered=0,
        failed=0,
        transcripts=f"sha256:{8:064}",
    )


def strict(schema: Any, *, loose: bool = False) -> Any:
    """A schema that takes no field that it does not name; what stands in `allOf` is joined before it is judged."""
    if isinstance(schema, list):
        return [strict(part, loose=loose) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if loose and "$ref" in schema:
        return {"$ref": schema["$ref"].replace("/schemas/", "/loose/")}
    if "allOf" in schema:
        return {"allOf": [strict(part, loose=True) for part in schema["allOf"]], "unevaluatedProperties": False}
    found = {key: strict(part) for key, part in schema.items()}
    closed = "properties" in schema and "additionalProperties" not in schema and not loose
    return found | ({"additionalProperties": False} if closed else {})


def check(answer: Any, schema: Any) -> None:
    components = DOCUMENT["components"]["schemas"]
    parts = {
        "schemas": {name: strict(part) for name, part in components.items()},
        "loose": {name: strict(part, loose=True) for name, part in components.items()},
    }
    Draft202012Validator({**strict(schema), "components": parts}).validate(answer)


def parts_of(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from parts_of(part)


def test_it_is_served_to_anybody(fake: Served) -> None:
    reply = fake.request("GET", "/api/v1/openapi.json", key="")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == DOCUMENT
    page = fake.request("GET", "/api/v1/docs", key="")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text), "nothing from elsewhere"
    for path in DOCUMENT["paths"]:
        assert f" {path}</code>" in text
    links = set(re.findall(r'href="#([^"]+)"', text))
    assert links <= set(re.findall(r'id="([^"]+)"', text))
    assert len(links) > 20


def test_each_route_of_the_table_is_in_it() -> None:
    described = {(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert {(row.method, f"/api/v1{row.path}") for row in endpoints()} <= described
    assert {("GET", path) for path in ("/", "/health", "/ready", "/metrics")} <= described
    assert DOCUMENT["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])


def test_each_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    named = {part["$ref"] for part in parts_of(DOCUMENT) if isinstance(part, dict) and "$ref" in part}
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert named == known


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_each_schema_is_one(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    Draft202012Validator.check_schema(schema)
    assert re.fullmatch(r"[A-Z]\w*", name)
    assert "Raises" not in schema.get("description", "")
    assert r"\Z" not in str([part.get("pattern") for part in parts_of(schema) if isinstance(part, dict)])


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_each_operation_is_whole(path: str, method: str, operation: Any) -> None:
    assert operation["summary"].endswith(".")
    assert operation["tags"]
    parameters = operation.get("parameters", [])
    declared = [one["name"] for one in parameters if one["in"] == "path"]
    assert declared == re.findall(r"{(\w+)}", path)
    assert all(one["required"] for one in parameters if one["in"] == "path")
    assert all(one["description"] for one in parameters if one["in"] != "path")
    assert all("schema" in one for one in parameters)
    if not path.startswith("/api/v1"):
        assert operation["security"] == []
        return
    failures = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert {"401", "503"} <= set(failures)
    for answer in failures.values():
        assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}
    assert ("403" in failures) == (operation["x-role"] == "admin")
    headers = {one["name"] for one in parameters if one["in"] == "header"}
    assert headers == ({"If-None-Match"} if method == "get" else {"If-Match", "If-None-Match"})
    (success,) = set(operation["responses"]) - set(failures)
    content = operation["responses"][success].get("content")
    assert (content is None) == (success == "204")
    if content is not None and "application/json" in content:
        assert content["application/json"]["schema"], "an answer has a type"


def test_operations_have_names_of_their_own() -> None:
    names = [operation.values[2]["operationId"] for operation in OPERATIONS]
    assert len(names) == len(set(names))


def test_each_list_comes_in_pages() -> None:
    for path in GETS:
        content = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]
        schema = content.get("application/json", {}).get("schema", {})
        if "$ref" in schema:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
        if "data" in schema.get("properties", {}) or not path.endswith("}"):
            queries = {one["name"] for one in DOCUMENT["paths"][path]["get"]["parameters"] if one["in"] == "query"}
            single = path in SINGLE
            assert single or {"limit", "after"} <= queries, path
            assert single or {"data", "next"} <= set(schema["required"]), path
    assert len(LISTS) >= 8


@pytest.mark.parametrize("path", GETS)
def test_each_answer_is_as_it_says(filled: Filled, path: str) -> None:
    answer = filled.get(path)
    (media, content), *_ = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"].items()
    if media == "application/json":
        check(answer, content["schema"])
        assert answer.get("data") != [], "there is something to check"
    else:
        assert isinstance(answer, str)


@pytest.mark.parametrize("path", LISTS)
def test_each_list_ends_and_refuses_what_is_no_limit(filled: Filled, path: str) -> None:
    seen: list[Any] = []
    after = ""
    while True:
        page = filled.get(path, f"?limit=1{after}")
        assert len(page["data"]) <= 1
        seen += page["data"]
        if page["next"] is None:
            break
        after = f"&after={quote(page['next'], safe='')}"
    assert len(seen) == len({str(one) for one in seen}) > 0
    for limit in ("0", "501", "x", "9" * 400):
        reply = filled.served.request("GET", f"{path}?limit={limit}", key=filled.served.admin_key)
        assert (reply.status, reply.json["error"]["param"]) == (400, "limit")
    lost = filled.served.request("GET", f"{path}?after=no-such-thing", key=filled.served.admin_key)
    assert lost.status in {200, 400, 404}


@pytest.mark.parametrize("path", GETS)
def test_what_a_user_may_not_see_is_said(filled: Filled, keys: Keys, path: str) -> None:
    operation = DOCUMENT["paths"][path]["get"]
    reply = filled.served.request("GET", re.sub(r"{\w+}", "nothing", path), key=keys.user)
    assert (reply.status == 403) == (operation["x-role"] == "admin")
    if reply.status >= 400:
        assert str(reply.status) in operation["responses"]
        check(reply.json, {"$ref": "#/components/schemas/ErrorAnswer"})


def test_what_a_change_answers_is_as_it_says(filled: Filled) -> None:
    path, body = "/api/v1/keys", {"name": "described"}
    operation = DOCUMENT["paths"][path]["post"]
    check(body, operation["requestBody"]["content"]["application/json"]["schema"])
    made = filled.served.request("POST", path, body, key=filled.served.admin_key)
    assert made.status == 201
    check(made.json, operation["responses"]["201"]["content"]["application/json"]["schema"])
    with pytest.raises(Exception, match="Additional properties"):
        check({**body, "nmae": 1}, operation["requestBody"]["content"]["application/json"]["schema"])


async def _undescribed(*_: Any) -> Any:
    """Does something.

    And then more.
    """


def test_a_row_of_four_fields_is_described_as_far_as_it_goes() -> None:
    rows = [Endpoint("POST", "/things/{thing:path}", _undescribed, Role.ADMIN)]
    operation = describe(rows, {})["paths"]["/api/v1/things/{thing}"]["post"]
    assert (operation["summary"], operation["description"]) == ("Does something.", "And then more.")
    assert [one["name"] for one in operation["parameters"] if one["in"] == "path"] == ["thing"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"] == {}
    assert "requestBody" not in operation


def test_two_types_of_one_name_keep_apart() -> None:
    kinds = [type("Thing", (Metric,), {"__module__": f"tandem.rooms.{room}"}) for room in ("here", "there")]
    rows = [
        Endpoint("GET", f"/{number}", _undescribed, Role.USER, Says(answer=kind)) for number, kind in enumerate(kinds)
    ]
    document = describe(rows, {})
    assert {"HereThing", "ThereThing"} <= set(document["components"]["schemas"])
    assert document["paths"]["/api/v1/0"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/HereThing"
    }


def test_the_page_shows_what_it_is_given_as_text() -> None:
    async def evil(*_: Any) -> Any:
        """Shows `a < b` and <script>alert(1)</script>."""

    page = docs_page(describe([Endpoint("GET", "/x", evil, Role.USER)], {}))
    assert "<code>a &lt; b</code>" in page
    assert "<script" not in page
