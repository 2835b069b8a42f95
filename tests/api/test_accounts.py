"""/api/v1/keys and /api/v1/usage: roles, tenants, pages, and what the ledger says."""

from datetime import timedelta
from typing import Any

import pytest

from tandem.kit import clock
from tests.api.conftest import Keys
from tests.serving import Reply, Served

ADMIN_ONLY = [
    ("GET", "/api/v1/keys"),
    ("POST", "/api/v1/keys"),
    ("DELETE", "/api/v1/keys/test"),
    ("PUT", "/api/v1/deployments/other"),
    ("DELETE", "/api/v1/deployments/tiny"),
]
FOR_ALL = [
    "/api/v1/usage",
    "/api/v1/usage/events",
    "/api/v1/deployments",
    "/api/v1/deployments/tiny",
    "/api/v1/versions",
    "/api/v1/versions/tiny",
]


def _chat(fake: Served, key: str, *, fault: str = "") -> Reply:
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"{fault} one two"}]}
    return fake.request("POST", "/v1/chat/completions", body, key=key)


def _rows(fake: Served, path: str, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = fake.request("GET", path, key=key).json["data"]
    return rows


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
def test_a_user_may_not_administer(fake: Served, keys: Keys, method: str, path: str) -> None:
    reply = fake.request(method, path, {}, key=keys.user)
    assert reply.status == 403
    error = reply.json["error"]
    assert (error["code"], error["param"]) == ("forbidden", None)
    assert "'a-user'" in error["message"]
    assert "--role admin" in error["remedy"]


@pytest.mark.parametrize(("method", "path"), [*ADMIN_ONLY, *(("GET", path) for path in FOR_ALL)])
def test_nobody_gets_in_without_a_key(fake: Served, method: str, path: str) -> None:
    for key in ("", "nobody"):
        reply = fake.request(method, path, {}, key=key)
        assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", FOR_ALL)
def test_a_user_may_look(fake: Served, keys: Keys, path: str) -> None:
    assert fake.request("GET", path, key=keys.user).status == 200
    assert fake.request("GET", path, authorization="", api_key=keys.user).status == 200


def test_the_life_of_a_key(fake: Served, keys: Keys) -> None:
    wanted = {"name": "robot", "role": "user", "limits": {"requests_per_minute": 60, "concurrency": 2}}
    reply = fake.request("POST", "/api/v1/keys", wanted, key=keys.admin)
    assert reply.status == 201
    made = reply.json
    secret = made.pop("key")
    assert secret.startswith("tk")
    assert made["prefix"].rstrip("…") == secret[:7]
    assert made["limits"] == {"requests_per_minute": 60, "tokens_per_minute": None, "concurrency": 2}
    assert (made["tenant"], made["role"], made["revoked_at"]) == ("default", "user", None)
    assert _chat(fake, secret).status == 200
    listed = {key["name"]: key for key in _rows(fake, "/api/v1/keys?limit=500", keys.admin)}
    assert listed["robot"] == made
    assert secret not in fake.request("GET", "/api/v1/keys?limit=500", key=keys.admin).body.decode()
    again = fake.request("POST", "/api/v1/keys", wanted, key=keys.admin)
    assert (again.status, again.json["error"]["code"]) == (409, "conflict")
    revoked = fake.request("DELETE", f"/api/v1/keys/{made['id']}", key=keys.admin)
    assert revoked.status == 200
    assert revoked.json["revoked_at"] is not None
    assert fake.request("POST", "/api/v1/keys", wanted, key=keys.admin).status == 201, "its name is free again"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        {},
        {"name": ""},
        {"name": "a\nb"},
        {"name": 3},
        {"name": "x", "role": "king"},
        {"name": "x", "limits": {"requests_per_minute": 0}},
        {"name": "x", "limits": {"requests_per_minute": "many"}},
        {"name": "x", "limit": {}},
    ],
)
def test_a_key_that_cannot_be_made(fake: Served, keys: Keys, body: Any) -> None:
    before = _rows(fake, "/api/v1/keys?limit=500", keys.admin)
    reply = fake.request("POST", "/api/v1/keys", body, key=keys.admin)
    assert reply.status == 400
    assert set(reply.json["error"]) == {"code", "message", "remedy", "param"}
    assert _rows(fake, "/api/v1/keys?limit=500", keys.admin) == before


def test_an_unknown_limit_is_refused(fake: Served, keys: Keys) -> None:
    body = {"name": "misspelt", "limits": {"request_per_minute": 5}}
    assert fake.request("POST", "/api/v1/keys", body, key=keys.admin).status == 400


def test_a_body_that_is_too_large(fake: Served, keys: Keys) -> None:
    reply = fake.request("POST", "/api/v1/keys", {"name": "x" * 2_000_000}, key=keys.admin)
    assert (reply.status, reply.json["error"]["code"]) == (413, "too_large")


