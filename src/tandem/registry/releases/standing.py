"""How a release stands: from its document, signatures and decisions, and the charter's chain, to a state; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tandem.kit.signing import Envelope, signers
from tandem.registry.charter import Charter
from tandem.registry.gates import covers
from tandem.registry.releases.book import Chain
from tandem.registry.releases.documents import Decision, Opened, Release


class ReleaseState(StrEnum):
    """What a release is good for; only one in force lets its version out."""

    PENDING = "pending"
    IN_FORCE = "in force"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    VOID = "void"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A release as it stands now. `why` is what keeps it from being in force, in words."""

    digest: str
    release: Release
    envelope: Envelope
    state: ReleaseState
    signed_by: tuple[str, ...] = ()
    """`member of party`, those whose signatures count."""
    missing: frozenset[str] = frozenset()
    """Parties that must sign and have not."""
    decision: Decision | None = None
    why: str = ""


def stand(release: Opened[Release], chain: Chain, decisions: Sequence[Opened[Decision]]) -> Standing:
    """How a release stands under a chain of charters."""
    envelope, document = release

    def result(state: ReleaseState, why: str = "", *, decision: Decision | None = None) -> Standing:
        return Standing(
            digest=envelope.digest,
            release=document,
            envelope=envelope,
            state=state,
            signed_by=signed_by,
            missing=missing,
            decision=decision,
            why=why,
        )

    rule = chain.of(document.charter)
    keys = signers(envelope) - _revoked(chain)
    signed_by = rule.charter.names_of(keys, "sign") if rule is not None else ()
    missing = rule.charter.needs - rule.charter.parties_of(keys, "sign") if rule is not None else frozenset()
    if (ended := _ending(envelope.digest, chain, decisions)) is not None:
        refused = ended.verdict == "refuse"
        state = ReleaseState.REFUSED if refused else ReleaseState.WITHDRAWN
        why = f"{ended.by} {'refused' if refused else 'withdrew'} it: {ended.reason}"
        return result(state, why, decision=ended)
    if rule is None:
        return result(ReleaseState.VOID, f"the charter {document.charter} that it names is none of this chain")
    if (fault := _fault(document, rule.charter)) is not None:
        return result(ReleaseState.VOID, fault)
    if missing:
        return result(ReleaseState.PENDING, f"it lacks the signature of {' and '.join(sorted(missing))}")
    return result(ReleaseState.IN_FORCE)


def _revoked(chain: Chain) -> frozenset[str]:
    """Keys that count nowhere: what the current charter says of them holds for what they signed before, too."""
    return frozenset(chain.current.charter.revoked) if chain.current is not None else frozenset()


def _ending(digest: str, chain: Chain, decisions: Sequence[Opened[Decision]]) -> Decision | None:
    """The first decision that counts. Nothing revives a release: neither a revoked key nor a later charter."""
    counting = [
        one.document
        for one in decisions
        if one.document.release == digest and chain.ever(signers(one.envelope), "sign")
    ]
    return min(counting, key=lambda one: one.at, default=None)


def _fault(document: Release, charter: Charter) -> str | None:
    """How a release contradicts itself or its charter, or None; whoever signed it."""
    verdict = document.verdict
    if (verdict.version, verdict.digest, verdict.charter) != (document.version, document.digest, document.charter):
        return "its verdict is about something else"
    one = charter.class_of(document.as_version())
    if one is None or one.name != verdict.model_class or not covers(verdict, charter):
        return "its verdict does not meet each clause of its class"
    if document.mode != charter.mode:
        return f"it says {document.mode} where the charter says {charter.mode}"
    return None
