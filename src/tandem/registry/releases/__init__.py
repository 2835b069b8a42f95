"""What may go out: the charter's chain, the keys that sign, evidence, and the releases that were made of it."""

from tandem.registry.releases.book import Amendment, Chain, CharterBook, Revision, succeeding
from tandem.registry.releases.bundle import Bundle, Courier
from tandem.registry.releases.documents import DECISION_TYPE, RELEASE_TYPE, Decision, Release, sealed
from tandem.registry.releases.evidence import EvidenceStore, Filed
from tandem.registry.releases.members import Members, Signer
from tandem.registry.releases.release import Permit, Releases
from tandem.registry.releases.standing import ReleaseState, Standing
from tandem.registry.releases.template import first_charter

__all__ = [
    "DECISION_TYPE",
    "RELEASE_TYPE",
    "Amendment",
    "Bundle",
    "Chain",
    "CharterBook",
    "Courier",
    "Decision",
    "EvidenceStore",
    "Filed",
    "Members",
    "Permit",
    "Release",
    "ReleaseState",
    "Releases",
    "Revision",
    "Signer",
    "Standing",
    "first_charter",
    "sealed",
    "succeeding",
]
