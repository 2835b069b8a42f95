"""Lineage: from an answer back to the data that taught its model, and from data forward to what answers with it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from tandem.accounts import Principal, Trace, find_request, request_id
from tandem.kit.config import Settings
from tandem.kit.db import Database
from tandem.kit.errors import NotFound
from tandem.registry import (
    Card,
    CharterBook,
    Datasets,
    Dossier,
    EvidenceStore,
    Graph,
    Kind,
    Node,
    Origins,
    Papers,
    Registry,
    Releases,
    Runs,
    Step,
    describe,
    explore,
)
from tandem.serve import Deployments, uses

_DEPLOYMENT = "deployment:"
_MOST = 200  # documents on a card


class Rooms(Protocol):
    """What the story stands on."""

    @property
    def settings(self) -> Settings: ...
    @property
    def db(self) -> Database: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def runs(self) -> Runs: ...
    @property
    def datasets(self) -> Datasets: ...
    @property
    def deployments(self) -> Deployments: ...
    @property
    def charters(self) -> CharterBook: ...
    @property
    def evidence(self) -> EvidenceStore: ...
    @property
    def releases(self) -> Releases: ...


def lineage(ref: str, *, house: Rooms, principal: Principal | None = None) -> Graph:
    """What `ref` came from and what came of it, as far as the caller may see; `None` is the house itself.

    `ref` is the id of a response, a version, a run, `deployment:NAME`, or the digest of a dataset, recipe, tokenizer,
    release, evidence or charter.

    Raises:
        NotFound: nothing has this name, or it is another tenant's.
        InvalidRequest: several things begin so.
        IntegrityError: the charter or a release was changed by hand.
    """
    origins = Origins(house.registry, house.runs, house.datasets)
    papers = Papers(house.releases, house.evidence, house.charters, named=origins.named)
    served = _Served(house, origins, papers, principal)
    start = served.find(ref) or papers.find(ref) or origins.find(ref)
    if start is None:
        raise NotFound(
            f"Nothing here is called {ref[:80]!r}.",
            remedy="Give the id of a response, a version such as coder@3, a run, deployment:NAME, or a whole digest.",
        )
    return explore(start, (served, papers, origins))


def model_card(ref: str, *, house: Rooms) -> Card:
    """The card of the version that `ref` means now.

    Raises:
        NotFound: there is no such version.
    """
    version = house.registry.resolve(ref)
    releases = house.releases.page(limit=_MOST, name=version.name)
    dossier = Dossier(
        evidence=[
            one
            for one in house.evidence.page(version=version.ref, limit=_MOST)
            if one.evidence.digest == version.artifact.digest
        ],
        releases=[one for one in releases if one.release.version == version.ref],
    )
    return describe(version, registry=house.registry, runs=house.runs, datasets=house.datasets, dossier=dossier)


class _Served:
    """What accounts and serve know of lineage: responses, and the deployments that they came through.

    A deployment is a node for each version that it has, so that an answer leads to the version that gave it, whatever
    the deployment serves by now.
    """

    def __init__(self, house: Rooms, origins: Origins, papers: Papers, principal: Principal | None) -> None:
        self._house = house
        self._origins = origins
        self._papers = papers
        self._principal = principal

    def find(self, ref: str) -> Node | None:
        if request_id(ref) is not None:
            journal = self._house.settings.home / "journal"
            trace = find_request(self._house.db, ref, self._principal, journal_folder=journal)
            return _response(ref, trace)
        if ref.startswith(_DEPLOYMENT):
            deployment = self._house.deployments.get(ref.removeprefix(_DEPLOYMENT), key=self._key)
            return self._bound(deployment.name, deployment.version)
        return None

    def sources(self, node: Node) -> Iterator[Step]:
        if node.kind is Kind.RESPONSE:
            yield Step("answered by", self._bound(str(node.facts["deployment"]), str(node.facts["version"])))
        elif node.kind is Kind.DEPLOYMENT:
            ref = str(node.facts["version"])
            release = None if node.facts.get("development") else self._papers.letting_out(ref)
            yield Step("serves", release or self._origins.named(ref))

    def results(self, node: Node) -> Iterator[Step]:
        if node.kind is Kind.RELEASE:
            ref = str(node.facts["version"])
            letting_out = self._papers.letting_out(ref)
            if letting_out is not None and letting_out.id == node.id:
                yield from (Step("serves", one) for one in self._serving(ref) if not one.facts.get("development"))
        elif node.kind is Kind.VERSION:
            released = self._papers.letting_out(node.id) is not None
            for one in self._serving(node.id):
                if one.facts.get("development") or not released:
                    yield Step("serves", one)

    @property
    def _key(self) -> str | None:
        """The id of the key whose development deployments are to be seen; None sees all."""
        return self._principal.key_id if self._principal is not None else None

    def _serving(self, ref: str) -> Iterator[Node]:
        """The deployments that serve a version now, or are on the way to it."""
        seen = {one.name for one in self._house.deployments.deployments(key=self._key)}
        for use in uses(self._house.db):
            if use.current and use.version == ref and use.deployment in seen:
                yield self._bound(use.deployment, ref)

    def _bound(self, name: str, ref: str) -> Node:
        """A deployment with one of its versions."""
        node = Node(kind=Kind.DEPLOYMENT, id=f"{name}={ref}", title=name, facts={"version": ref})
        try:
            deployment = self._house.deployments.get(name, key=self._key)
        except NotFound:
            return replace(node, missing=True)
        facts: dict[str, object] = {"version": ref, "engine": deployment.engine, "state": deployment.state.value}
        if deployment.version != ref:
            facts = {"version": ref, "now serves": deployment.version}
        if deployment.owner:
            facts["development"] = True
        return replace(node, facts=facts)


def _response(seen: str, trace: Trace) -> Node:
    facts: dict[str, object] = {
        "deployment": trace.deployment,
        "version": trace.version,
        "operation": trace.operation,
        "surface": trace.surface,
        "outcome": trace.outcome.value if trace.outcome is not None else "still running",
        "prompt_tokens": trace.prompt_tokens,
        "completion_tokens": trace.completion_tokens,
        "started_at": trace.started_at.isoformat(timespec="seconds"),
    }
    return Node(kind=Kind.RESPONSE, id=trace.id, title=seen, facts=facts)
