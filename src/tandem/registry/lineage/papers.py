"""What signed documents tell of lineage: evidence on versions, releases that rest on it, charters that they follow."""

from collections.abc import Callable, Iterator

from tandem.kit.errors import NotFound
from tandem.registry.lineage.graph import Kind, Node, Step
from tandem.registry.lineage.origins import moment, short
from tandem.registry.releases import CharterBook, EvidenceStore, Filed, Releases, ReleaseState, Revision, Standing

_MOST = 200  # documents about one thing


class Papers:
    """Reads lineage from the documents; `named` makes the node of a version. Its methods block."""

    def __init__(
        self, releases: Releases, evidence: EvidenceStore, charters: CharterBook, *, named: Callable[[str], Node]
    ) -> None:
        self._releases = releases
        self._evidence = evidence
        self._charters = charters
        self._named = named

    def find(self, ref: str) -> Node | None:
        """What a person means by a whole digest, or by the beginning of a release's.

        Raises:
            InvalidRequest: several releases begin so.
        """
        if not ref.startswith("sha256:"):
            return None
        for look in (self._release, self._piece, self._charter):
            try:
                return look(ref)
            except NotFound:
                continue
        return None

    def letting_out(self, ref: str) -> Node | None:
        """The release by which a version goes out, or by which it last did."""
        found = self._of_version(ref)
        best = [one for one in found if one.state is ReleaseState.IN_FORCE]
        once = [one for one in found if one.state is ReleaseState.WITHDRAWN]
        return _release_node((best or once)[0]) if best or once else None

    def sources(self, node: Node) -> Iterator[Step]:
        """What a release or evidence came from."""
        if node.kind is Kind.RELEASE:
            release = self._releases.get(node.id).release
            yield Step("releases", self._named(release.version))
            for digest in release.evidence:
                if (piece := self._known_piece(digest)) is None or piece.evidence.digest == release.digest:
                    yield Step("rests on", _piece_node(digest, piece))
            if (revision := self._charters.chain().of(release.charter)) is not None:
                yield Step("follows", _charter_node(revision))
        elif node.kind is Kind.EVIDENCE and not node.missing:
            yield Step("measures", self._named(self._evidence.get(node.id).evidence.version))

    def results(self, node: Node) -> Iterator[Step]:
        """What came of a version, evidence or a charter."""
        if node.kind is Kind.VERSION:
            for piece in self._evidence.page(version=node.id, limit=_MOST):
                yield Step("measures", _piece_node(piece.digest, piece))
            yield from (Step("releases", _release_node(one)) for one in self._of_version(node.id))
        elif node.kind is Kind.EVIDENCE and not node.missing:
            piece = self._evidence.get(node.id)
            for one in self._of_version(piece.evidence.version):
                if node.id in one.release.evidence:
                    yield Step("rests on", _release_node(one))
        elif node.kind is Kind.CHARTER:
            for one in self._releases.page(limit=_MOST):
                if one.release.charter == node.id:
                    yield Step("follows", _release_node(one))

    def _of_version(self, ref: str) -> list[Standing]:
        name = ref.partition("@")[0]
        return [one for one in self._releases.page(limit=_MOST, name=name) if one.release.version == ref]

    def _release(self, ref: str) -> Node:
        return _release_node(self._releases.find(ref))

    def _piece(self, ref: str) -> Node:
        return _piece_node(ref, self._evidence.get(ref))

    def _charter(self, ref: str) -> Node | None:
        revision = self._charters.chain().of(ref)
        return _charter_node(revision) if revision is not None else None

    def _known_piece(self, digest: str) -> Filed | None:
        try:
            return self._evidence.get(digest)
        except NotFound:
            return None


def _release_node(one: Standing) -> Node:
    document = one.release
    facts: dict[str, object] = {
        "state": one.state.value,
        "why": one.why,
        "version": document.version,
        "class": document.verdict.model_class,
        "mode": document.mode,
        "requested_by": document.requested_by,
        "requested_at": moment(document.requested_at),
        "signed_by": list(one.signed_by),
        "compared_with": document.verdict.compared_with,
        "base": document.base,
    }
    told = {key: value for key, value in facts.items() if value}
    return Node(kind=Kind.RELEASE, id=one.digest, title=f"{document.version} {short(one.digest)}", facts=told)


def _piece_node(digest: str, piece: Filed | None) -> Node:
    if piece is None:
        return Node(kind=Kind.EVIDENCE, id=digest, title=short(digest), missing=True)
    one = piece.evidence
    facts: dict[str, object] = {
        "suite": one.suite,
        "suite_digest": one.suite_digest,
        **{metric.name: metric.value for metric in one.metrics},
        "answered": one.answered,
        "filtered": one.filtered,
        "failed": one.failed,
        "engine": one.engine,
        "signed_by": list(piece.signed_by),
    }
    return Node(kind=Kind.EVIDENCE, id=digest, title=f"{one.suite} {short(digest)}", facts=facts)


def _charter_node(revision: Revision) -> Node:
    charter = revision.charter
    facts: dict[str, object] = {
        "mode": charter.mode,
        "parties": [party.name for party in charter.parties],
        "previous": charter.previous,
    }
    told = {key: value for key, value in facts.items() if value}
    return Node(kind=Kind.CHARTER, id=revision.digest, title=f"{charter.name} revision {charter.revision}", facts=told)
