"""Bundles: two parties on two machines agree on a charter and sign a release, and nobody slips anything in."""

from pathlib import Path

import msgspec
import pytest

from tandem.kit.db import Database
from tandem.kit.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tandem.kit.signing import Envelope, signed
from tandem.registry import ReleaseState, first_charter, sealed
from tandem.registry.releases import Bundle
from tandem.registry.releases.bundle import MOST_BUNDLE_BYTES
from tests.conftest import FreshUrl
from tests.registry.releases.conftest import LAB, PLATFORM, STRANGER, Room, opened_room, proof, signer, text
from tests.registry.releases.test_book import LOOSER, TIGHTER, changed

change = msgspec.structs.replace


@pytest.fixture
def there(fresh_sqlite: FreshUrl, tmp_path: Path) -> Room:
    """The platform's machine, which knows nothing yet."""
    with fresh_sqlite() as url:
        database = Database(url)
        yield opened_room(tmp_path / "there", database)
        database.close()


def unpacked(data: bytes) -> Bundle:
    return msgspec.json.decode(data, type=Bundle)


def test_a_charter_between_two_machines(bare: Room, there: Room) -> None:
    assert not bare.charters.propose(text(), [LAB]).holds
    waiting = there.courier.unpack_charter(bare.courier.pack_charter())
    assert waiting is not None
    assert waiting.missing == {"platform"}
    assert there.charters.sign([PLATFORM]).holds
    done = bare.courier.unpack_charter(there.courier.pack_charter())
    assert done is not None
    assert done.holds
    assert bare.charters.current().digest == there.charters.current().digest
    assert bare.charters.pending() is None
    assert bare.courier.unpack_charter(there.courier.pack_charter()) is None, "it is all here"


def test_changes_between_two_machines(room: Room, there: Room) -> None:
    there.courier.unpack_charter(room.courier.pack_charter())
    room.charters.propose(changed(room, TIGHTER), [LAB])
    room.charters.propose(
        changed(room, ("drop_at_most = 0.05", "drop_at_most = 0.5")),
        [LAB],
    )
    waiting = there.courier.unpack_charter(room.courier.pack_charter())
    assert waiting is not None
    assert (waiting.revision.charter.revision, waiting.missing) == (3, {"platform"})
    assert len(there.charters.chain().revisions) == 2
    there.charters.sign([PLATFORM])
    room.courier.unpack_charter(there.courier.pack_charter())
    assert len(room.charters.chain().revisions) == 3


def test_charters_that_parted(room: Room, there: Room) -> None:
    there.courier.unpack_charter(room.courier.pack_charter())
    room.charters.propose(changed(room, TIGHTER), [LAB])
    there.charters.propose(changed(there, ("at_most = 0", "at_most = -1")), [PLATFORM])
    with pytest.raises(Conflict, match="Revision 2 of the charter differs from the one here") as caught:
        there.courier.unpack_charter(room.courier.pack_charter())
    assert len(there.charters.chain().revisions) == 2
    assert "move charter/0002.json and all after it away" in caught.value.remedy
    (there.home / "charter" / "0002.json").unlink()
    there.courier.unpack_charter(room.courier.pack_charter())
    assert there.charters.current().digest == room.charters.current().digest


def test_a_forged_charter_is_not_taken(room: Room, there: Room) -> None:
    there.courier.unpack_charter(room.courier.pack_charter())
    looser = Envelope(
        payload_type=room.charters.current().envelope.payload_type, payload=changed(room, LOOSER).encode()
    )
    bundle = Bundle(charter=(room.charters.current().envelope, signed(looser, STRANGER)))
    with pytest.raises(Forbidden):
        there.courier.unpack_charter(msgspec.json.encode(bundle))
    assert there.charters.pending() is None


def test_a_release_between_two_machines(room: Room, there: Room) -> None:
    there.courier.unpack_charter(room.courier.pack_charter())
    first, second = room.version(data="1"), room.version(data="2")
    before = room.released(first)
    waiting = room.requested(second)
    room.releases.sign(waiting.digest, [LAB])
    packed = room.courier.pack(waiting.digest)
    assert [one.digest for one in unpacked(packed).releases] == [before.digest, waiting.digest]
    half = there.courier.unpack(packed)
    assert (half.digest, half.missing) == (waiting.digest, {"platform"})
    assert there.releases.sign(half.digest, [PLATFORM]).state is ReleaseState.IN_FORCE
    done = room.courier.unpack(there.courier.pack(half.digest))
    assert done.state is ReleaseState.IN_FORCE
    assert room.releases.permit(second.ref, second.artifact.digest)
    assert there.releases.permit(second.ref, second.artifact.digest)
    assert there.releases.current("coder") == done


