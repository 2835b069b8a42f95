"""Evidence: what a suite measured of a version, as a document that is signed and never changes."""

from typing import Annotated, Any

import msgspec

EVIDENCE_TYPE = "application/vnd.tandem.evidence+json"

# NOTE: documents live for ever. Fields are only added, at the end, with a default.

Bounded = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number of a suite. `low` and `high` hold 95 % of it where the suite could tell, else they are the value."""

    name: str
    value: Bounded
    low: Bounded
    high: Bounded
    samples: int
    """Cases that the number rests on."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one suite found out about one version.

    `answered` cases got an answer; those that a filter blocked and those that failed are counted beside them and are
    no answers, so that neither can change a score in silence.
    """

    version: str
    """name@number"""
    digest: Digest
    """Of the bytes that were measured."""
    suite: str
    suite_digest: Digest
    """Of the suite's cases, scorers and settings: numbers compare only where it is equal."""
    metrics: tuple[Metric, ...]
    answered: int
    filtered: int
    failed: int
    transcripts: Digest
    """The blob that holds all questions and answers."""
    baseline: str = ""
    """What `..._gain` metrics compare with: another version, or a baseline without a model."""
    engine: str = ""
    """The engine and its version."""
    hardware: dict[str, Any] = {}
    runner: str = ""
    """The program that measured, with its version."""
    measured_at: int = 0
    """Unix milliseconds."""
    base: Digest | msgspec.UnsetType = msgspec.UNSET
    """Of the model that the measured bytes, an adapter, went with; not there where they are a whole model."""

    def metric(self, name: str) -> Metric | None:
        """The metric of this name, if the suite has it."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def canonical_document(document: msgspec.Struct) -> bytes:
    """The bytes of a document that are signed: JSON with sorted keys."""
    return msgspec.json.encode(document, order="sorted")
