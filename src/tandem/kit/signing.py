"""Signed documents: DSSE envelopes with Ed25519 signatures, and the files of the keys that sign.

The envelope is that of DSSE 1.0 (https://github.com/secure-systems-lab/dsse), so its tools can check ours; a `keyid`
is the whole public key, `ed25519:` and the 32 bytes in base64, which makes it both the name and the means to verify.
"""

import base64
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tandem.kit.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from tandem.kit.ids import sha256_hex

_PREFIX = "ed25519:"
MOST_BYTES = 4 * 1024 * 1024
"""Of an envelope: more is refused before it is decoded."""
MOST_SIGNATURES = 64
"""Of an envelope: each costs a verification, and no document of ours has so many signers."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature; `sig` is base64 in JSON."""

    keyid: str
    sig: bytes


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A document's bytes, what they are, and who signed them."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def digest(self) -> str:
        """The identity of the document, whoever signs it: `sha256:` and the payload's digest."""
        return f"sha256:{sha256_hex(self.payload)}"


def signed(envelope: Envelope, key: Ed25519PrivateKey) -> Envelope:
    """The envelope with this key's signature; a second time changes nothing."""
    keyid = public_text(key)
    if any(known.keyid == keyid for known in envelope.signatures):
        return envelope
    made = Signature(keyid=keyid, sig=key.sign(_pre_authentication_encoding(envelope)))
    return msgspec.structs.replace(envelope, signatures=(*envelope.signatures, made))


def signers(envelope: Envelope) -> frozenset[str]:
    """The public keys whose signatures are genuine; others are not worth an error, they just do not count."""
    message = _pre_authentication_encoding(envelope)
    return frozenset(known.keyid for known in envelope.signatures if _genuine(known, message))


def encode(envelope: Envelope) -> bytes:
    """The envelope as JSON."""
    return msgspec.json.encode(envelope)


def decode(data: bytes | str, *, what: str) -> Envelope:
    """An envelope from JSON; `what` names it in the error.

    Raises:
        IntegrityError: it is none.
    """
    if len(data) > MOST_BYTES:
        raise IntegrityError(f"{what} is larger than {MOST_BYTES} bytes.", remedy="No document of ours is.")
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{what} is no signed document: {error}.", remedy="Restore it from a copy.") from error
    if len(envelope.signatures) > MOST_SIGNATURES:
        raise IntegrityError(f"{what} has more than {MOST_SIGNATURES} signatures.", remedy="No document of ours has.")
    return envelope


def merged(envelope: Envelope, more: Iterable[Signature]) -> Envelope:
    """The envelope with those of the other signatures that are genuine and not in it yet."""
    offered = msgspec.structs.replace(envelope, signatures=tuple(more)[:MOST_SIGNATURES])
    genuine, known = signers(offered), signers(envelope)
    fresh = {one.keyid: one for one in offered.signatures if one.keyid in genuine - known}
    kept = tuple(one for one in envelope.signatures if one.keyid in known)
    return msgspec.structs.replace(envelope, signatures=(*kept, *fresh.values())) if fresh else envelope


def new_key() -> Ed25519PrivateKey:
    """A fresh private key."""
    return Ed25519PrivateKey.generate()


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half as text."""
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return _PREFIX + base64.b64encode(raw).decode()


def check_public(text: str) -> str:
    """The text, if it is a public key.

    Raises:
        InvalidRequest: it is none.
    """
    if _public(text) is None:
        raise InvalidRequest(
            f"{text[:80]!r} is no public key.",
            remedy="It is `ed25519:` and 44 characters, as `tandem charter key` says.",
        )
    return text


def save_key(path: Path, key: Ed25519PrivateKey, *, passphrase: str = "") -> None:
    """Write a private key as PEM that only this user can read.

    Raises:
        Conflict: there is a file of this name; a key is never overwritten.
    """
    lock = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Conflict(f"There is a key in {path} already.", remedy="Choose another name.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()  # half a key would be in the way of the whole one
        raise


def load_key(path: Path, *, passphrase: str = "") -> Ed25519PrivateKey:
    """The private key in a PEM file.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: it is locked by another passphrase, or no Ed25519 key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"Cannot read the key {path}: {error.strerror}.", remedy="`tandem charter key` makes one."
        ) from error
    try:
        key = serialization.load_pem_private_key(data, passphrase.encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(
            f"The key {path} cannot be opened.",
            remedy="Give its passphrase in TANDEM_SIGNING_PASSPHRASE, or none if it has none.",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest(f"{path} holds no Ed25519 key.", remedy="`tandem charter key` makes one.")
    return key


def _genuine(signature: Signature, message: bytes) -> bool:
    public = _public(signature.keyid)
    if public is None:
        return False
    try:
        public.verify(signature.sig, message)
    except InvalidSignature:
        return False
    return True


def _public(text: str) -> Ed25519PublicKey | None:
    """The key, if this is the one way to write it: with several, one key could pass for two members."""
    try:
        raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return None
    if len(raw) != 32 or text != _PREFIX + base64.b64encode(raw).decode():
        return None
    return Ed25519PublicKey.from_public_bytes(raw)


def _pre_authentication_encoding(envelope: Envelope) -> bytes:
    """What is signed, by DSSE: lengths and both parts, so that no other split of the bytes means the same."""
    kind, body = envelope.payload_type.encode(), envelope.payload
    return b" ".join((b"DSSEv1", str(len(kind)).encode(), kind, str(len(body)).encode(), body))