def test_a_refusal_between_two_machines(room: Room, there: Room) -> None:
    there.courier.unpack_charter(room.courier.pack_charter())
    waiting = room.requested(room.version())
    there.courier.unpack(room.courier.pack(waiting.digest))
    there.releases.refuse(waiting.digest, reason="too slow", signer=signer(PLATFORM))
    for _ in range(2):
        done = room.courier.unpack(there.courier.pack(waiting.digest))
        assert (done.state, done.why) == (ReleaseState.REFUSED, "bob refused it: too slow")


def test_a_release_without_its_charter(room: Room, there: Room) -> None:
    waiting = room.requested(room.version())
    packed = room.courier.pack(waiting.digest)
    with pytest.raises(NotFound, match="no charter"):
        there.courier.unpack(packed)
    theirs = first_charter("theirs", {"x": {"x": there.members.make("x")}}, solo=True)
    there.charters.propose(theirs, [there.members.key("x")])
    with pytest.raises(Forbidden, match="signed by nobody who may evaluate"):
        there.courier.unpack(packed)
    with pytest.raises(Conflict, match="a charter that is not known here"):
        there.releases.take(waiting.envelope)


def test_what_somebody_put_into_a_bundle(room: Room, there: Room) -> None:
    """A release signed by strangers, evidence that nobody signed, a decision by nobody."""
    there.courier.unpack_charter(room.courier.pack_charter())
    version = room.version()
    waiting = room.requested(version)
    bundle = unpacked(room.courier.pack(waiting.digest))
    strange = change(bundle, releases=(signed(signed(waiting.envelope, STRANGER), LAB),))
    taken = there.courier.unpack(msgspec.json.encode(strange))
    assert taken.signed_by == ("ada of lab",)
    assert len(taken.envelope.signatures) == 1, "strangers' signatures are not kept"
    unsigned = change(bundle, evidence=(sealed(proof(version, "regression", at=5, failures=0)),))
    with pytest.raises(Forbidden):
        there.courier.unpack(msgspec.json.encode(unsigned))
    wrong = change(bundle, releases=(bundle.evidence[0],))
    with pytest.raises(InvalidRequest, match="The release is of the type"):
        there.courier.unpack(msgspec.json.encode(wrong))


def test_without_its_evidence_a_release_is_not_signed(room: Room, there: Room) -> None:
    there.courier.unpack_charter(room.courier.pack_charter())
    waiting = room.requested(room.version())
    bundle = change(unpacked(room.courier.pack(waiting.digest)), evidence=())
    there.courier.unpack(msgspec.json.encode(bundle))
    with pytest.raises(Conflict, match="does not bear out the verdict"):
        there.releases.sign(waiting.digest, [PLATFORM])


@pytest.mark.parametrize("data", [b"", b"[]", b'{"charter": 3}', b'{"other": []}', b"\xff", b'{"a": ' + b"[" * 50_000])
def test_what_is_no_bundle(room: Room, data: bytes) -> None:
    for act in (room.courier.unpack, room.courier.unpack_charter):
        with pytest.raises(InvalidRequest, match="no bundle"):
            act(data)


def test_bundles_are_bounded(room: Room) -> None:
    with pytest.raises(InvalidRequest, match="larger than"):
        room.courier.unpack(b" " * (MOST_BUNDLE_BYTES + 1))


def test_a_bundle_of_the_other_kind(room: Room, bare: Room) -> None:
    with pytest.raises(InvalidRequest, match="holds no release"):
        room.courier.unpack(room.courier.pack_charter())
    waiting = room.requested(room.version())
    with pytest.raises(InvalidRequest, match="holds no charter"):
        room.courier.unpack_charter(room.courier.pack(waiting.digest))
    with pytest.raises(NotFound):
        room.courier.pack("sha256:" + "0" * 64)


def test_nothing_to_pack(there: Room) -> None:
    with pytest.raises(NotFound, match="no charter yet"):
        there.courier.pack_charter()
