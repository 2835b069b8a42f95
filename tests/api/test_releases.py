"""/api/v1/charter, /evidence and /releases: reading for users, writing for admins, signing for members alone."""

import base64
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tandem.accounts import Role
from tandem.kit.config import load_settings
from tandem.kit.signing import Envelope, public_text, signed
from tandem.registry import CHARTER_TYPE, Decision, sealed
from tandem.server import House
from tandem.spec import Artifact, Task, Version
from tests.api.conftest import Keys
from tests.registry.releases.conftest import LAB, PLATFORM, STRANGER, proof, text
from tests.serving import Reply, Served, running


@pytest.fixture(scope="module")
def served_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a charter between Ada and Bob, and nothing deployed."""
    house = House.open(load_settings({}, home=tmp_path_factory.mktemp("releases") / "home", port=0))
    house.charters.propose(text(), [LAB, PLATFORM])
    with running(house) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def keys(served_one: Served) -> Keys:
    """An admin's key and a user's."""
    create = served_one.house.keyring.create
    return Keys(create("a-admin", role=Role.ADMIN).secret, create("a-user").secret, "", "")


def envelope(one: Envelope) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(one)
    return found


def add(served_one: Served, name: str) -> Version:
    """A coder that nobody looked at."""
    artifact = Artifact(digest=f"sha256:{int(name.encode().hex(), 16):064x}"[-71:], size=10, format="gguf")
    return served_one.house.registry.add(name, task=Task.GENERATE, artifact=artifact, origin="run:1", facts={})


def prove(served_one: Served, keys: Keys, version: Version, *, key: Ed25519PrivateKey = LAB) -> list[Reply]:
    """Post evidence that is good enough."""
    documents = (
        proof(version, "quality-code", edit_similarity_gain=0.2, edit_similarity=0.5),
        proof(version, "regression", failures=0),
    )
    bodies = [envelope(signed(sealed(document), key)) for document in documents]
    return [served_one.request("POST", "/api/v1/evidence", body, key=keys.admin) for body in bodies]


def requested(served_one: Served, keys: Keys, name: str) -> tuple[str, Envelope]:
    """A release that waits: the path of it, and its envelope."""
    version = add(served_one, name)
    prove(served_one, keys, version)
    reply = served_one.request("POST", "/api/v1/releases", {"version": version.ref}, key=keys.admin)
    assert reply.status == 201
    assert reply.json["state"] == "pending"
    return f"/api/v1/releases/{reply.json['digest']}", msgspec.convert(reply.json["envelope"], Envelope)


def signature(one: Envelope, key: Ed25519PrivateKey) -> dict[str, str]:
    """What a member's own program makes."""
    [made] = signed(Envelope(payload_type=one.payload_type, payload=one.payload), key).signatures
    return {"keyid": made.keyid, "sig": base64.b64encode(made.sig).decode()}


def test_the_charter(served_one: Served, keys: Keys) -> None:
    current = served_one.request("GET", "/api/v1/charter", key=keys.user)
    assert current.status == 200
    assert (current.json["revision"], current.json["charter"]["name"]) == (1, "ours")
    assert current.json["digest"] == served_one.house.charters.current().digest
    assert served_one.request("GET", "/api/v1/charter/1", key=keys.user).json == current.json
    whole = msgspec.convert(current.json["envelope"], Envelope)
    assert (whole.payload_type, whole.payload.decode()) == (CHARTER_TYPE, current.json["text"])
    for number in ("2", "0", "-1", "x", "9" * 30, "%C2%B2"):
        assert served_one.request("GET", f"/api/v1/charter/{number}", key=keys.user).status == 404


def test_evidence(served_one: Served, keys: Keys) -> None:
    version = add(served_one, "coder-evidence")
    made = prove(served_one, keys, version)
    assert [reply.status for reply in made] == [201, 201]
    assert made[0].json["signed_by"] == ["ada of lab"]
    path = f"/api/v1/evidence?version={version.ref}&limit=1"
    first = served_one.request("GET", path, key=keys.user).json
    second = served_one.request("GET", f"{path}&after={first['next']}", key=keys.user).json
    digests = {row["digest"] for listed in (first, second) for row in listed["data"]}
    assert digests == {reply.json["digest"] for reply in made}
    [digest, _] = sorted(digests)
    found = served_one.request("GET", f"/api/v1/evidence/{digest}", key=keys.user).json
    assert found["evidence"]["version"] == version.ref
    assert msgspec.convert(found["envelope"], Envelope).digest == digest
    assert served_one.request("GET", "/api/v1/evidence/sha256:0", key=keys.user).status == 404


def test_evidence_of_strangers(served_one: Served, keys: Keys) -> None:
    version = add(served_one, "coder-strange")
    assert [reply.status for reply in prove(served_one, keys, version, key=STRANGER)] == [403, 403]
    for body in ({}, {"payloadType": "a", "payload": "!"}, {"payloadType": "a", "payload": ""}, []):
        reply = served_one.request("POST", "/api/v1/evidence", body, key=keys.admin)
        assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_value")
        assert str(served_one.house.settings.home) not in reply.body.decode()


