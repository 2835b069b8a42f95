"""Evidence: what comes in, what counts, and that a changed row counts for nothing."""

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from tandem.kit.errors import Forbidden, IntegrityError, InvalidRequest, NotFound
from tandem.kit.signing import Envelope, decode, encode, public_text, signed
from tandem.registry import sealed, succeeding
from tandem.registry.tables import evidence as table
from tandem.spec import EVIDENCE_TYPE, Evidence, Metric, canonical_document
from tests.registry.releases.conftest import LAB, PLATFORM, STRANGER, Room, proof

change = msgspec.structs.replace


def rewrite(room: Room, **values: Any) -> None:
    """What somebody with a database client does."""
    room.db.run_sync(lambda connection: connection.execute(sa.update(table).values(**values)))


def test_evidence_comes_back(both: Room) -> None:
    version = both.version()
    document = proof(version, "quality-code", edit_similarity=0.5)
    digest = both.evidence.add(signed(sealed(document), LAB))
    filed = both.evidence.get(digest)
    assert (filed.evidence, filed.signed_by, filed.counts) == (document, ("ada of lab",), True)
    assert both.evidence.of(version.artifact.digest) == {digest: document}
    assert both.evidence.of("sha256:" + "0" * 64) == {}
    assert both.evidence.page() == [filed]
    assert both.evidence.add(signed(sealed(document), LAB)) == digest
    both.evidence.add(signed(sealed(document), PLATFORM))
    assert both.evidence.get(digest).signed_by == ("ada of lab", "bob of platform")
    assert len(both.evidence.page()) == 1


def test_nobody_but_members_who_may(room: Room) -> None:
    document = proof(room.version(), "quality-code", edit_similarity=0.5)
    for envelope in (sealed(document), signed(sealed(document), STRANGER)):
        with pytest.raises(Forbidden, match="signed by nobody who may evaluate"):
            room.evidence.add(envelope)
    current = room.charters.current()
    key = f'key = "{public_text(PLATFORM)}"'
    fewer = current.text.replace(key, f'{key}\nrights = ["sign", "amend"]')
    assert room.charters.propose(succeeding(fewer, current), [PLATFORM]).holds
    with pytest.raises(Forbidden):
        room.evidence.add(signed(sealed(document), PLATFORM))


def test_without_a_charter_nothing_counts(bare: Room) -> None:
    version = bare.version()
    with pytest.raises(NotFound, match="no charter"):
        bare.evidence.add(signed(sealed(proof(version, "quality-code")), LAB))
    with pytest.raises(NotFound, match="no charter"):
        bare.evidence.of(version.artifact.digest)


def test_what_a_member_may_no_longer_say(room: Room) -> None:
    version = room.version()
    [digest, _] = room.prove(version, key=PLATFORM)
    current = room.charters.current()
    key = f'key = "{public_text(PLATFORM)}"'
    fewer = current.text.replace(key, f'{key}\nrights = ["sign", "amend"]')
    room.charters.propose(succeeding(fewer, current), [PLATFORM])
    assert room.evidence.of(version.artifact.digest) == {}
    assert not room.evidence.get(digest).counts
    room.prove(version, key=LAB)
    assert digest in room.evidence.of(version.artifact.digest), "until another member signs it"


def test_a_row_with_another_payload(room: Room) -> None:
    version = room.version()
    [digest, _] = room.prove(version)
    mine = room.evidence.get(digest).envelope
    better = canonical_document(change(room.evidence.get(digest).evidence, answered=10**6))
    rewrite(room, envelope=encode(change(mine, payload=better)).decode())
    assert room.evidence.of(version.artifact.digest) == {}
    assert room.evidence.page() == []
    with pytest.raises(IntegrityError, match="was changed: it holds sha256:"):
        room.evidence.get(digest)
    room.prove(version)
    assert room.evidence.get(digest).counts, "adding it again repairs the row"


def test_a_row_whose_digest_was_swapped_too(room: Room) -> None:
    version = room.version()
    [digest, _] = room.prove(version)
    mine = room.evidence.get(digest)
    better = change(mine.envelope, payload=canonical_document(change(mine.evidence, answered=10**6)))
    row = {"digest": better.digest, "envelope": encode(better).decode()}
    room.db.run_sync(
        lambda connection: connection.execute(sa.update(table).where(table.c.digest == digest).values(**row))
    )
    assert better.digest not in room.evidence.of(version.artifact.digest), "nobody signed these bytes"
    assert room.evidence.get(better.digest).signed_by == ()