def test_a_tenant_sees_nothing_of_another(fake: Served, keys: Keys) -> None:
    for key in (keys.user, keys.other_user):
        assert _chat(fake, key).status == 200
    ours = _rows(fake, "/api/v1/usage/events?limit=500", keys.admin)
    theirs = _rows(fake, "/api/v1/usage/events?limit=500", keys.other_admin)
    assert {event["tenant"] for event in ours} == {"default"}
    assert [event["tenant"] for event in theirs] == ["tenant_b"]
    assert {key["tenant"] for key in _rows(fake, "/api/v1/keys", keys.other_admin)} == {"tenant_b"}
    assert {key["name"] for key in _rows(fake, "/api/v1/keys", keys.other_admin)} == {"b-admin", "b-user"}
    assert [row["requests"] for row in _rows(fake, "/api/v1/usage", keys.other_admin)] == [1]
    assert [row["group"] for row in _rows(fake, "/api/v1/usage?by=key", keys.other_admin)] == ["b-user"]
    # Nor can it name what it does not see.
    theirs_after_ours = fake.request("GET", f"/api/v1/usage/events?after={ours[0]['id']}", key=keys.other_admin)
    assert theirs_after_ours.status == 404
    for name in ("a-user", *(event["key_id"] for event in ours[:1])):
        reply = fake.request("DELETE", f"/api/v1/keys/{name}", key=keys.other_admin)
        assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
        assert "a-user" not in reply.json["error"]["remedy"]
    assert _chat(fake, keys.user).status == 200
    made = fake.request("POST", "/api/v1/keys", {"name": "a-user"}, key=keys.other_admin)
    assert (made.status, made.json["tenant"]) == (201, "tenant_b"), "names are the tenant's own"


def test_a_user_sees_its_own_usage_and_an_admin_all(fake: Served, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    noon = clock.now().replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
    monkeypatch.setattr(clock, "unix_milliseconds", lambda: int(1000 * noon.timestamp()))  # no midnight comes between
    secret = fake.house.keyring.create("counted").secret
    for _ in range(3):
        _chat(fake, secret)
    _chat(fake, secret, fault="fake:fail")
    [mine] = _rows(fake, "/api/v1/usage", secret)
    assert mine == {
        "id": "",
        "group": "",
        "requests": 4,
        "failed": 1,
        "prompt_tokens": mine["prompt_tokens"],
        "cached_tokens": mine["cached_tokens"],
        "completion_tokens": 6,
    }
    assert mine["prompt_tokens"] == 9
    by_key = {row["group"]: row for row in _rows(fake, "/api/v1/usage?by=key", keys.admin)}
    assert {**by_key["counted"], "group": "", "id": ""} == mine
    assert [row["group"] for row in _rows(fake, "/api/v1/usage?by=deployment", secret)] == ["tiny"]
    [day] = _rows(fake, "/api/v1/usage?by=day", secret)
    assert {**day, "group": "", "id": ""} == mine
    assert day["group"] == f"{noon:%Y-%m-%d}"


def test_events(fake: Served) -> None:
    secret = fake.house.keyring.create("watched").secret
    asked = [_chat(fake, secret).headers["x-request-id"] for _ in range(5)]
    fake.request("POST", "/openai/v1/embeddings", {"model": "embedder", "input": "x"}, key=secret)
    newest, *chats = _rows(fake, "/api/v1/usage/events", secret)
    assert (newest["operation"], newest["surface"], newest["deployment"]) == ("embeddings", "azure-v1", "embedder")
    assert sorted(event["id"] for event in chats) == sorted(asked)
    assert {(event["operation"], event["outcome"], event["version"]) for event in chats} == {("chat", "ok", "tiny@1")}
    # Page by page it is the same list.
    paged, after = [], ""
    while True:
        page = fake.request("GET", f"/api/v1/usage/events?limit=2{after}", key=secret).json
        paged += page["data"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert paged == [newest, *chats]


def test_pages_of_keys(fake: Served, keys: Keys) -> None:
    whole = _rows(fake, "/api/v1/keys?limit=500", keys.admin)
    paged, after = [], ""
    while True:
        page = fake.request("GET", f"/api/v1/keys?limit=3{after}", key=keys.admin).json
        assert len(page["data"]) <= 3
        paged += page["data"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert paged == whole
    assert len(whole) > 3


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "%C2%B2", ""])
@pytest.mark.parametrize("path", ["/api/v1/keys", "/api/v1/usage/events", "/api/v1/deployments", "/api/v1/versions"])
def test_a_page_of_no_size(fake: Served, keys: Keys, path: str, limit: str) -> None:
    reply = fake.request("GET", f"{path}?limit={limit}", key=keys.admin)
    assert (reply.status, reply.json["error"]["param"]) == (400, "limit")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("by=colour", "by"),
        ("since=yesterday", "since"),
        ("until=never", "until"),
        ("since=2026-02-01&until=2026-01-01", "since"),
    ],
)
def test_a_span_that_cannot_be_meant(fake: Served, keys: Keys, query: str, param: str) -> None:
    reply = fake.request("GET", f"/api/v1/usage?{query}", key=keys.user)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


def test_a_span(fake: Served, keys: Keys) -> None:
    secret = fake.house.keyring.create("spanned").secret
    _chat(fake, secret)
    for span in ("since=2020-01-01&until=2020-01-02", "since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00%2B02:00"):
        assert _rows(fake, f"/api/v1/usage?{span}", secret) == []
    assert [row["requests"] for row in _rows(fake, "/api/v1/usage?since=2020-01-01", secret)] == [1]
