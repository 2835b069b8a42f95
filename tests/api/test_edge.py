"""The edge: tags, conditions, one change at a time, and faults that stay inside."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from tandem.api import routes
from tests.api.conftest import Keys
from tests.serving import Reply, Served

WANTED: dict[str, Any] = {"model": "tiny", "engine": "fake", "options": {"context_tokens": 256, "parallel": 2}}
PATH = "/api/v1/deployments/tagged"


@pytest.fixture
def tag(fake: Served, keys: Keys) -> Iterator[str]:
    """The tag of a deployment that is there for one test."""
    assert fake.request("PUT", PATH, WANTED, key=keys.admin).status == 200
    yield fake.request("GET", PATH, key=keys.admin).headers["etag"]
    fake.request("DELETE", PATH, key=keys.admin)


def wanted(context_tokens: int) -> dict[str, Any]:
    return {**WANTED, "options": {**WANTED["options"], "context_tokens": context_tokens}}


def revision(fake: Served, keys: Keys) -> int:
    return int(fake.request("GET", PATH, key=keys.admin).json["revision"])


def refused(reply: Reply, param: str) -> bool:
    error = reply.json["error"]
    assert error["remedy"]
    return (reply.status, error["code"], error["param"]) == (412, "precondition_failed", param)


@pytest.mark.parametrize(
    "path", ["versions/tiny", "versions", "keys", "keys/a-user", "charter", "usage/events?limit=1"]
)
def test_what_a_client_has_is_not_sent_again(fake: Served, keys: Keys, path: str) -> None:
    first = fake.request("GET", f"/api/v1/{path}", key=keys.admin)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["cache-control"] == "private, no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = fake.request("GET", f"/api/v1/{path}", key=keys.admin, if_none_match=known)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert fake.request("HEAD", f"/api/v1/{path}", key=keys.admin, if_none_match=known).status == 304
    other = fake.request("GET", f"/api/v1/{path}", key=keys.admin, if_none_match='"other"')
    assert (other.status, other.body) == (200, first.body)


def test_another_answer_has_another_tag(fake: Served, keys: Keys) -> None:
    tags = {
        fake.request("GET", f"/api/v1/{path}", key=keys.admin).headers["etag"]
        for path in ("versions/tiny", "versions/embedder", "versions?limit=1", "versions?limit=2", "keys/a-user")
    }
    assert len(tags) == 5
    missing = fake.request("GET", "/api/v1/versions/nobody", key=keys.admin)
    assert missing.headers["etag"] is None


def test_a_change_of_what_was_seen_is_done(fake: Served, keys: Keys, tag: str) -> None:
    changed = fake.request("PUT", PATH, wanted(300), key=keys.admin, if_match=tag)
    assert (changed.status, changed.json["revision"]) == (200, 2)
    late = fake.request("PUT", PATH, wanted(400), key=keys.admin, if_match=tag)
    assert refused(late, "if-match")
    assert "changed since" in late.json["error"]["message"]
    assert revision(fake, keys) == 2, "nothing was done"
    new = fake.request("GET", PATH, key=keys.admin).headers["etag"]
    assert fake.request("PUT", PATH, wanted(400), key=keys.admin, if_match=f'"other",{new}').status == 200
    assert fake.request("PUT", PATH, wanted(300), key=keys.admin).status == 200, "without a condition as ever"
    assert fake.request("PUT", PATH, wanted(301), key=keys.admin, if_match="*").status == 200


def test_what_changes_by_itself_is_no_reason_to_refuse(fake: Served, keys: Keys, tag: str) -> None:
    settled, _, whole = tag.strip('"').partition("-")
    assert len(settled) == len(whole) == 32
    earlier = f'"{settled}-{"0" * 32}"'  # as it was when its replica still started
    assert fake.request("GET", PATH, key=keys.admin, if_none_match=earlier).status == 200
    assert fake.request("PUT", PATH, wanted(300), key=keys.admin, if_match=earlier).status == 200
    assert refused(fake.request("PUT", PATH, wanted(400), key=keys.admin, if_match=earlier), "if-match")


def test_only_where_there_is_nothing(fake: Served, keys: Keys, tag: str) -> None:
    there = fake.request("PUT", PATH, wanted(300), key=keys.admin, if_none_match="*")
    assert refused(there, "if-none-match")
    assert refused(fake.request("PUT", PATH, wanted(300), key=keys.admin, if_none_match=tag), "if-none-match")
    assert revision(fake, keys) == 1
    assert fake.request("DELETE", PATH, key=keys.admin).status == 204
    assert fake.request("PUT", PATH, wanted(300), key=keys.admin, if_none_match="*").status == 200


@pytest.mark.parametrize("condition", ['"nothing"', 'W/"{tag}"', "*"])
def test_what_is_not_there_matches_nothing(fake: Served, keys: Keys, tag: str, condition: str) -> None:
    condition = condition.replace('"{tag}"', tag)
    if condition != "*":
        assert refused(fake.request("DELETE", PATH, key=keys.admin, if_match=condition), "if-match")
        assert revision(fake, keys) == 1
    gone = fake.request("DELETE", "/api/v1/deployments/nobody", key=keys.admin, if_match=condition)
    assert refused(gone, "if-match")
    assert "not there" in gone.json["error"]["message"]


def test_a_part_of_an_object_is_changed_as_the_object_is(fake: Served, keys: Keys, tag: str) -> None:
    reply = fake.request("POST", f"{PATH}/rollback", key=keys.admin, if_match='"other"')
    assert refused(reply, "if-match")
    reply = fake.request("POST", f"{PATH}/rollback", key=keys.admin, if_match=tag)
    assert reply.status == 404, "the condition holds, and there is nothing to go back to"


@pytest.mark.parametrize("header", ["if_match", "if_none_match"])
@pytest.mark.parametrize("value", ["abc", '"a', '"a" "b" c', "W/*", "*,*", "", '"a\t"'])
def test_a_condition_that_is_none(fake: Served, keys: Keys, tag: str, header: str, value: str) -> None:
    reply = fake.request("PUT", PATH, wanted(300), key=keys.admin, **{header: value})
    assert (reply.status, reply.json["error"]["param"]) == (400, header.replace("_", "-"))
    assert revision(fake, keys) == 1


@pytest.mark.parametrize("header", ["if_match", "if_none_match"])
def test_a_list_has_no_version_that_a_change_could_mean(fake: Served, keys: Keys, header: str) -> None:
    reply = fake.request("POST", "/api/v1/keys", {"name": "conditional"}, key=keys.admin, **{header: "*"})
    assert (reply.status, reply.json["error"]["param"]) == (400, header.replace("_", "-"))
    assert fake.request("GET", "/api/v1/keys/conditional", key=keys.admin).status == 404


def test_a_key_is_revoked_as_it_was_seen(fake: Served, keys: Keys) -> None:
    made = fake.request("POST", "/api/v1/keys", {"name": "short-lived"}, key=keys.admin).json
    path = f"/api/v1/keys/{made['id']}"
    shown = fake.request("GET", path, key=keys.admin)
    assert made == {**shown.json, "key": made["key"]}
    assert fake.request("GET", "/api/v1/keys/short-lived", key=keys.admin).json == shown.json
    assert fake.request("GET", path, key=keys.other_admin).status == 404
    tag = shown.headers["etag"]
    assert fake.request("DELETE", path, key=keys.admin, if_match=tag).status == 200
    assert refused(fake.request("DELETE", path, key=keys.admin, if_match=tag), "if-match")


def test_conditions_are_no_way_around_the_role(fake: Served, keys: Keys, tag: str) -> None:
    for condition in (tag, '"other"'):
        assert fake.request("DELETE", PATH, key=keys.user, if_match=condition).status == 403


def test_of_many_who_saw_the_same_one_changes_it(fake: Served, keys: Keys, tag: str) -> None:
    def change(number: int) -> int:
        return fake.request("PUT", PATH, wanted(300 + number), key=keys.admin, if_match=tag).status

    with ThreadPoolExecutor(8) as threads:
        statuses = sorted(threads.map(change, range(8)))
    assert statuses == [200] + [412] * 7
    assert revision(fake, keys) == 2


def test_nobody_waits_for_a_slow_line(fake: Served, keys: Keys, tag: str) -> None:
    body = json.dumps(wanted(300)).encode()
    connection = http.client.HTTPConnection(urlsplit(fake.url).netloc, timeout=30)
    try:
        connection.putrequest("PUT", PATH)
        connection.putheader("authorization", f"Bearer {keys.admin}")
        connection.putheader("if-match", tag)
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:10])
        assert fake.request("PUT", PATH, wanted(400), key=keys.admin, if_match=tag).status == 200
        connection.send(body[10:])
        assert connection.getresponse().status == 412, "its turn came after the other's"
    finally:
        connection.close()


@pytest.mark.parametrize(("method", "path"), [("PUT", PATH), ("DELETE", PATH), ("POST", "/api/v1/keys")])
def test_a_body_that_is_too_large(fake: Served, keys: Keys, method: str, path: str) -> None:
    reply = fake.request(method, path, b"[" * 2_000_000, key=keys.admin)
    assert (reply.status, reply.json["error"]["code"]) == (413, "too_large")


def test_a_body_that_is_too_deep(fake: Served, keys: Keys) -> None:
    reply = fake.request("POST", "/api/v1/keys", b'{"name":' + b"[" * 500_000, key=keys.admin)
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_value")


def test_a_fault_stays_inside(fake: Served, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of this machine")

    monkeypatch.setattr(fake.house.registry, "resolve", broken)
    reply = fake.request("GET", "/api/v1/versions/tiny", key=keys.admin)
    assert (reply.status, reply.json["error"]["code"]) == (500, "internal_error")
    assert "secret" not in reply.body.decode()
    assert reply.headers["etag"] is None


def test_each_change_knows_the_object_that_it_is_about() -> None:
    about = {
        "/keys/{name}": "/keys/{name}",
        "/keys": None,
        "/deployments/{name}": "/deployments/{name}",
        "/deployments/{name}/rollback": "/deployments/{name}",
        "/releases/{digest}/signatures": "/releases/{digest}",
        "/releases": None,
    }
    rows = routes.endpoints()
    shown = {row.path: row for row in rows if row.method == "GET" and not row.says.page}
    for path, object_path in about.items():
        seen = routes._object_of(path, shown)
        assert (seen.read if seen else None) == (shown[object_path].handler if object_path else None)
        assert seen is None or seen.depth == len(f"/api/v1{object_path}".split("/"))