def test_a_row_on_other_bytes(room: Room) -> None:
    good, bad = room.version(data="good"), room.version(data="bad")
    room.prove(good)
    rewrite(room, artifact=bad.artifact.digest, version=bad.ref)
    assert room.evidence.of(bad.artifact.digest) == {}
    assert room.evidence.of(good.artifact.digest) == {}


@pytest.mark.parametrize("envelope", ["", "{}", "nonsense", '{"payloadType": "a", "payload": ""}'])
def test_a_row_of_nonsense(room: Room, envelope: str) -> None:
    version = room.version()
    [digest, _] = room.prove(version)
    rewrite(room, envelope=envelope)
    assert room.evidence.of(version.artifact.digest) == {}
    assert room.evidence.page() == []
    with pytest.raises(IntegrityError):
        room.evidence.get(digest)
    assert room.prove(version)[0] == digest
    assert room.evidence.get(digest).counts


def test_a_document_of_another_type(room: Room) -> None:
    document = proof(room.version(), "quality-code")
    other = signed(Envelope(payload_type="text/plain", payload=canonical_document(document)), LAB)
    with pytest.raises(InvalidRequest, match="is of the type 'text/plain'"):
        room.evidence.add(other)
    relabelled = Envelope(payload_type=EVIDENCE_TYPE, payload=other.payload, signatures=other.signatures)
    with pytest.raises(Forbidden):
        room.evidence.add(relabelled)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "coder"},
        {"version": "x" * 90 + "@1"},
        {"suite": ""},
        {"suite": "s" * 65},
        {"measured_at": -1},
        {"measured_at": 2**80},
        {"metrics": (Metric(name="a", value=1, low=1, high=1, samples=1),) * 2},
    ],
)
def test_evidence_that_contradicts_itself(room: Room, changes: dict[str, Any]) -> None:
    document = change(proof(room.version(), "quality-code"), **changes)
    with pytest.raises(InvalidRequest, match="wrong"):
        room.evidence.add(signed(sealed(document), LAB))


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[1]", b'{"version": 3}', b'{"hardware": ' + b'{"a":' * 50_000, b"\xff"]
)
def test_a_payload_that_is_no_evidence(room: Room, payload: bytes) -> None:
    with pytest.raises(InvalidRequest, match="The evidence holds no evidence"):
        room.evidence.add(signed(Envelope(payload_type=EVIDENCE_TYPE, payload=payload), LAB))


def test_pages_show_each_once_and_leave_out_what_was_changed(room: Room) -> None:
    versions = [room.version(data=str(number)) for number in range(5)]
    digests = [digest for version in versions for digest in room.prove(version)]
    spoilt = digests[3]
    room.db.run_sync(
        lambda connection: connection.execute(
            sa.update(table).where(table.c.digest == spoilt).values(envelope="nonsense")
        )
    )
    seen: list[str] = []
    while page := room.evidence.page(limit=2, after=seen[-1] if seen else None):
        seen += [one.digest for one in page]
        assert len(page) == 2 or len(seen) == 9
    assert sorted(seen) == sorted(set(digests) - {spoilt})
    of_one = room.evidence.page(version=versions[0].ref)
    assert {one.evidence.version for one in of_one} == {versions[0].ref}
    assert len(of_one) == 2
    assert room.evidence.page(after="sha256:unknown") == []


def test_a_row_keeps_the_signatures_of_both(room: Room) -> None:
    version = room.version()
    document = proof(version, "regression", failures=0)
    unsigned = sealed(document)
    digest = room.evidence.add(signed(unsigned, LAB))
    room.evidence.add(signed(unsigned, PLATFORM))
    stored = room.db.run_sync(lambda connection: connection.scalar(sa.select(table.c.envelope)))
    envelope = decode(stored or "", what="The row")
    assert envelope.digest == digest
    assert [one.keyid for one in envelope.signatures] == [public_text(LAB), public_text(PLATFORM)]
    assert msgspec.json.decode(envelope.payload, type=Evidence) == document
