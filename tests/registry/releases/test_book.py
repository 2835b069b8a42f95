"""The charter's chain: what makes a revision hold, and every way to spoil a file."""

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tandem.kit.errors import Conflict, Forbidden, IntegrityError, InvalidRequest, NotFound
from tandem.kit.signing import Envelope, decode, encode, new_key, public_text, signed
from tandem.registry import CHARTER_TYPE, CharterBook, succeeding
from tests.registry.releases.conftest import LAB, PLATFORM, STRANGER, Room, text

TIGHTER = ('metric = "edit_similarity"\ndrop_at_most = 0.02', 'metric = "edit_similarity"\ndrop_at_most = 0.01')
LOOSER = ('metric = "edit_similarity"\ndrop_at_most = 0.02', 'metric = "edit_similarity"\ndrop_at_most = 0.5')


def changed(room: Room, change: tuple[str, str]) -> str:
    """The current charter with one change, as the next revision."""
    current = room.charters.current()
    assert change[0] in current.text
    return succeeding(current.text.replace(*change), current)


def grown(room: Room, revisions: int = 3) -> Path:
    """A chain of several revisions; returns its folder."""
    for number in range(2, revisions + 1):
        text = changed(room, ("revision = ", f"# {number}\nrevision = "))
        assert room.charters.propose(text, [LAB]).holds
    return room.charters.folder


def test_there_is_none_yet(bare: Room) -> None:
    with pytest.raises(NotFound, match="no charter yet") as caught:
        bare.charters.current()
    assert "tandem charter init" in caught.value.remedy
    assert (bare.charters.chain().revisions, bare.charters.pending()) == ((), None)
    with pytest.raises(NotFound, match="no revision 1"):
        bare.charters.revision(1)
    assert not bare.charters.folder.exists(), "looking makes nothing"


def test_the_first_revision_needs_every_party(bare: Room) -> None:
    waiting = bare.charters.propose(text(), [LAB])
    assert (waiting.holds, waiting.missing, waiting.loosens) == (False, {"platform"}, ())
    assert bare.charters.pending() == waiting
    assert bare.charters.chain().current is None
    done = bare.charters.sign([PLATFORM])
    assert done.holds
    assert bare.charters.current() == done.revision
    assert bare.charters.pending() is None
    assert bare.reopened().charters.current() == done.revision
    assert bare.charters.revision(1) == done.revision


def test_a_party_alone_tightens(room: Room) -> None:
    first = room.charters.current()
    assert room.charters.propose(changed(room, TIGHTER), [PLATFORM]).holds
    second = room.charters.current()
    assert (second.charter.revision, second.charter.previous) == (2, first.digest)
    assert [one.digest for one in room.reopened().charters.chain().revisions] == [first.digest, second.digest]
    assert room.charters.chain().of(first.digest) == first
    assert room.charters.chain().of("sha256:0") is None


def test_loosening_needs_both(room: Room) -> None:
    waiting = room.charters.propose(changed(room, LOOSER), [LAB])
    assert (waiting.holds, waiting.missing) == (False, {"platform"})
    assert [reason for reason in waiting.loosens if "edit_similarity" in reason]
    assert room.charters.current().charter.revision == 1, "until then the old one holds"
    assert room.charters.sign([LAB]).missing == {"platform"}, "the same party twice is one party"
    assert room.charters.sign([PLATFORM]).holds
    assert room.charters.current().charter.revision == 2


def test_what_waits_can_be_dropped(room: Room) -> None:
    first = room.charters.propose(changed(room, LOOSER), [LAB])
    with pytest.raises(Conflict, match="Revision 2 waits for platform already"):
        room.charters.propose(changed(room, TIGHTER), [PLATFORM])
    assert room.charters.drop() == first
    assert room.charters.pending() is None
    for act in (room.charters.drop, lambda: room.charters.sign([LAB])):
        with pytest.raises(NotFound, match="No change of the charter waits"):
            act()
    assert room.charters.propose(changed(room, TIGHTER), [PLATFORM]).holds


