"""Retention: what each room refers to is kept and checked, what none of them does is collected."""

from typing import Protocol

from tandem.kit.config import Settings
from tandem.kit.db import Database
from tandem.kit.errors import Conflict
from tandem.registry import Claims, EvidenceStore, Registry, Releases, ReleaseState, Retention, Runs, claim_versions
from tandem.serve import uses
from tandem.spec import Version

_PAGE = 200


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
    def evidence(self) -> EvidenceStore: ...
    @property
    def releases(self) -> Releases: ...


def retention(house: Rooms) -> Retention:
    """The keeper of the home's bytes, who asks all rooms what they refer to."""
    return Retention(house.registry.blobs, house.settings.home, house.runs, claims=lambda: claims(house))


def claims(house: Rooms) -> Claims:
    """Who refers to which blob: versions, runs, deployments, evidence and releases."""
    found = Claims()
    claim_versions(found, house.registry, house.runs)
    for use in uses(house.db):
        for digest in filter(None, (use.digest, use.base)):
            found.add(digest, f"deployment {use.deployment} with {use.version}", needed=use.current)
    after: str | None = None
    while pieces := house.evidence.page(limit=_PAGE, after=after):
        for piece in pieces:
            owner = f"evidence of {piece.evidence.suite} on {piece.evidence.version}"
            found.add(piece.evidence.transcripts, f"{owner}, whose transcripts it is", needed=False)
            for digest in filter(None, (piece.evidence.digest, piece.evidence.base or "")):
                found.add(digest, owner, needed=False)
        after = pieces[-1].digest
    after = None
    while standings := house.releases.page(limit=_PAGE, after=after):
        for one in standings:
            for digest in filter(None, (one.release.digest, one.release.base or "")):
                found.add(digest, f"release of {one.release.version}", needed=False)
        after = standings[-1].digest
    return found


def remove_version(ref: str, *, house: Rooms) -> Version:
    """Take a version out of the register, if nothing refers to it; its bytes go with the next collection.

    Raises:
        NotFound: there is no such version.
        Conflict: somebody refers to it; the message says who.
    """
    version = house.registry.resolve(ref)
    asked = (_serving, _releasing, _begun, _based)
    if owners := [owner for ask in asked for owner in ask(version, house)]:
        raise Conflict(
            f"{version.ref} cannot be removed: {'; '.join(owners)}.",
            remedy="End that first: `tandem undeploy`, `tandem release withdraw`. What was trained from it needs it.",
        )
    return house.registry.remove(version.ref)


def _serving(version: Version, house: Rooms) -> list[str]:
    names = {use.deployment for use in uses(house.db) if use.current and use.version == version.ref}
    return [f"the deployment {name} has it" for name in sorted(names)]


def _releasing(version: Version, house: Rooms) -> list[str]:
    found = house.releases.page(limit=_PAGE, name=version.name, state=ReleaseState.IN_FORCE)
    return [f"its release {one.digest[:19]} is in force" for one in found if one.release.version == version.ref]


def _based(version: Version, house: Rooms) -> list[str]:
    """Adapters of these bytes, unless another version has them too."""
    digest = version.artifact.digest
    if len(house.registry.with_digest(digest)) > 1:
        return []
    return [f"{one.ref} is an adapter of it" for one in house.registry.on_base(digest)]


def _begun(version: Version, house: Rooms) -> list[str]:
    """Runs whose parent has these weights, unless another version has them too."""
    digest = version.whole
    if not digest or len(house.registry.with_weights(digest)) > 1:
        return []
    naming = [run_id for run_id in house.runs.naming(digest) if house.runs.recipe(run_id).model.parent_sha256 == digest]
    return [f"the run {run_id} began from it" for run_id in naming]
