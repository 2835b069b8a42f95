"""Envelopes: who signed what, and that nothing else passes for it; key files that are nobody else's."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit import signing
from tandem.kit.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from tandem.kit.signing import (
    MOST_BYTES,
    MOST_SIGNATURES,
    Envelope,
    Signature,
    check_public,
    decode,
    encode,
    load_key,
    merged,
    new_key,
    public_text,
    save_key,
    signed,
    signers,
)

ADA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BOB = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def envelope(payload: bytes = b"hello world", kind: str = "http://example.com/HelloWorld") -> Envelope:
    return Envelope(payload_type=kind, payload=payload)


def test_what_is_signed_is_what_dsse_says() -> None:
    """The example of the DSSE protocol: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    [signature] = signed(envelope(), ADA).signatures
    ADA.public_key().verify(signature.sig, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")


def test_an_envelope_on_the_wire_has_the_names_of_dsse() -> None:
    written = json.loads(encode(signed(envelope(), ADA)))
    assert set(written) == {"payloadType", "payload", "signatures"}
    assert base64.b64decode(written["payload"]) == b"hello world"
    assert set(written["signatures"][0]) == {"keyid", "sig"}
    assert decode(encode(signed(envelope(), ADA)), what="It") == signed(envelope(), ADA)


def test_signers_are_those_who_signed() -> None:
    both = signed(signed(envelope(), ADA), BOB)
    assert signers(both) == {public_text(ADA), public_text(BOB)}
    assert signed(both, ADA) is both
    assert signers(envelope()) == frozenset()
    assert both.digest == envelope().digest == f"sha256:{hashlib.sha256(b'hello world').hexdigest()}"


@given(st.binary(max_size=40), st.text(max_size=20), st.binary(max_size=40), st.text(max_size=20))
def test_a_signature_holds_for_nothing_else(payload: bytes, kind: str, other: bytes, other_kind: str) -> None:
    mine = signed(envelope(payload, kind), ADA)
    moved = Envelope(payload_type=other_kind, payload=other, signatures=mine.signatures)
    assert bool(signers(moved)) == ((payload, kind) == (other, other_kind))


@given(st.integers(0, 511))
def test_a_changed_signature_does_not_count(bit: int) -> None:
    [signature] = signed(envelope(), ADA).signatures
    changed = bytearray(signature.sig)
    changed[bit // 8] ^= 1 << bit % 8
    forged = Signature(keyid=signature.keyid, sig=bytes(changed))
    assert not signers(Envelope(payload_type=envelope().payload_type, payload=b"hello world", signatures=(forged,)))


@pytest.mark.parametrize("sig", [b"", b"short", bytes(64), bytes(65)])
def test_what_is_no_signature_does_not_count(sig: bytes) -> None:
    forged = Signature(keyid=public_text(ADA), sig=sig)
    assert not signers(Envelope(payload_type="a", payload=b"b", signatures=(forged,)))


def test_another_key_cannot_sign_in_my_name() -> None:
    [theirs] = signed(envelope(), BOB).signatures
    forged = Signature(keyid=public_text(ADA), sig=theirs.sig)
    assert not signers(Envelope(payload_type=envelope().payload_type, payload=b"hello world", signatures=(forged,)))


def test_a_key_has_one_spelling() -> None:
    """The last character of 43 holds two bits that mean nothing: with them, one key would pass for four members."""
    mine = signed(envelope(), ADA)
    text, [signature] = public_text(ADA), mine.signatures
    place = LETTERS.index(text[-2])
    for other in LETTERS[place + 1 : place + 4]:
        alias = f"{text[:-2]}{other}="
        assert base64.b64decode(alias[8:]) == base64.b64decode(text[8:]), "the same 32 bytes"
        with pytest.raises(InvalidRequest):
            check_public(alias)
        forged = Signature(keyid=alias, sig=signature.sig)
        twice = Envelope(payload_type=mine.payload_type, payload=mine.payload, signatures=(signature, forged))
        assert signers(twice) == {text}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "ed25519:AAAA",
        "rsa:" + public_text(ADA)[8:],
        public_text(ADA)[8:],
        public_text(ADA) + "\n",
        public_text(ADA) + "=",
        " " + public_text(ADA),
        "ed25519:" + public_text(ADA),
        "ed25519:é" + public_text(ADA)[9:],
    ],
)
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no public key"):
        check_public(text)