def test_strangers_propose_and_sign_nothing(room: Room) -> None:
    with pytest.raises(Forbidden, match="may not amend"):
        room.charters.propose(changed(room, TIGHTER), [STRANGER])
    offered = signed(Envelope(payload_type=CHARTER_TYPE, payload=changed(room, TIGHTER).encode()), STRANGER)
    with pytest.raises(Forbidden, match="Nobody who may amend"):
        room.charters.offer(offered)
    assert room.charters.pending() is None
    room.charters.propose(changed(room, LOOSER), [LAB])
    with pytest.raises(Forbidden):
        room.charters.sign([STRANGER])


def test_a_stranger_cannot_found_a_charter_for_others(bare: Room) -> None:
    with pytest.raises(Forbidden):
        bare.charters.propose(text(), [STRANGER])
    with pytest.raises(Forbidden):
        bare.charters.propose(text(), [])


def test_a_revision_of_the_wrong_kind(room: Room) -> None:
    with pytest.raises(InvalidRequest, match="is no charter"):
        room.charters.offer(Envelope(payload_type="text/plain", payload=b"x"))
    with pytest.raises(InvalidRequest, match="is no text"):
        room.charters.offer(Envelope(payload_type=CHARTER_TYPE, payload=b"\xff"))
    with pytest.raises(InvalidRequest, match="not TOML"):
        room.charters.propose("nonsense", [LAB])


@pytest.mark.parametrize(
    ("old", "new"), [("revision = 2", "revision = 3"), ("revision = 2", "revision = 1"), ('previous = "', "# ")]
)
def test_a_revision_out_of_line(room: Room, old: str, new: str) -> None:
    proposed = changed(room, TIGHTER)
    assert old in proposed
    with pytest.raises(Conflict, match="This revision"):
        room.charters.propose(proposed.replace(old, new), [LAB, PLATFORM])


def test_two_revisions_from_the_same_one(room: Room) -> None:
    one, other = changed(room, TIGHTER), changed(room, LOOSER)
    room.charters.propose(one, [LAB])
    with pytest.raises(Conflict, match="says that it is revision 2, where 3 belongs"):
        room.charters.propose(other, [LAB, PLATFORM])


def test_two_sign_at_the_same_moment(bare: Room) -> None:
    bare.charters.propose(text(), [LAB])
    envelope = bare.charters.pending()
    assert envelope is not None
    others = [bare.reopened().charters for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(book.offer, signed(envelope.revision.envelope, PLATFORM)) for book in others]:
            try:
                future.result()
            except Conflict:
                pass  # it held already
    assert bare.charters.current().charter.revision == 1


def drop_signatures(path: Path) -> None:
    path.write_bytes(encode(msgspec.structs.replace(decode(path.read_bytes(), what=""), signatures=())))


def one_signature(path: Path) -> None:
    envelope = decode(path.read_bytes(), what="")
    path.write_bytes(encode(msgspec.structs.replace(envelope, signatures=envelope.signatures[:1])))


def loosened(path: Path) -> None:
    envelope = decode(path.read_bytes(), what="")
    payload = envelope.payload.replace(b"drop_at_most = 0.02", b"drop_at_most = 0.90")
    path.write_bytes(encode(msgspec.structs.replace(envelope, payload=payload)))


def resigned_by_a_stranger(path: Path) -> None:
    loosened(path)
    envelope = msgspec.structs.replace(decode(path.read_bytes(), what=""), signatures=())
    path.write_bytes(encode(signed(signed(envelope, STRANGER), new_key())))


def another_type(path: Path) -> None:
    envelope = decode(path.read_bytes(), what="")
    path.write_bytes(encode(msgspec.structs.replace(envelope, payload_type="text/plain")))


SPOILERS: list[Callable[[Path], object]] = [
    drop_signatures,
    loosened,
    resigned_by_a_stranger,
    another_type,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-10]),
    lambda path: path.write_text(decode(path.read_bytes(), what="").payload.decode()),
    lambda path: path.write_bytes(b" " * (9 * 1024 * 1024)),
]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_spoilt_file_is_named(room: Room, number: int, spoil: Callable[[Path], object]) -> None:
    folder = grown(room)
    assert len(room.charters.chain().revisions) == 3
    spoil(folder / f"{number:04}.json")
    for book in (room.charters, room.reopened().charters):
        with pytest.raises(IntegrityError) as caught:
            book.chain()
        assert re.search(rf"charter/0*({number}|{number + 1})\.json", caught.value.message)
        assert str(folder) not in str(caught.value)
        assert caught.value.remedy


