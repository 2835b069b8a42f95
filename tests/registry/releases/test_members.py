"""Members: the keys of this machine, and who of them may do what."""

from pathlib import Path

import pytest

from tandem.kit.errors import Conflict, Forbidden, IntegrityError, InvalidRequest, NotFound
from tandem.kit.signing import new_key, public_text, save_key
from tandem.registry import Charter, Members, first_charter
from tandem.registry.charter import parse_charter


def agreed(members: Members, *, solo: bool = False, **rights: str) -> Charter:
    """A charter of Ada, Anna and Bob; `rights` are what some may."""
    parties = {
        "lab": {"ada": members.public("ada"), "anna": members.public("anna")},
        "platform": {"bob": members.public("bob")},
    }
    text = first_charter("ours", parties, solo=solo)
    for name, may in rights.items():
        text = text.replace(f'key = "{members.public(name)}"', f'key = "{members.public(name)}"\nrights = {may}')
    return parse_charter(text, where="of the test")


@pytest.fixture
def members(home: Path) -> Members:
    made = Members(home)
    for name in ("ada", "anna", "bob", "cleo"):
        made.make(name)
    return made


def test_a_key_is_made_once(home: Path) -> None:
    members = Members(home)
    assert members.names() == []
    public = members.make("ada")
    assert members.names() == ["ada"]
    assert members.public("ada") == public == public_text(members.key("ada"))
    assert (home / "keys" / "ada.pub").read_text() == f"{public}\n"
    assert (home / "keys" / "ada.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="ada has a key here already"):
        members.make("ada")
    assert members.public("ada") == public
    (home / "keys" / "ada.pub").unlink()
    assert members.public("ada") == public, "the private half knows it too"


@pytest.mark.parametrize("name", ["", "../ada", "a/b", "a b", "-a", "a" * 65, "a\n"])
def test_what_is_no_name(home: Path, name: str) -> None:
    for act in (Members(home).make, Members(home).public, Members(home).key):
        with pytest.raises(InvalidRequest, match="is not a name"):
            act(name)


def test_a_key_that_is_not_here(members: Members) -> None:
    for act in (members.key, members.public):
        with pytest.raises(NotFound, match="The key of dora is not on this machine") as caught:
            act("dora")
        assert "ada, anna, bob, cleo" in caught.value.remedy


def test_a_passphrase_locks_the_keys(home: Path) -> None:
    public = Members(home, passphrase="open sesame").make("ada")
    closed = Members(home)
    assert closed.public("ada") == public, "what is public needs no passphrase"
    with pytest.raises(InvalidRequest, match="cannot be opened") as caught:
        closed.key("ada")
    assert "TANDEM_SIGNING_PASSPHRASE" in caught.value.remedy
    assert public_text(Members(home, passphrase="open sesame").key("ada")) == public


def test_a_public_half_of_another_key(home: Path, members: Members) -> None:
    (home / "keys" / "ada.pub").write_text(f"{members.public('bob')}\n")
    with pytest.raises(IntegrityError, match="is not the public half"):
        members.key("ada")


def test_the_only_one_signs(home: Path, members: Members) -> None:
    charter = agreed(members)
    for name in ("ada", "anna"):
        (home / "keys" / f"{name}.pem").unlink()
    [one] = members.signers(charter, "sign")
    assert (one.name, one.party, public_text(one.key)) == ("bob", "platform", members.public("bob"))


def test_of_several_one_is_named(members: Members) -> None:
    charter = agreed(members)
    with pytest.raises(InvalidRequest, match="The keys of ada and anna and bob are on this machine") as caught:
        members.signers(charter, "sign")
    assert "--as" in caught.value.remedy
    assert [one.party for one in members.signers(charter, "sign", name="anna")] == ["lab"]


def test_in_solo_mode_all_sign(members: Members) -> None:
    assert [one.name for one in members.signers(agreed(members, solo=True), "sign")] == ["ada", "anna", "bob"]


def test_rights_are_asked(members: Members) -> None:
    charter = agreed(members, anna='["evaluate"]')
    with pytest.raises(Forbidden, match="The key of anna on this machine may not sign"):
        members.signers(charter, "sign", name="anna")
    assert members.signers(charter, "evaluate", name="anna")
    with pytest.raises(Forbidden, match="may not amend"):
        members.signers(charter, "amend", name="cleo")
    with pytest.raises(NotFound, match="The key of dora"):
        members.signers(charter, "sign", name="dora")


def test_nobody_is_here(home: Path, members: Members, tmp_path: Path) -> None:
    charter = agreed(members)
    with pytest.raises(NotFound, match="No key of a member who may sign"):
        Members(tmp_path).signers(charter, "sign")


def test_the_name_of_a_file_is_not_the_member(home: Path, members: Members) -> None:
    """A file may be called anything: its key says whose it is."""
    charter = agreed(members)
    (home / "keys" / "bob.pem").rename(home / "keys" / "mine.pem")
    (home / "keys" / "bob.pub").unlink()
    [one] = members.signers(charter, "sign", name="mine")
    assert (one.name, one.party) == ("bob", "platform")
    save_key(home / "keys" / "bob.pem", new_key())
    with pytest.raises(Forbidden):
        members.signers(charter, "sign", name="bob")
