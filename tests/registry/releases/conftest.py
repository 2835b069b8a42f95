"""A lab and a platform with their keys, a charter between them, and versions to release."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from tandem.kit.blobs import Blobs
from tandem.kit.db import Database
from tandem.kit.ids import sha256_hex
from tandem.kit.signing import public_text, signed
from tandem.registry import (
    CharterBook,
    Courier,
    EvidenceStore,
    Members,
    Registry,
    Releases,
    Signer,
    Standing,
    first_charter,
    sealed,
)
from tandem.spec import Artifact, Evidence, Metric, Task, Version

LAB = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PLATFORM = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)
EDITION = f"sha256:{7:064}"


@dataclass(frozen=True, slots=True)
class Room:
    """One machine's charter, evidence and releases."""

    home: Path
    db: Database
    registry: Registry
    charters: CharterBook
    members: Members
    evidence: EvidenceStore
    releases: Releases

    @property
    def courier(self) -> Courier:
        """What packs and unpacks its documents."""
        return Courier(self.charters, self.evidence, self.releases)

    def reopened(self, **changes: Any) -> "Room":
        """The same home and database, as another process sees them."""
        return opened_room(self.home, self.db, **changes)

    def version(
        self, name: str = "coder", data: str = "a", origin: str = "run:1", *, base: str = "", **facts: object
    ) -> Version:
        """A version with its own bytes, or an adapter of the bytes `base`."""
        digest = f"sha256:{sha256_hex(base)}" if base else ""
        artifact = Artifact(digest=f"sha256:{sha256_hex(data)}", size=10, format="gguf", base=digest)
        return self.registry.add(name, task=Task.GENERATE, artifact=artifact, origin=origin, facts=facts)

    def prove(self, version: Version, *, key: Ed25519PrivateKey = LAB, **changes: Any) -> list[str]:
        """Evidence that is good enough for a coder, each suite's; returns the digests."""
        numbers = {
            "quality-code": {"edit_similarity_gain": 0.2, "edit_similarity": 0.5},
            "regression": {"failures": 0.0},
        }
        digests = []
        for suite, metrics in numbers.items():
            told = {name: changes.get(name, value) for name, value in metrics.items()}
            digests.append(self.evidence.add(signed(sealed(proof(version, suite, **told)), key)))
        return digests

    def requested(self, version: Version) -> Standing:
        """A release that waits for its signatures."""
        self.prove(version)
        return self.releases.request(version.ref, by="test")

    def released(self, version: Version) -> Standing:
        """A release in force."""
        return self.releases.sign(self.requested(version).digest, [LAB, PLATFORM])


def proof(version: Version, suite: str, *, edition: str = EDITION, at: int = 1, **metrics: float) -> Evidence:
    """Evidence on a version."""
    return Evidence(
        version=version.ref,
        digest=version.artifact.digest,
        base=version.artifact.base or UNSET,
        suite=suite,
        suite_digest=edition,
        metrics=tuple(
            Metric(name=name, value=value, low=value, high=value, samples=50) for name, value in metrics.items()
        ),
        answered=50,
        filtered=0,
        failed=0,
        transcripts=f"sha256:{8:064}",
        measured_at=at,
    )


def opened_room(home: Path, db: Database, **changes: Any) -> Room:
    """The room of a home folder."""
    registry = Registry(db, Blobs(f"file://{home / 'blobs'}"))
    charters = CharterBook(home, anchor=changes.pop("anchor", ""))
    evidence = EvidenceStore(db, charters)
    releases = Releases(db, charters=charters, evidence=evidence, registry=registry, **changes)
    return Room(home, db, registry, charters, Members(home), evidence, releases)


def text(*, solo: bool = False, **more: str) -> str:
    """Revision 1 between Ada of the lab and Bob of the platform."""
    keys = {"lab": {"ada": public_text(LAB)}, "platform": {"bob": public_text(PLATFORM)}}
    return first_charter("ours", keys, solo=solo)


def signer(key: Ed25519PrivateKey) -> Signer:
    """Ada or Bob."""
    name, party = ("ada", "lab") if key is LAB else ("bob", "platform")
    return Signer(name=name, party=party, key=key)


@pytest.fixture
def bare(home: Path, sqlite_database: Database) -> Room:
    """A machine without a charter."""
    return opened_room(home, sqlite_database)


@pytest.fixture
def room(bare: Room) -> Room:
    """A machine with a charter of two parties."""
    bare.charters.propose(text(), [LAB, PLATFORM])
    return bare


@pytest.fixture
def both(home: Path, database: Database) -> Room:
    """The same on SQLite, then on PostgreSQL."""
    made = opened_room(home, database)
    made.charters.propose(text(), [LAB, PLATFORM])
    return made