def test_the_first_revision_with_one_signature(room: Room) -> None:
    one_signature(room.charters.folder / "0001.json")
    with pytest.raises(IntegrityError, match=r"charter/0001\.json lacks the signature of platform"):
        room.charters.chain()


def test_a_missing_file_is_named(room: Room) -> None:
    folder = grown(room)
    (folder / "0002.json").rename(folder / "gone")
    with pytest.raises(IntegrityError, match=r"charter/0002\.json is missing"):
        room.charters.chain()
    (folder / "gone").rename(folder / "0002.json")
    assert len(room.charters.chain().revisions) == 3
    (folder / "0001.json").unlink()
    with pytest.raises(IntegrityError, match=r"charter/0001\.json is missing"):
        room.charters.chain()


def test_a_revision_twice(room: Room) -> None:
    folder = grown(room)
    shutil.copy(folder / "0002.json", folder / "0004.json")
    with pytest.raises(IntegrityError, match=r"charter/0004\.json says that it is revision 2, where 4 belongs"):
        room.charters.chain()
    shutil.copy(folder / "0003.json", folder / "0002.json")
    (folder / "0004.json").unlink()
    with pytest.raises(IntegrityError, match=r"charter/0002\.json"):
        room.charters.chain()


def test_other_files_are_none_of_ours(room: Room) -> None:
    for name in ("0002.json.part-1", "0002 (copy).json", "notes.txt", "2.json"):
        (room.charters.folder / name).write_text("x")
    assert len(room.charters.chain().revisions) == 1


def test_the_chain_of_another_pair_is_a_chain_only_without_an_anchor(room: Room, tmp_path: Path) -> None:
    """Nothing but the anchor tells our charter from one that somebody founded with keys of their own."""
    digest = room.charters.current().digest
    theirs = CharterBook(tmp_path / "theirs")
    mine, other = new_key(), new_key()
    forged = text().replace(public_text(LAB), public_text(mine)).replace(public_text(PLATFORM), public_text(other))
    theirs.propose(forged, [mine, other])
    shutil.copy(theirs.folder / "0001.json", room.charters.folder / "0001.json")
    assert room.charters.current().digest != digest
    anchored = room.reopened(anchor=digest).charters
    with pytest.raises(IntegrityError, match="not the one that the setting charter_anchor names"):
        anchored.chain()
    with pytest.raises(IntegrityError, match="charter_anchor"):
        CharterBook(tmp_path / "new", anchor=digest).propose(forged, [mine, other])


def test_what_follows_a_key_that_was_revoked(room: Room) -> None:
    """Ada's key is stolen; both parties replace it, and what the thief signs then counts for nothing."""
    new = new_key()
    current = room.charters.current()
    revoking = current.text.replace(public_text(LAB), public_text(new)).replace(
        "[[parties]]", f'revoked = ["{public_text(LAB)}"]\n\n[[parties]]', 1
    )
    assert room.charters.propose(succeeding(revoking, current), [LAB, PLATFORM]).holds
    with pytest.raises(Forbidden):
        room.charters.propose(changed(room, TIGHTER), [LAB])
    assert room.charters.propose(changed(room, TIGHTER), [new]).holds


def test_a_broken_proposal_is_named(room: Room) -> None:
    room.charters.propose(changed(room, LOOSER), [LAB])
    (room.charters.folder / "pending.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"charter/pending\.json"):
        room.charters.pending()
    assert room.charters.current().charter.revision == 1, "the chain does not mind"


def test_an_unchanged_chain_is_not_read_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = room.charters.chain()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _path: pytest.fail("read again"))
        assert room.charters.chain() is chain
    path = room.charters.folder / "0001.json"
    path.write_bytes(path.read_bytes())
    assert room.charters.chain() is not chain


def test_a_text_that_succeeds(room: Room) -> None:
    current = room.charters.current()
    messy = 'name = "ours"\n  revision=7 # mine\nprevious = "sha256:x"\n\n[[classes]]\nrevision = "kept"\n'
    assert succeeding(messy, current) == (
        f'revision = 2\nprevious = "{current.digest}"\nname = "ours"\n\n[[classes]]\nrevision = "kept"\n'
    )
    assert succeeding("revision = 4", None) == "revision = 1\n"
    assert succeeding(current.text, current) == succeeding(succeeding(current.text, current), current)
