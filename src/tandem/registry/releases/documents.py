"""The documents of a release: the release itself, and the decision that refuses or withdraws it."""

from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from tandem.kit.errors import IntegrityError, InvalidRequest
from tandem.kit.signing import Envelope, decode
from tandem.registry.gates import Verdict
from tandem.spec import EVIDENCE_TYPE, Artifact, Evidence, Task, Version, canonical_document

RELEASE_TYPE = "application/vnd.tandem.release+json"
DECISION_TYPE = "application/vnd.tandem.decision+json"

# NOTE: documents live for ever. Fields are only added, at the end, with a default.

Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Ref = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[1-9][0-9]{0,8}\Z")]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
T = TypeVar("T", bound=msgspec.Struct)


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the parties sign: these bytes, by this verdict, under this charter."""

    version: Ref
    digest: Digest
    """Of the bytes that may be served."""
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    """Bytes."""
    origin: str
    task: Task
    charter: Digest
    verdict: Verdict
    evidence: tuple[Digest, ...]
    """All that the verdict rests on, that on the release it was compared with included."""
    mode: Literal["two-party", "solo"]
    """As the charter says; `solo` tells that one person signed for all parties."""
    requested_by: str
    requested_at: Milliseconds
    """Unix milliseconds."""
    previous: Annotated[str, msgspec.Meta(pattern=r"^(sha256:[0-9a-f]{64})?\Z")] = ""
    """The release that was current, and that it was compared with."""
    base: Digest | msgspec.UnsetType = msgspec.UNSET
    """Of the model that the bytes, an adapter, may be served with; not there where they are a whole model."""

    def binds(self, digest: str, base: str) -> bool:
        """Whether it is about these bytes; of an adapter, with this base."""
        return (self.digest, self.base or "") == (digest, base)

    def as_version(self) -> Version:
        """The version that it is about, as it was when the gate looked at it."""
        name, _, number = self.version.partition("@")
        artifact = Artifact(digest=self.digest, size=self.size, format="gguf", base=self.base or "")
        return Version(name=name, number=int(number), task=self.task, artifact=artifact, origin=self.origin)


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a release shall not go out, or no longer. It is for good; the version can be released again."""

    release: Digest
    verdict: Literal["refuse", "withdraw"]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    by: Annotated[str, msgspec.Meta(max_length=200)]
    at: Milliseconds
    """Unix milliseconds."""


class Opened(NamedTuple, Generic[T]):
    """An envelope with the document that is in it."""

    envelope: Envelope
    document: T


_KINDS: dict[Any, str] = {Release: RELEASE_TYPE, Decision: DECISION_TYPE, Evidence: EVIDENCE_TYPE}


def sealed(document: msgspec.Struct) -> Envelope:
    """A document in an envelope that nobody signed yet."""
    return Envelope(payload_type=_KINDS[type(document)], payload=canonical_document(document))


def opened(data: Envelope | bytes | str, kind: type[T], *, what: str) -> Opened[T]:
    """The document in an envelope; who signed it is not checked here. `what` names it in the error.

    Raises:
        IntegrityError: it is no envelope, or holds another kind of document.
    """
    envelope = data if isinstance(data, Envelope) else decode(data, what=what)
    if envelope.payload_type != _KINDS[kind]:
        raise IntegrityError(
            f"{what} is of the type {envelope.payload_type[:80]!r}, not {_KINDS[kind]!r}.", remedy="Choose another."
        )
    try:
        return Opened(envelope, msgspec.json.decode(envelope.payload, type=kind))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{what} holds no {kind.__name__.lower()}: {error}.", remedy="Make it anew.") from error


def received(envelope: Envelope, kind: type[T], *, what: str) -> Opened[T]:
    """The document in an envelope that somebody sent, who is told so if it is none.

    Raises:
        InvalidRequest: it holds another kind of document.
    """
    try:
        return opened(envelope, kind, what=what)
    except IntegrityError as error:
        raise InvalidRequest(error.message, remedy=error.remedy) from error
