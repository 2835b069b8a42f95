"""Releases: from the request through the gate and the signatures to the permit, and every way around them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tandem.kit.db import Database
from tandem.kit.errors import Conflict, Forbidden, IntegrityError, InvalidRequest, NotFound
from tandem.kit.signing import Envelope, Signature, encode, new_key, public_text, signed
from tandem.registry import Decision, Members, Release, ReleaseState, Standing, first_charter, sealed, succeeding
from tandem.registry.tables import decisions, releases, versions
from tandem.spec import Version
from tests.registry.releases.conftest import (
    LAB,
    PLATFORM,
    STRANGER,
    Room,
    opened_room,
    proof,
    signer,
)

change = msgspec.structs.replace


def permitted(room: Room, version: Version) -> bool:
    """Whether an engine may load it, as this process and a new one see it."""
    answers = set()
    for one in (room, room.reopened()):
        try:
            one.releases.permit(version.ref, version.artifact.digest, base=version.artifact.base)
            answers.add("")
        except Forbidden as error:
            answers.add(error.remedy)
    assert len(answers) == 1
    return answers == {""}


def rewrite(room: Room, table: sa.Table = releases, **values: Any) -> None:
    """What somebody with a database client does."""
    room.db.run_sync(lambda connection: connection.execute(sa.update(table).values(**values)))


def stored(room: Room, document: Release, *keys: Ed25519PrivateKey) -> Standing:
    """Put a document into the table as somebody would who can write the database and sign with some keys."""
    envelope = sealed(document)
    for key in keys:
        envelope = signed(envelope, key)
    row = {
        "digest": envelope.digest,
        "name": document.version.partition("@")[0],
        "version": document.version,
        "requested_at": document.requested_at,
        "envelope": encode(envelope).decode(),
    }
    room.db.run_sync(lambda connection: connection.execute(releases.insert().values(**row)))
    return room.releases.get(envelope.digest)


def test_from_the_request_to_the_permit(both: Room) -> None:
    version = both.version()
    assert not permitted(both, version)
    waiting = both.requested(version)
    assert (waiting.state, waiting.missing, waiting.signed_by) == (ReleaseState.PENDING, {"lab", "platform"}, ())
    assert not permitted(both, version)
    half = both.releases.sign(waiting.digest, [LAB])
    assert (half.state, half.missing, half.signed_by) == (ReleaseState.PENDING, {"platform"}, ("ada of lab",))
    assert "lacks the signature of platform" in half.why
    assert not permitted(both, version)
    whole = both.releases.sign(waiting.digest, [PLATFORM])
    assert (whole.state, whole.missing) == (ReleaseState.IN_FORCE, frozenset())
    assert permitted(both, version)
    permit = both.releases.permit(version.ref, version.artifact.digest)
    assert permit.signed_by == ("ada of lab", "bob of platform")
    assert (permit.release, permit.mode) == (waiting.digest, "two-party")
    assert permit.charter == both.charters.current().digest
    assert both.releases.current("coder") == whole
    assert both.releases.current("chat") is None


def test_what_the_document_says(room: Room) -> None:
    version = room.version()
    document = room.requested(version).release
    assert (document.version, document.digest, document.size) == (version.ref, version.artifact.digest, 10)
    assert (document.origin, document.task, document.mode) == ("run:1", version.task, "two-party")
    assert (document.requested_by, document.previous) == ("test", "")
    assert document.charter == room.charters.current().digest
    assert document.verdict.met
    assert document.evidence == tuple(sorted(room.prove(version)))
    assert document.as_version() == version


def test_the_gate_says_no_with_every_clause(room: Room) -> None:
    version = room.version()
    with pytest.raises(Conflict, match="does not meet the charter") as caught:
        room.releases.request(version.ref, by="test")
    assert caught.value.code == "gate_refused"
    assert caught.value.message.count("\n- ") == 3
    assert caught.value.message.count("there is no evidence of") == 3
    room.prove(version, edit_similarity_gain=-0.1, failures=2.0)
    with pytest.raises(Conflict) as caught:
        room.releases.request(version.ref, by="test")
    assert caught.value.message.count("\n- ") == 2
    assert "-0.1 is under 0" in caught.value.message
    assert room.releases.page() == []
    assert not room.releases.review(version.ref).met
    unknown = room.version("chat", data="x", origin="elsewhere:1")
    with pytest.raises(Conflict, match="none fits chat@1"):
        room.releases.request(unknown.ref, by="test")


def test_the_same_request_again_changes_nothing(room: Room) -> None:
    version = room.version()
    first = room.requested(version)
    assert room.requested(version) == first
    whole = room.releases.sign(first.digest, [LAB, PLATFORM])
    assert room.releases.request(version.ref, by="another") == whole
    assert room.releases.sign(first.digest, [LAB, PLATFORM]) == whole
    assert len(room.releases.page()) == 1


def test_without_a_charter(bare: Room) -> None:
    version = bare.version()
    with pytest.raises(NotFound, match="no charter"):
        bare.releases.request(version.ref, by="test")
    with pytest.raises(Forbidden, match="no charter") as caught:
        bare.releases.permit(version.ref, version.artifact.digest)
    assert "tandem charter init" in caught.value.remedy


def test_the_next_one_is_compared_with_the_release(room: Room) -> None:
    first, second = room.version(data="1"), room.version(data="2")
    current = room.released(first)
    room.prove(second, edit_similarity=0.45)
    with pytest.raises(Conflict, match=r"0\.45 is 0\.05 under the release's 0\.5"):
        room.releases.request(second.ref, by="test")
    third = room.version(data="3")
    waiting = room.requested(third)
    assert (waiting.release.previous, waiting.release.verdict.compared_with) == (current.digest, first.ref)
    assert set(room.prove(first)) & set(waiting.release.evidence), "it names what it was compared with"
    done = room.releases.sign(waiting.digest, [LAB, PLATFORM])
    assert room.releases.current("coder") == done
    assert permitted(room, first), "the older one may come back"
    assert room.releases.current("coder", besides=third.ref) == current


def test_one_party_is_not_two(room: Room) -> None:
    """Not with the same key twice, not under another spelling of it, and not with a second member of the party."""
    version = room.version()
    waiting = room.requested(version)
    room.releases.sign(waiting.digest, [LAB, LAB])
    assert room.releases.get(waiting.digest).missing == {"platform"}
    [mine] = room.releases.get(waiting.digest).envelope.signatures
    with pytest.raises(Forbidden):
        room.releases.add_signatures(waiting.digest, [Signature(keyid=public_text(PLATFORM), sig=mine.sig)])
    place = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".index(mine.keyid[-2])
    alias = mine.keyid[:-2] + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[place + 1] + "="
    with pytest.raises(Forbidden):
        room.releases.add_signatures(waiting.digest, [Signature(keyid=alias, sig=mine.sig)])
    twice = change(waiting.envelope, signatures=(mine, mine, change(mine, keyid=alias)))
    rewrite(room, envelope=encode(twice).decode())
    assert not permitted(room, version)


def test_two_members_of_a_party_are_one_party(bare: Room) -> None:
    anna = new_key()
    keys = {
        "lab": {"ada": public_text(LAB), "anna": public_text(anna)},
        "platform": {"bob": public_text(PLATFORM)},
    }
    bare.charters.propose(first_charter("ours", keys, solo=False), [LAB, PLATFORM])
    version = bare.version()
    waiting = bare.requested(version)
    assert bare.releases.sign(waiting.digest, [LAB, anna]).missing == {"platform"}
    assert not permitted(bare, version)


def test_strangers_sign_nothing(room: Room) -> None:
    version = room.version()
    waiting = room.requested(version)
    with pytest.raises(Forbidden, match="may not sign releases"):
        room.releases.sign(waiting.digest, [STRANGER])
    with pytest.raises(Forbidden, match="is not genuine"):
        room.releases.add_signatures(waiting.digest, [Signature(keyid=public_text(LAB), sig=bytes(64))])
    other = room.requested(room.version("coder2", data="b"))
    elsewhere = signed(other.envelope, LAB).signatures
    with pytest.raises(Forbidden, match="is not genuine"):
        room.releases.add_signatures(waiting.digest, elsewhere)
    assert room.releases.get(waiting.digest).envelope.signatures == ()
    with pytest.raises(NotFound):
        room.releases.sign("sha256:" + "0" * 64, [LAB])


def test_both_sign_at_the_same_moment(both: Room) -> None:
    version = both.version()
    waiting = both.requested(version)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda key: both.reopened().releases.sign(waiting.digest, [key]), [LAB, PLATFORM]))
    assert both.releases.get(waiting.digest).state is ReleaseState.IN_FORCE


def test_a_refusal_is_for_good(room: Room) -> None:
    version = room.version()
    waiting = room.requested(version)
    room.releases.sign(waiting.digest, [LAB])
    done = room.releases.refuse(waiting.digest, reason="too slow", signer=signer(PLATFORM))
    assert (done.state, done.why) == (ReleaseState.REFUSED, "bob refused it: too slow")
    assert done.decision is not None
    assert done.decision.by == "bob"
    with pytest.raises(Conflict, match="is refused: bob refused it: too slow"):
        room.releases.sign(waiting.digest, [PLATFORM])
    with pytest.raises(Conflict, match="is refused"):
        room.releases.withdraw(waiting.digest, reason="again", signer=signer(LAB))
    assert not permitted(room, version)
    again = room.requested(version)
    assert again.digest != waiting.digest
    assert room.releases.sign(again.digest, [LAB, PLATFORM]).state is ReleaseState.IN_FORCE


@pytest.mark.parametrize("key", [LAB, PLATFORM])
def test_any_party_withdraws_alone(both: Room, key: Ed25519PrivateKey) -> None:
    version = both.version()
    release = both.released(version)
    assert permitted(both, version)
    with pytest.raises(Conflict, match="is in force"):
        both.releases.refuse(release.digest, reason="no", signer=signer(key))
    done = both.releases.withdraw(release.digest, reason=" it leaks ", signer=signer(key))
    assert (done.state, done.decision and done.decision.reason) == (ReleaseState.WITHDRAWN, "it leaks")
    assert not permitted(both, version)
    with pytest.raises(Forbidden, match="withdrew it: it leaks"):
        both.releases.permit(version.ref, version.artifact.digest)
    assert both.releases.current("coder") is None


@pytest.mark.parametrize("reason", ["", "  ", "x" * 2001])
def test_a_decision_has_a_reason(room: Room, reason: str) -> None:
    release = room.released(room.version())
    with pytest.raises(InvalidRequest, match="needs a reason"):
        room.releases.withdraw(release.digest, reason=reason, signer=signer(LAB))


def test_decisions_of_others_count_for_nothing(room: Room) -> None:
    version = room.version()
    release = room.released(version)
    document = Decision(release=release.digest, verdict="withdraw", reason="x", by="ada", at=1)
    for envelope in (sealed(document), signed(sealed(document), STRANGER), signed(sealed(document), PLATFORM)):
        with pytest.raises(Forbidden, match="'ada' is not signed by a member of this name"):
            room.releases.decide(envelope)
    with pytest.raises(InvalidRequest, match="The decision is of the type"):
        room.releases.decide(signed(release.envelope, LAB))
    with pytest.raises(InvalidRequest, match="on another release"):
        room.releases.decide(signed(sealed(document), LAB), about="sha256:" + "0" * 64)
    forged = encode(signed(sealed(document), STRANGER)).decode()
    row = {"digest": "sha256:" + "1" * 64, "release_digest": release.digest, "envelope": forged}
    room.db.run_sync(lambda connection: connection.execute(decisions.insert().values(**row)))
    rewrite(room, decisions, envelope="nonsense", digest="sha256:" + "2" * 64)
    assert permitted(room, version)
    done = room.releases.decide(signed(sealed(document), LAB))
    assert done.state is ReleaseState.WITHDRAWN
    assert room.releases.decide(signed(sealed(document), LAB)) == done, "the same again changes nothing"


def test_deleting_rows_brings_nothing_back(room: Room) -> None:
    version = room.version()
    release = room.released(version)
    room.releases.withdraw(release.digest, reason="x", signer=signer(LAB))
    room.db.run_sync(lambda connection: connection.execute(sa.delete(decisions)))
    assert room.releases.get(release.digest).state is ReleaseState.WITHDRAWN
    assert not permitted(room, version)


def test_deleting_files_brings_nothing_back(room: Room) -> None:
    version = room.version()
    release = room.released(version)
    room.releases.withdraw(release.digest, reason="x", signer=signer(LAB))
    [path] = (room.charters.folder / "decisions").iterdir()
    path.unlink()
    assert not permitted(room, version)


@pytest.mark.parametrize("data", [b"{}", b"", b"\xff" * 10])
def test_a_broken_decision_is_no_permit(room: Room, data: bytes) -> None:
    """What it said may have been a withdrawal."""
    version, other = room.version(), room.version("coder2", data="b")
    release = room.released(version)
    room.released(other)
    room.releases.withdraw(release.digest, reason="x", signer=signer(LAB))
    room.db.run_sync(lambda connection: connection.execute(sa.delete(decisions)))
    [path] = (room.charters.folder / "decisions").iterdir()
    path.write_bytes(data)
    assert not permitted(room, version)
    assert permitted(room, other), "of others it says nothing"
    with pytest.raises(IntegrityError, match=rf"charter/decisions/{path.name} ") as caught:
        room.releases.page()
    assert "Restore the folder `charter`" in caught.value.remedy


def test_a_withdrawal_outlives_its_key(room: Room) -> None:
    """Else a party would bring back a release by revoking the key that ended it."""
    version = room.version()
    release = room.released(version)
    room.releases.withdraw(release.digest, reason="x", signer=signer(LAB))
    revoke(room, LAB)
    assert room.releases.get(release.digest).state is ReleaseState.WITHDRAWN


def revoke(room: Room, key: Ed25519PrivateKey) -> Ed25519PrivateKey:
    """Replace a key in the charter by a new one."""
    new, current = new_key(), room.charters.current()
    text = current.text.replace(public_text(key), public_text(new))
    text = text.replace("[[parties]]", f'revoked = ["{public_text(key)}"]\n\n[[parties]]', 1)
    assert room.charters.propose(succeeding(text, current), [LAB, PLATFORM]).holds
    return new


def test_what_a_revoked_key_signed_counts_no_more(room: Room) -> None:
    version = room.version()
    release = room.released(version)
    new = revoke(room, LAB)
    assert not permitted(room, version)
    assert room.releases.get(release.digest).missing == {"lab"}
    with pytest.raises(Conflict, match="The charter changed"):
        room.releases.sign(release.digest, [new])
    room.prove(version, key=PLATFORM)
    again = room.releases.request(version.ref, by="test")
    with pytest.raises(Forbidden):
        room.releases.sign(again.digest, [LAB])
    room.releases.sign(again.digest, [new, PLATFORM])
    assert permitted(room, version)


def test_a_release_outlives_a_charter_that_changed(room: Room) -> None:
    version = room.version()
    room.released(version)
    waiting = room.requested(room.version(data="b"))
    current = room.charters.current()
    tighter = succeeding(current.text.replace("drop_at_most = 0.02", "drop_at_most = 0.01"), current)
    assert room.charters.propose(tighter, [LAB]).holds
    assert permitted(room, version), "it was let out under the rules of its time"
    with pytest.raises(Conflict, match="The charter changed after"):
        room.releases.sign(waiting.digest, [LAB, PLATFORM])
    assert room.releases.request(version.ref, by="test").release.charter != current.digest


def test_a_charter_that_is_not_in_the_chain(room: Room) -> None:
    version = room.version()
    waiting = room.requested(version)
    other = f"sha256:{9:064}"
    foreign = change(
        waiting.release, charter=other, verdict=change(waiting.release.verdict, charter=other), requested_at=1
    )
    standing = stored(room, foreign, LAB, PLATFORM)
    assert (standing.state, standing.signed_by) == (ReleaseState.VOID, ())
    assert "none of this chain" in standing.why
    assert not permitted(room, version)


def test_a_chain_that_lost_its_end_lets_out_nothing_of_it(room: Room) -> None:
    version, current = room.version(), room.charters.current()
    tighter = succeeding(current.text.replace("drop_at_most = 0.02", "drop_at_most = 0.01"), current)
    room.charters.propose(tighter, [LAB])
    room.released(version)
    assert permitted(room, version)
    (room.charters.folder / "0002.json").unlink()
    assert not permitted(room, version)


def test_a_broken_chain_lets_out_nothing(room: Room) -> None:
    version = room.version()
    room.released(version)
    path = room.charters.folder / "0001.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert not permitted(room, version)
    with pytest.raises(Forbidden, match=r"charter/0001\.json"):
        room.releases.permit(version.ref, version.artifact.digest)
    path.write_bytes(whole)
    assert permitted(room, version)


FALSE: dict[str, Callable[[Release], Release]] = {
    "clauses that nobody looked at": lambda one: change(one, verdict=change(one.verdict, findings=())),
    "a clause left out": lambda one: change(one, verdict=change(one.verdict, findings=one.verdict.findings[1:])),
    "a gate that said no": lambda one: change(one, verdict=change(one.verdict, met=False)),
    "a clause not met": lambda one: change(
        one, verdict=change(one.verdict, findings=tuple(change(two, met=False) for two in one.verdict.findings))
    ),
    "a milder class": lambda one: change(one, verdict=change(one.verdict, model_class="imported", findings=())),
    "no class": lambda one: change(one, verdict=change(one.verdict, model_class="", findings=())),
    "a verdict on other bytes": lambda one: change(one, verdict=change(one.verdict, digest=f"sha256:{1:064}")),
    "a verdict on another version": lambda one: change(one, verdict=change(one.verdict, version="coder@9")),
    "a verdict under another charter": lambda one: change(one, verdict=change(one.verdict, charter=f"sha256:{1:064}")),
    "another mode": lambda one: change(one, mode="solo"),
}


@pytest.mark.parametrize("name", FALSE)
def test_signatures_do_not_make_a_false_verdict_true(room: Room, name: str) -> None:
    version = room.version()
    document = change(FALSE[name](room.requested(version).release), requested_at=2)
    standing = stored(room, document, LAB, PLATFORM)
    assert (standing.state, standing.missing) == (ReleaseState.VOID, frozenset())
    assert standing.why
    assert not permitted(room, version)
    with pytest.raises(Conflict, match="is void"):
        room.releases.sign(standing.digest, [LAB])


def test_a_row_with_another_payload(room: Room) -> None:
    """A release of good bytes, whose row is made to speak of bad ones."""
    good, bad = room.version(data="good"), room.version(data="bad")
    release = room.released(good)
    forged = msgspec.json.encode(change(release.release, version=bad.ref, digest=bad.artifact.digest), order="sorted")
    rewrite(room, version=bad.ref, envelope=encode(change(release.envelope, payload=forged)).decode())
    assert not permitted(room, bad)
    assert not permitted(room, good)
    with pytest.raises(IntegrityError, match="was changed by hand"):
        room.releases.get(release.digest)
    digest = Envelope(payload_type="", payload=forged).digest
    rewrite(room, digest=digest)
    assert not permitted(room, bad), "with its digest set right it has no signatures"
    assert room.releases.get(digest).missing == {"lab", "platform"}


def test_rows_that_point_elsewhere(room: Room) -> None:
    good, bad = room.version(data="good"), room.version(data="bad")
    room.released(good)
    rewrite(room, version=bad.ref)
    assert not permitted(room, bad)
    assert not permitted(room, good)
    rewrite(room, version=good.ref)
    assert permitted(room, good)
    with pytest.raises(Forbidden, match="no release holds for its bytes"):
        room.releases.permit(good.ref, bad.artifact.digest)
    with pytest.raises(Forbidden):
        room.releases.permit(bad.ref, good.artifact.digest)


def test_a_version_whose_row_was_changed(room: Room) -> None:
    """Its digest leads to other bytes, of which no release speaks."""
    good, bad = room.version(data="good"), room.version("evil", data="bad")
    room.released(good)
    row = {"digest": bad.artifact.digest}
    room.db.run_sync(
        lambda connection: connection.execute(sa.update(versions).where(versions.c.name == "coder").values(**row))
    )
    assert room.registry.resolve("coder").artifact.digest == bad.artifact.digest
    assert not permitted(room, room.registry.resolve("coder"))


OTHER_BASE = f"sha256:{6:064}"


def test_a_release_binds_an_adapter_to_its_base(room: Room) -> None:
    version = room.version(data="adapter", base="base")
    document = room.released(version).release
    assert (document.base, document.as_version()) == (version.artifact.base, version)
    assert permitted(room, version)
    permit = room.releases.permit(version.ref, version.artifact.digest, base=version.artifact.base)
    assert permit.base == version.artifact.base
    for digest, base in (
        (version.artifact.digest, ""),
        (version.artifact.digest, OTHER_BASE),
        (version.artifact.base, ""),
        (version.artifact.base, version.artifact.digest),
        (OTHER_BASE, version.artifact.base),
    ):
        with pytest.raises(Forbidden, match="no release holds for its bytes"):
            room.releases.permit(version.ref, digest, base=base)


def test_a_whole_model_is_no_adapter(room: Room) -> None:
    version = room.version()
    room.released(version)
    with pytest.raises(Forbidden, match=f"with the base {OTHER_BASE}"):
        room.releases.permit(version.ref, version.artifact.digest, base=OTHER_BASE)


def test_an_adapter_whose_row_was_changed(room: Room) -> None:
    version = room.version(data="adapter", base="base")
    room.released(version)
    for base in (OTHER_BASE, ""):
        rewrite(room, versions, base=base)
        assert room.registry.resolve("coder").artifact.base == base
        assert not permitted(room, room.registry.resolve("coder"))
        with pytest.raises(Conflict, match="there is no evidence of"):
            room.releases.request("coder@1", by="test")


def test_evidence_on_another_base_is_no_evidence(room: Room) -> None:
    version = room.version(data="adapter", base="base")
    for suite, metrics in (("quality-code", {"edit_similarity_gain": 0.2}), ("regression", {"failures": 0.0})):
        for base in (OTHER_BASE, ""):
            document = change(proof(version, suite, **metrics), base=base or msgspec.UNSET)
            room.evidence.add(signed(sealed(document), LAB))
    with pytest.raises(Conflict, match="there is no evidence of quality-code"):
        room.releases.request(version.ref, by="test")


def test_a_release_with_another_base_is_not_signed(room: Room) -> None:
    """Somebody who can write the database asks for a signature under good evidence and another base."""
    version = room.version(data="adapter", base="base")
    waiting = room.requested(version)
    for base in (OTHER_BASE, ""):
        standing = stored(room, change(waiting.release, base=base or msgspec.UNSET))
        with pytest.raises(Conflict, match="does not bear out the verdict"):
            room.releases.sign(standing.digest, [LAB])
    room.releases.sign(waiting.digest, [LAB, PLATFORM])
    assert permitted(room, version)


def test_what_an_older_program_signed_holds(room: Room) -> None:
    """It knew of no base, and what is said of a whole model today is what it said."""
    version = room.version()
    waiting = room.requested(version)
    known = {"version", "digest", "size", "origin", "task", "charter", "verdict", "evidence", "mode"}
    known |= {"requested_by", "requested_at", "previous"}
    assert msgspec.json.decode(waiting.envelope.payload).keys() == known
    proofs = [room.evidence.get(digest) for digest in waiting.release.evidence]
    assert not [one for one in proofs if "base" in msgspec.json.decode(one.envelope.payload)]
    assert room.releases.sign(waiting.digest, [LAB, PLATFORM]).state is ReleaseState.IN_FORCE
    adapter = room.released(room.version(data="adapter", base="base"))
    assert msgspec.json.decode(adapter.envelope.payload).keys() == known | {"base"}


def test_a_merged_adapter_under_another_class_is_no_way_around(room: Room) -> None:
    merged = room.version("import", data="merged", origin="file:merged.gguf")
    assert room.releases.review(merged.ref).met
    adapter = room.version(data="adapter", base="base", merged=merged.artifact.digest)
    with pytest.raises(Conflict, match=r"whose bytes are those of coder@1, does not meet the charter"):
        room.releases.request(merged.ref, by="test")
    room.prove(adapter)
    assert room.releases.request(merged.ref, by="test").release.digest == merged.artifact.digest


@pytest.mark.parametrize("envelope", ["", "{}", "nonsense", '{"payloadType": "a", "payload": ""}'])
def test_a_row_of_nonsense(room: Room, envelope: str) -> None:
    version, other = room.version(), room.version("coder2", data="b")
    release = room.released(version)
    rewrite(room, envelope=envelope)
    assert not permitted(room, version)
    assert room.releases.page() == []
    with pytest.raises(IntegrityError):
        room.releases.get(release.digest)
    room.released(other)
    assert permitted(room, other)


def test_evidence_and_charters_are_no_releases(room: Room) -> None:
    version = room.version()
    [digest, _] = room.prove(version)
    waiting = room.requested(version)
    rewrite(room, envelope=encode(signed(room.evidence.get(digest).envelope, PLATFORM)).decode())
    assert not permitted(room, version)
    relabelled = Envelope(payload_type="text/plain", payload=waiting.envelope.payload)
    moved = change(waiting.envelope, signatures=signed(signed(relabelled, LAB), PLATFORM).signatures)
    rewrite(room, envelope=encode(moved).decode())
    assert not permitted(room, version), "what was signed as something else is not signed as a release"


def test_signing_looks_at_the_evidence_again(room: Room) -> None:
    """A document that somebody wrote by hand is not signed, however well it reads."""
    version = room.version()
    honest = room.requested(version).release
    finding = change(honest.verdict.findings[0], number=0.99)
    dressed = change(honest, verdict=change(honest.verdict, findings=(finding, *honest.verdict.findings[1:])))
    standing = stored(room, change(dressed, requested_at=3))
    assert standing.state is ReleaseState.PENDING
    with pytest.raises(Conflict, match="does not bear out the verdict"):
        room.releases.sign(standing.digest, [LAB])
    without = stored(room, change(honest, evidence=honest.evidence[1:], requested_at=4))
    with pytest.raises(Conflict, match="does not bear out the verdict"):
        room.releases.sign(without.digest, [LAB])


def test_newer_evidence_does_not_disturb_a_request(room: Room) -> None:
    version = room.version()
    waiting = room.requested(version)
    room.evidence.add(signed(sealed(proof(version, "regression", at=9, failures=5.0)), LAB))
    assert room.releases.sign(waiting.digest, [LAB, PLATFORM]).state is ReleaseState.IN_FORCE
    assert not room.releases.review(version.ref).met


def test_a_comparison_that_is_out_of_date(room: Room) -> None:
    first, second, third = (room.version(data=data) for data in "123")
    room.released(first)
    waiting = room.requested(second)
    room.released(third)
    with pytest.raises(Conflict, match="compared with another release than the current one"):
        room.releases.sign(waiting.digest, [LAB, PLATFORM])
    again = room.requested(second)
    assert again.release.verdict.compared_with == third.ref
    assert room.releases.sign(again.digest, [LAB, PLATFORM]).state is ReleaseState.IN_FORCE


@pytest.mark.parametrize(
    ("line", "arguments", "said"),
    [
        ('serve = ["*"]', {"system": "cloud"}, "on the system 'cloud'"),
        ('serve = ["*"]', {}, "on the system 'local'"),
        ('regions = ["*"]', {"region": "us-1"}, "in the region 'us-1'"),
        ('regions = ["*"]', {}, "in the region 'here'"),
    ],
)
def test_where_models_may_be_served(
    home: Any, sqlite_database: Database, line: str, arguments: dict[str, str], said: str
) -> None:
    room = opened_room(home, sqlite_database, region="here")
    keys = {"lab": {"ada": public_text(LAB)}, "platform": {"bob": public_text(PLATFORM)}}
    text = first_charter("ours", keys, solo=False)
    room.charters.propose(text, [LAB, PLATFORM])
    version = room.version()
    room.released(version)
    assert room.releases.permit(version.ref, version.artifact.digest, **arguments)
    kind = line.partition(" ")[0]
    narrow = text.replace(line, f'{kind} = ["ray-*", "eu-1"]')
    assert narrow != text
    room.charters.propose(succeeding(narrow, room.charters.current()), [LAB])
    with pytest.raises(Forbidden, match=f"may not be served {said}") as caught:
        room.releases.permit(version.ref, version.artifact.digest, **arguments)
    assert caught.value.code == "place_not_allowed"
    inside = {**arguments, "system" if kind == "serve" else "region": "ray-2" if kind == "serve" else "eu-1"}
    assert room.releases.permit(version.ref, version.artifact.digest, **inside)


def test_solo(bare: Room) -> None:
    members = Members(bare.home)
    keys = {party: {party: members.make(party)} for party in ("lab", "platform")}
    bare.charters.propose(first_charter("ours", keys, solo=True), [members.key(party) for party in keys])
    version = bare.version("starter", origin="file:x.gguf")
    waiting = bare.releases.request(version.ref, by="me")
    assert waiting.release.mode == "solo"
    signers = members.signers(bare.charters.current().charter, "sign")
    assert [one.party for one in signers] == ["lab", "platform"]
    done = bare.releases.sign(waiting.digest, [one.key for one in signers])
    assert (done.state, done.release.mode) == (ReleaseState.IN_FORCE, "solo")
    assert bare.releases.permit(version.ref, version.artifact.digest).mode == "solo"


def test_only_some_parties_need_to_sign(bare: Room) -> None:
    keys = {"lab": {"ada": public_text(LAB)}, "platform": {"bob": public_text(PLATFORM)}}
    text = first_charter("ours", keys, solo=False).replace("revision = 1", 'revision = 1\nrelease_needs = ["platform"]')
    bare.charters.propose(text, [LAB, PLATFORM])
    version = bare.version()
    waiting = bare.requested(version)
    assert bare.releases.sign(waiting.digest, [LAB]).missing == {"platform"}
    assert bare.releases.sign(waiting.digest, [PLATFORM]).state is ReleaseState.IN_FORCE


def test_finding_a_release(room: Room) -> None:
    version = room.version()
    release = room.released(version)
    for text in (release.digest, release.digest[:19], "coder@1", "coder"):
        assert room.releases.find(text) == release
    for text in ("coder@2", "chat", "sha256:", "sha256:ffffff", "sha256:%%%%%%%", ""):
        with pytest.raises(NotFound):
            room.releases.find(text)


def test_pages_and_states(room: Room) -> None:
    made = [room.requested(room.version(f"coder{number}", data=str(number))) for number in range(5)]
    room.releases.sign(made[1].digest, [LAB, PLATFORM])
    room.releases.refuse(made[2].digest, reason="x", signer=signer(LAB))
    seen: list[str] = []
    while page := room.releases.page(limit=2, after=seen[-1] if seen else None):
        seen += [one.digest for one in page]
    assert sorted(seen) == sorted(one.digest for one in made)
    of = {state: [one.release.version for one in room.releases.page(state=state)] for state in ReleaseState}
    assert of[ReleaseState.IN_FORCE] == ["coder1@1"]
    assert of[ReleaseState.REFUSED] == ["coder2@1"]
    assert len(of[ReleaseState.PENDING]) == 3
    assert of[ReleaseState.WITHDRAWN] == of[ReleaseState.VOID] == []
    assert [one.release.version for one in room.releases.page(name="coder3")] == ["coder3@1"]


def test_a_permit_is_not_verified_again_and_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    from tandem.registry.releases import standing

    version = room.version()
    release = room.released(version)
    permit = room.releases.permit(version.ref, version.artifact.digest)
    with monkeypatch.context() as patch:
        patch.setattr(standing, "signers", lambda _envelope: pytest.fail("verified again"))
        assert room.releases.permit(version.ref, version.artifact.digest) == permit
    room.releases.withdraw(release.digest, reason="x", signer=signer(LAB))
    assert not permitted(room, version)


@pytest.mark.parametrize("removed", [False, True])
def test_to_import_what_was_trained_here_is_no_way_around(room: Room, removed: bool) -> None:
    trained = room.version()
    imported = room.version("mine", origin="file:coder.gguf")
    if removed:
        room.registry.remove(trained.ref)
    assert imported.artifact == trained.artifact
    with pytest.raises(Conflict, match=r"mine@1, whose bytes are those of coder@1, does not meet") as caught:
        room.releases.request(imported.ref, by="test")
    assert "tandem release review coder@1" in caught.value.remedy
    assert not room.releases.review("coder@1").met
    room.prove(trained)
    assert room.releases.request(imported.ref, by="test").release.verdict.model_class == "imported"


def test_the_file_of_another_decision(room: Room) -> None:
    """Two files change places: what each release's own said is not known, so neither is served."""
    made = [room.version(f"coder{number}", data=str(number)) for number in range(2)]
    for version in made:
        room.releases.withdraw(room.released(version).digest, reason="x", signer=signer(LAB))
    room.db.run_sync(lambda connection: connection.execute(sa.delete(decisions)))
    one, other = sorted((room.charters.folder / "decisions").iterdir())
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    for version in made:
        assert not permitted(room, version)