def test_the_gate_says_no(served_one: Served, keys: Keys) -> None:
    version = add(served_one, "coder-no")
    reply = served_one.request("POST", "/api/v1/releases", {"version": version.ref}, key=keys.admin)
    assert (reply.status, reply.json["error"]["code"]) == (409, "gate_refused")
    assert reply.json["error"]["message"].count("there is no evidence of") == 3
    missing = served_one.request("POST", "/api/v1/releases", {"version": "nobody@1"}, key=keys.admin)
    assert missing.status == 404


def test_two_members_sign(served_one: Served, keys: Keys) -> None:
    path, waiting = requested(served_one, keys, "coder-two")
    half = served_one.request("POST", f"{path}/signatures", signature(waiting, LAB), key=keys.admin).json
    assert (half["state"], half["missing"]) == ("pending", ["platform"])
    whole = served_one.request("POST", f"{path}/signatures", envelope(signed(waiting, PLATFORM)), key=keys.admin)
    assert (whole.status, whole.json["state"]) == (200, "in force")
    assert whole.json["signed_by"] == ["ada of lab", "bob of platform"]
    assert served_one.request("GET", path, key=keys.user).json["state"] == "in force"
    document = waiting.payload
    assert served_one.house.releases.permit("coder-two@1", msgspec.json.decode(document)["digest"])
    assert whole.json["release"]["requested_by"] == "a-admin"


def test_signatures_that_are_none(served_one: Served, keys: Keys) -> None:
    path, waiting = requested(served_one, keys, "coder-none")
    mine = signature(waiting, LAB)
    other = Envelope(payload_type=waiting.payload_type, payload=waiting.payload + b" ")
    for body, status in (
        ({}, 400),
        ({"keyid": mine["keyid"]}, 400),
        ({"keyid": mine["keyid"], "sig": "!"}, 400),
        ({**mine, "extra": 1}, 400),
        ({**mine, "sig": base64.b64encode(bytes(64)).decode()}, 403),
        ({**mine, "keyid": public_text(PLATFORM)}, 403),
        (signature(waiting, STRANGER), 403),
        (envelope(signed(other, LAB)), 400),
        (envelope(waiting), 400),
    ):
        reply = served_one.request("POST", f"{path}/signatures", body, key=keys.admin)
        assert reply.status == status, body
        assert reply.json["error"]["remedy"] or status == 400
    assert served_one.request("GET", path, key=keys.user).json["signed_by"] == []
    assert served_one.request("POST", "/api/v1/releases/sha256:0/signatures", mine, key=keys.admin).status == 404


def test_a_member_withdraws(served_one: Served, keys: Keys) -> None:
    path, waiting = requested(served_one, keys, "coder-out")
    for key in (LAB, PLATFORM):
        served_one.request("POST", f"{path}/signatures", signature(waiting, key), key=keys.admin)
    document = Decision(release=waiting.digest, verdict="withdraw", reason="it leaks", by="bob", at=1)
    forged = served_one.request(
        "POST", f"{path}/decisions", envelope(signed(sealed(document), STRANGER)), key=keys.admin
    )
    assert forged.status == 403
    elsewhere, _ = requested(served_one, keys, "coder-other")
    body = envelope(signed(sealed(document), PLATFORM))
    assert served_one.request("POST", f"{elsewhere}/decisions", body, key=keys.admin).status == 400
    done = served_one.request("POST", f"{path}/decisions", body, key=keys.admin)
    assert (done.status, done.json["state"], done.json["why"]) == (201, "withdrawn", "bob withdrew it: it leaks")
    assert done.json["decision"]["reason"] == "it leaks"
    assert served_one.request("POST", f"{path}/signatures", signature(waiting, LAB), key=keys.admin).status == 409


def test_pages_of_releases(served_one: Served, keys: Keys) -> None:
    paths = {requested(served_one, keys, f"coder-page{number}")[0] for number in range(3)}
    seen: list[str] = []
    after = ""
    while True:
        listed = served_one.request("GET", f"/api/v1/releases?limit=2{after}", key=keys.user).json
        seen += [f"/api/v1/releases/{row['digest']}" for row in listed["data"]]
        if listed["next"] is None:
            break
        after = f"&after={listed['next']}"
    assert len(seen) == len(set(seen))
    assert paths <= set(seen)
    named = served_one.request("GET", "/api/v1/releases?name=coder-page1&state=pending", key=keys.user).json["data"]
    assert [row["release"]["version"] for row in named] == ["coder-page1@1"]
    assert served_one.request("GET", "/api/v1/releases?state=released", key=keys.user).status == 400


@pytest.mark.parametrize(
    "path", ["evidence", "releases", "releases/sha256:0/signatures", "releases/sha256:0/decisions"]
)
def test_users_change_nothing(served_one: Served, keys: Keys, path: str) -> None:
    assert served_one.request("POST", f"/api/v1/{path}", {}, key=keys.user).status == 403
    assert served_one.request("GET", "/api/v1/charter", key="").status == 401