def test_a_public_key_is_its_own_text() -> None:
    assert check_public(public_text(ADA)) == public_text(ADA)
    raw = ADA.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert public_text(ADA) == f"ed25519:{base64.b64encode(raw).decode()}"


def test_merging_takes_what_is_genuine_and_new() -> None:
    [theirs] = signed(envelope(), BOB).signatures
    junk = [Signature(keyid=public_text(new_key()), sig=bytes(64)), Signature(keyid="nobody", sig=b"")]
    mine = signed(envelope(), ADA)
    whole = merged(mine, [*junk, theirs, theirs, *mine.signatures])
    assert whole.signatures == (*mine.signatures, theirs)
    assert merged(whole, [*junk, theirs]) is whole
    assert merged(mine, ()) is mine
    spoilt = Envelope(payload_type=mine.payload_type, payload=mine.payload, signatures=(*junk, *mine.signatures))
    assert merged(spoilt, [theirs]).signatures == (*mine.signatures, theirs)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"payloadType": "a"}',
        b'{"payloadType": "a", "payload": "not base64!"}',
        b'{"payloadType": "a", "payload": "", "signatures": [{"keyid": "x"}]}',
        b'\xff\xfe{"payloadType"',
        b'{"extra": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="The file is no signed document") as caught:
        decode(data, what="The file")
    assert caught.value.remedy


def test_envelopes_are_bounded() -> None:
    with pytest.raises(IntegrityError, match="larger than"):
        decode(b" " * (MOST_BYTES + 1), what="The file")
    many = tuple(Signature(keyid="x", sig=b"") for _ in range(MOST_SIGNATURES + 1))
    with pytest.raises(IntegrityError, match="more than 64 signatures"):
        decode(encode(Envelope(payload_type="a", payload=b"", signatures=many)), what="The file")
    assert decode(encode(Envelope(payload_type="a", payload=b"", signatures=many[1:])), what="The file")


@pytest.mark.parametrize("passphrase", ["", "open sesame"])
def test_a_key_file_comes_back(tmp_path: Path, passphrase: str) -> None:
    path = tmp_path / "keys" / "ada.pem"
    save_key(path, ADA, passphrase=passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert public_text(load_key(path, passphrase=passphrase)) == public_text(ADA)
    with pytest.raises(InvalidRequest, match="cannot be opened"):
        load_key(path, passphrase="wrong")
    if passphrase:
        assert b"ENCRYPTED" in path.read_bytes()
        with pytest.raises(InvalidRequest, match="cannot be opened") as caught:
            load_key(path)
        assert "TANDEM_SIGNING_PASSPHRASE" in caught.value.remedy
        assert passphrase not in str(caught.value)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ada.pem"
    save_key(path, ADA)
    before = path.read_bytes()
    with pytest.raises(Conflict):
        save_key(path, BOB)
    assert path.read_bytes() == before


def test_half_a_key_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "ada.pem"
    with monkeypatch.context() as patch:
        patch.setattr(signing.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_key(path, ADA)
    save_key(path, ADA)
    assert public_text(load_key(path)) == public_text(ADA)


def test_what_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_key(tmp_path / "nobody.pem")
    path = tmp_path / "junk.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(InvalidRequest, match="cannot be opened"):
        load_key(path)
    other = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    path.write_bytes(other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    with pytest.raises(InvalidRequest, match="no Ed25519 key"):
        load_key(path)
