"""Releases: what the gate lets through is requested, signed, refused and withdrawn; engines ask for their permit."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tandem.kit import clock
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, Forbidden, IntegrityError, InvalidRequest, NotFound
from tandem.kit.signing import Envelope, Signature, merged, public_text, signed, signers
from tandem.registry.gates import Verdict, judge, newest
from tandem.registry.releases.book import CharterBook, Revision
from tandem.registry.releases.documents import Decision, Opened, Release, received, sealed
from tandem.registry.releases.evidence import EvidenceStore
from tandem.registry.releases.members import Signer
from tandem.registry.releases.shelf import Shelf
from tandem.registry.releases.standing import ReleaseState, Standing
from tandem.registry.versions import Registry
from tandem.spec import Evidence, Version

_log = logging.getLogger(__name__)

_SHORTEST = 6  # digits of a digest that somebody types


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """That these bytes may be served under this version's name now, and by whose word."""

    version: str
    digest: str
    release: str
    """The digest of the release."""
    charter: str
    mode: str
    signed_by: tuple[str, ...]
    base: str = ""
    """The digest of the model that the bytes, an adapter, may be served with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What a verdict says and rests on."""

    verdict: Verdict
    evidence: tuple[str, ...]
    previous: str = ""


class Releases:
    """The releases of this home. Methods block; `permit` is quick when asked again."""

    def __init__(
        self,
        db: Database,
        *,
        charters: CharterBook,
        evidence: EvidenceStore,
        registry: Registry,
        region: str = "local",
    ) -> None:
        self._shelf = Shelf(db, charters)
        self._charters = charters
        self._evidence = evidence
        self._registry = registry
        self._region = region

    def get(self, digest: str) -> Standing:
        """One release.

        Raises:
            NotFound: there is none with this digest.
            IntegrityError: its row was changed by hand.
        """
        return self._shelf.get(digest)

    def find(self, text: str) -> Standing:
        """A release by its digest, the beginning of that, or the newest one of a version (`coder@3`, `coder`).

        Raises:
            NotFound: there is none.
            InvalidRequest: several digests begin so.
        """
        if text.startswith("sha256:") and len(text) >= len("sha256:") + _SHORTEST:
            digests = self._shelf.beginning(text)
            if len(digests) > 1:
                raise InvalidRequest(f"Several releases begin with {text[:80]}.", remedy="Give more of the digest.")
            return self._shelf.get(digests[0] if digests else text)
        found = self._shelf.of_version(text) if "@" in text else self._shelf.of_name(text)
        if not found:
            raise NotFound(
                f"There is no release of {text[:80]!r}.",
                remedy="`tandem release request` begins one, `list` shows all.",
            )
        return found[0]

    def page(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        state: ReleaseState | None = None,
        name: str | None = None,
    ) -> list[Standing]:
        """Releases, the newest first, from the one after `after` on; on request those of one state or one model."""
        found = self._shelf.walk(after=after, name=name)
        return list(itertools.islice((one for one in found if state in {None, one.state}), limit))

    def current(self, name: str, *, besides: str = "") -> Standing | None:
        """The newest release in force of a model's versions; `besides` is a version that does not count."""
        found = [one for one in self._shelf.of_name(name) if one.state is ReleaseState.IN_FORCE]
        others = [one for one in found if one.release.version != besides]
        return max(others, key=lambda one: (one.release.requested_at, one.digest), default=None)

    def permit(
        self, version_ref: str, digest: str, *, base: str = "", system: str = "local", region: str | None = None
    ) -> Permit:
        """Leave to serve the bytes `digest` as this version; for the engine launcher, before it loads a weight.

        Where the bytes are an adapter, `base` is the digest of the model that it goes with.

        Raises:
            Forbidden: no release in force says so, or the charter does not let models be served there.
            Unavailable: the database does not answer, so nobody knows.
        """
        try:
            return self._permitted(version_ref, digest, base=base, system=system, region=region or self._region)
        except (NotFound, IntegrityError) as error:
            raise Forbidden(
                f"{version_ref} may not be served: {error.message}", remedy=error.remedy, code="not_released"
            ) from error

    def review(self, ref: str) -> Verdict:
        """What the gate says of a version now, without requesting anything; by its number also of a removed one.

        Raises:
            NotFound: there is no such version, or no charter.
        """
        version = self._registry.known(ref) if "@" in ref else self._registry.resolve(ref)
        return self._case(version, self._charters.current()).verdict

    def request(self, ref: str, *, by: str) -> Standing:
        """Ask for a version's release: if the gate lets it through, its document is there to be signed.

        The same request again changes nothing.

        Raises:
            NotFound: there is no such version, or no charter.
            Conflict: the gate says no; the message has a line for each clause that is not met.
        """
        version, rule = self._registry.resolve(ref), self._charters.current()
        case = self._case(version, rule)
        for verdict in (case.verdict, *self._twins(version, rule)):
            if not verdict.met:
                _log.warning("release of %s, requested by %s: the gate says no: %s", version.ref, by, verdict.reasons)
                raise _refused(version, verdict)
        if (known := self._same(version, case)) is not None:
            return known
        document = Release(
            version=version.ref,
            digest=version.artifact.digest,
            size=version.artifact.size,
            origin=version.origin,
            task=version.task,
            charter=rule.digest,
            verdict=case.verdict,
            evidence=case.evidence,
            mode=rule.charter.mode,
            requested_by=by[:200],
            requested_at=clock.unix_milliseconds(),
            previous=case.previous,
            base=version.artifact.base or msgspec.UNSET,
        )
        _log.info("release of %s requested by %s", version.ref, by)
        return self._shelf.put(Opened(sealed(document), document))

    def sign(self, digest: str, keys: Sequence[Ed25519PrivateKey]) -> Standing:
        """Sign a release with keys of this machine, after judging it again from the evidence that is here.

        Raises:
            NotFound: there is no such release.
            Forbidden: a key may not sign for a party.
            Conflict: the release is over or outdated, or the evidence here does not bear out its verdict.
        """
        envelope = self.get(digest).envelope
        for key in keys:
            envelope = signed(envelope, key)
        mine = {public_text(key) for key in keys}
        return self.add_signatures(digest, [one for one in envelope.signatures if one.keyid in mine])

    def add_signatures(self, digest: str, signatures: Iterable[Signature]) -> Standing:
        """Take signatures that were made elsewhere.

        Raises:
            As `sign`; Forbidden also for a signature that is not genuine.
        """
        standing, offered = self.get(digest), tuple(signatures)
        rule = self._signable(standing)
        bare = Envelope(payload_type=standing.envelope.payload_type, payload=standing.envelope.payload)
        genuine = signers(merged(bare, offered))
        for one in offered:
            if one.keyid not in genuine:
                raise Forbidden(f"The signature of {one.keyid[:80]} is not genuine.", remedy="Sign the release again.")
            if not rule.charter.parties_of(frozenset({one.keyid}), "sign"):
                raise Forbidden(
                    f"The key {one.keyid[:80]} may not sign releases.", remedy="`tandem charter show` lists who may."
                )
        result = self._shelf.add_signatures(digest, offered)
        _log.info("release of %s signed by %s; now %s", result.release.version, sorted(genuine), result.state)
        return result

    def refuse(self, digest: str, *, reason: str, signer: Signer) -> Standing:
        """Refuse a release that waits for signatures, for good.

        Raises:
            NotFound: there is no such release.
            Conflict: it is in force, which `withdraw` ends, or over.
            Forbidden: the signer may not sign.
        """
        return self._decide(digest, "refuse", reason, signer)

    def withdraw(self, digest: str, *, reason: str, signer: Signer) -> Standing:
        """Withdraw a release, for good; engines that run by it are stopped. Any party may do this alone.

        Raises:
            NotFound: there is no such release.
            Conflict: it is over.
            Forbidden: the signer may not sign.
        """
        return self._decide(digest, "withdraw", reason, signer)

    def decide(self, envelope: Envelope, *, about: str | None = None) -> Standing:
        """Take a signed decision that was made elsewhere; `about` is the release that it should be on.

        Raises:
            InvalidRequest: it is no decision, or on another release.
            NotFound, Conflict, Forbidden: as `refuse` and `withdraw`.
        """
        decision = received(envelope, Decision, what="The decision")
        document = decision.document
        if about not in {None, document.release}:
            raise InvalidRequest("The decision is on another release.", remedy="Send it there.", param="release")
        standing = self.get(document.release)
        charter = self._charters.current().charter
        if document.by not in {member.name for _, member in charter.able(signers(envelope), "sign")}:
            raise Forbidden(
                f"The decision of {document.by!r} is not signed by a member of this name who may sign releases.",
                remedy="`tandem charter show` lists who may.",
            )
        if standing.decision is not None:
            if standing.decision == document:
                return standing
            raise Conflict(
                f"The release is {standing.state}: {standing.why}.", remedy="There is nothing left to decide."
            )
        if document.verdict == "refuse" and standing.state is ReleaseState.IN_FORCE:
            raise Conflict("The release is in force.", remedy="`tandem release withdraw` ends it.")
        result = self._shelf.end(decision)
        _log.warning("release of %s: %s", result.release.version, result.why)
        return result

    def take(self, envelope: Envelope) -> Standing:
        """Take a release that was requested on another machine, with the signatures that count.

        Raises:
            InvalidRequest: it is no release.
            Conflict: it is void under the charter of this machine.
        """
        release = received(envelope, Release, what="The release")
        rule = self._charters.chain().of(release.document.charter)
        if rule is None:
            raise Conflict(
                "The release was made under a charter that is not known here.",
                remedy="`tandem charter import` takes the charter from the other party.",
            )
        able = [one for one in envelope.signatures if rule.charter.parties_of(frozenset({one.keyid}), "sign")]
        bare = Envelope(payload_type=envelope.payload_type, payload=envelope.payload)
        return self._shelf.put(Opened(merged(bare, able), release.document))

    def decisions(self, digest: str) -> list[Envelope]:
        """The signed decisions on a release, for handing on."""
        return [one.envelope for one in self._shelf.decided(digest)]

    def _permitted(self, ref: str, digest: str, *, base: str, system: str, region: str) -> Permit:
        charter = self._charters.current().charter
        for kind, name in (("serve", system), ("regions", region)):
            if not charter.allows("serve" if kind == "serve" else "regions", name):
                where = "on the system" if kind == "serve" else "in the region"
                raise Forbidden(
                    f"{ref} may not be served {where} {name!r}: the charter does not allow it.",
                    remedy="`tandem charter show` lists where models may be served.",
                    code="place_not_allowed",
                )
        found = [one for one in self._shelf.of_version(ref) if one.release.binds(digest, base)]
        for one in found:
            if one.state is ReleaseState.IN_FORCE:
                return Permit(
                    version=ref,
                    digest=digest,
                    release=one.digest,
                    charter=one.release.charter,
                    mode=one.release.mode,
                    signed_by=one.signed_by,
                    base=base,
                )
        with_base = f" with the base {base}" if base else ""
        why = (
            f"its release is {found[0].state}: {found[0].why}"
            if found
            else f"no release holds for its bytes {digest}{with_base}"
        )
        raise Forbidden(
            f"{ref} may not be served: {why}.",
            remedy=f"`tandem release request {ref}` asks for one, `tandem release sign` signs it; "
            "`tandem deploy --development` serves it to one key alone.",
            code="not_released",
        )

    def _case(self, version: Version, rule: Revision) -> _Case:
        """The gate's verdict on a version from all evidence that counts now."""
        mine = self._evidence.of(version.artifact.digest)
        current = self.current(version.name, besides=version.ref)
        return self._judged(version, rule, mine=mine, current=current, only=None)

    def _judged(
        self,
        version: Version,
        rule: Revision,
        *,
        mine: Mapping[str, Evidence],
        current: Standing | None,
        only: frozenset[str] | None,
    ) -> _Case:
        """The verdict from the evidence `mine` and that on the current release; of both `only` this, if given."""
        other = current.release.as_version() if current is not None else None
        theirs = self._evidence.of(other.artifact.digest) if other is not None else {}
        if only is not None:
            mine = {digest: one for digest, one in mine.items() if digest in only}
            theirs = {digest: one for digest, one in theirs.items() if digest in only}
        verdict = judge(
            version,
            mine,
            rule.charter,
            charter_digest=rule.digest,
            current=other,
            current_evidence=theirs,
        )
        suites = {finding.suite for finding in verdict.findings}
        used = {finding.evidence for finding in verdict.findings if finding.evidence}
        if other is not None:
            held = newest(theirs, other.artifact)
            used |= {digest for suite, (digest, _) in held.items() if suite in suites}
        return _Case(
            verdict=verdict,
            evidence=tuple(sorted(used)),
            previous=current.digest if current is not None else "",
        )

    def _twins(self, version: Version, rule: Revision) -> Iterator[Verdict]:
        """The verdicts on the same bytes as another class: to import what was trained here is no way around clauses.

        Nor is it one to remove what was trained first.
        """
        one = rule.charter.class_of(version)
        for twin in self._registry.with_weights(version.artifact.digest, ever=True):
            if rule.charter.class_of(twin) not in {None, one}:
                yield self._case(twin, rule).verdict

    def _same(self, version: Version, case: _Case) -> Standing | None:
        """A release that says the same and is not over."""
        for one in self._shelf.of_version(version.ref):
            bound = one.release.binds(version.artifact.digest, version.artifact.base)
            if one.release.verdict.charter != case.verdict.charter or not bound:
                continue
            same = one.release.verdict == case.verdict and one.release.previous == case.previous
            if one.state is ReleaseState.IN_FORCE or (one.state is ReleaseState.PENDING and same):
                return one
        return None

    def _signable(self, standing: Standing) -> Revision:
        """The charter under which a release may be signed now.

        Raises:
            Conflict: it is over, outdated, or the evidence here does not bear out its verdict.
        """
        rule, document = self._charters.current(), standing.release
        again = f"Request it again: tandem release request {document.version}"
        if standing.state not in {ReleaseState.PENDING, ReleaseState.IN_FORCE}:
            raise Conflict(f"The release of {document.version} is {standing.state}: {standing.why}.", remedy=again)
        if document.charter != rule.digest:
            raise Conflict(f"The charter changed after the release of {document.version} was requested.", remedy=again)
        version = document.as_version()
        current = self.current(version.name, besides=version.ref)
        if (current.digest if current is not None else "") != document.previous:
            raise Conflict(f"{document.version} was compared with another release than the current one.", remedy=again)
        mine = self._evidence.of(document.digest)
        case = self._judged(version, rule, mine=mine, current=current, only=frozenset(document.evidence))
        if case.verdict != document.verdict:
            raise Conflict(
                f"The evidence that is here does not bear out the verdict on {document.version}.",
                remedy="Import the release with its evidence, or request it again.",
            )
        return rule

    def _decide(self, digest: str, verdict: Literal["refuse", "withdraw"], reason: str, signer: Signer) -> Standing:
        if not 1 <= len(reason.strip()) <= 2000:
            raise InvalidRequest(
                "A decision needs a reason of 1 to 2000 characters.", remedy="Say why.", param="reason"
            )
        document = Decision(
            release=self.get(digest).digest,
            verdict=verdict,
            reason=reason.strip(),
            by=signer.name,
            at=clock.unix_milliseconds(),
        )
        return self.decide(signed(sealed(document), signer.key))


def _refused(version: Version, verdict: Verdict) -> Conflict:
    """The gate's no, with a line for each clause that is not met."""
    same = "" if verdict.version == version.ref else f", whose bytes are those of {verdict.version},"
    return Conflict(
        "\n- ".join([f"{version.ref}{same} does not meet the charter:", *verdict.reasons]),
        remedy=f"`tandem release review {verdict.version}` shows every clause.",
        code="gate_refused",
    )
