"""Bundles: charter, evidence and releases in one file, so that two parties can sign on two machines."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.kit.signing import MOST_BYTES, Envelope
from tandem.registry.releases.book import Amendment, CharterBook
from tandem.registry.releases.evidence import EvidenceStore
from tandem.registry.releases.release import Releases
from tandem.registry.releases.standing import Standing

MOST_BUNDLE_BYTES = 16 * MOST_BYTES


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signed documents on their way. Nothing in it is believed: each is checked as if it came alone."""

    charter: tuple[Envelope, ...] = ()
    """From revision 1 on; the last one may lack signatures."""
    evidence: tuple[Envelope, ...] = ()
    releases: tuple[Envelope, ...] = ()
    """The one that the bundle is about is the last; before it comes the one that it was compared with."""
    decisions: tuple[Envelope, ...] = ()


@dataclass(frozen=True, slots=True)
class Courier:
    """Packs what another machine needs, and unpacks what it sent."""

    charters: CharterBook
    evidence: EvidenceStore
    releases: Releases

    def pack_charter(self) -> bytes:
        """The charter, with the revision that waits for signatures, if there is one.

        Raises:
            NotFound: there is neither.
        """
        held = [one.envelope for one in self.charters.chain().revisions]
        if (waiting := self.charters.pending()) is not None:
            held.append(waiting.revision.envelope)
        if not held:
            raise NotFound("There is no charter yet.", remedy="`tandem charter init` makes one.")
        return msgspec.json.encode(Bundle(charter=tuple(held)))

    def unpack_charter(self, data: bytes) -> Amendment | None:
        """Take the revisions, and the signatures, that are not here; returns what the last new one needs.

        Raises:
            InvalidRequest: it is no bundle with a charter.
            Conflict: a revision differs from the one that is here, or does not follow it.
        """
        found = _bundle(data).charter
        if not found:
            raise InvalidRequest("The file holds no charter.", remedy="`tandem charter export` writes one.")
        amendment = None
        held = self.charters.chain().revisions
        for number, envelope in enumerate(found, start=1):
            if number > len(held):
                amendment = self.charters.offer(envelope)
            elif held[number - 1].digest != envelope.digest:
                raise Conflict(
                    f"Revision {number} of the charter differs from the one here.",
                    remedy=f"Compare them with `tandem charter show --revision {number}`, and agree which one holds; "
                    f"where the other is, move charter/{number:04}.json and all after it away, and import again.",
                )
        return amendment

    def pack(self, digest: str) -> bytes:
        """A release with the evidence that it rests on and the one that it was compared with.

        Raises:
            NotFound: there is no such release.
        """
        standing = self.releases.get(digest)
        previous = standing.release.previous
        before = [self.releases.get(previous).envelope] if previous else []
        proofs = [self.evidence.get(one).envelope for one in standing.release.evidence]
        return msgspec.json.encode(
            Bundle(
                evidence=tuple(proofs),
                releases=(*before, standing.envelope),
                decisions=tuple(self.releases.decisions(digest)),
            )
        )

    def unpack(self, data: bytes) -> Standing:
        """Take a release that another machine packed, with its evidence and signatures; returns how it stands here.

        Raises:
            InvalidRequest: it is no bundle with a release.
            TandemError: a document in it is not what it should be.
        """
        bundle = _bundle(data)
        if not bundle.releases:
            raise InvalidRequest("The file holds no release.", remedy="`tandem release export` writes one.")
        for envelope in bundle.evidence:
            self.evidence.add(envelope)
        taken = [self.releases.take(envelope) for envelope in bundle.releases]
        self._end(bundle.decisions, taken)
        return self.releases.get(taken[-1].digest)

    def _end(self, decisions: Sequence[Envelope], taken: Sequence[Standing]) -> None:
        ended = {one.digest for one in taken if one.decision is not None}
        for envelope in decisions:
            if taken[-1].digest not in ended:
                ended.add(self.releases.decide(envelope).digest)


def _bundle(data: bytes) -> Bundle:
    if len(data) > MOST_BUNDLE_BYTES:
        raise InvalidRequest(f"The file is larger than {MOST_BUNDLE_BYTES} bytes.", remedy="No bundle of ours is.")
    try:
        return msgspec.json.decode(data, type=Bundle)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The file is no bundle of documents: {error}.", remedy="Export it again.") from error
