"""Evaluate: a version is stood up in private, suites measure it, and what they find becomes signed evidence."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Protocol

import msgspec

from tandem.evals import Endpoint, Measured, Suite, find_suite, hardware, measure, with_version
from tandem.flows.endpoint import CANDIDATE, Stand, private_endpoint
from tandem.kit import clock
from tandem.kit.config import Settings
from tandem.kit.errors import InvalidRequest
from tandem.kit.signing import Envelope, signed
from tandem.registry import CharterBook, EvidenceStore, Members, Registry, Releases, Signer
from tandem.serve import ENGINES, EngineFactory
from tandem.spec import EVIDENCE_TYPE, Evidence, Version, canonical_document

_PACKAGES = {"llamacpp": "xllamacpp"}  # which package an engine is


class Rooms(Protocol):
    """What the story stands on."""

    @property
    def settings(self) -> Settings: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def charters(self) -> CharterBook: ...
    @property
    def members(self) -> Members: ...
    @property
    def evidence(self) -> EvidenceStore: ...
    @property
    def releases(self) -> Releases: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Who wants to know how it goes: what is done now, and how far a suite is."""

    stage: Callable[[str], None] = lambda _words: None
    progress: Callable[[str, int, int | None], None] = lambda _suite, _done, _total: None


UNSEEN = Watcher()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one suite found out, and the evidence of it, which there is none of where only some cases were asked."""

    suite: Suite
    measured: Measured
    evidence: Evidence | None = None
    digest: str = ""
    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Which suites are asked: by name, else those of the version's class; only so many cases; signed by whom.

    `transcripts` is a folder that gets a copy of each log, for `inspect view`.
    """

    suites: tuple[str, ...] = ()
    limit: int | None = None
    member: str | None = None
    transcripts: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What versions are stood up with."""

    stand: Stand = CANDIDATE
    engines: Mapping[str, EngineFactory] = field(default_factory=lambda: ENGINES)


WHOLE, USUAL = Asking(), Means()


async def evaluate(
    ref: str, house: Rooms, *, asking: Asking = WHOLE, watcher: Watcher = UNSEEN, means: Means = USUAL
) -> list[Found]:
    """Measure a version; each suite's evidence is filed as soon as it is whole, and before that nothing is.

    Only a part of a suite (`limit`) is no evidence: it is measured and told, and not filed.

    Raises:
        NotFound: no such version, suite or key; or no charter, whose parties sign evidence.
        InvalidRequest: no suite is named, and the charter asks for none; or it is unclear who signs.
        MissingPrerequisite: Inspect AI is not installed.
        EngineFailed: the version does not answer.
    """
    version = await asyncio.to_thread(house.registry.resolve, ref)
    suites = await asyncio.to_thread(suites_asked, version, house, asking)
    # Before anything is measured: whoever may not sign shall not wait for that.
    signers = await asyncio.to_thread(_signers, house, asking.member) if any(one.whole for one in suites) else []
    compares = any(suite.kind == "code" for suite in suites)
    release = await asyncio.to_thread(_release, version, house) if compares else None
    found = []
    with tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True) as folder:
        async with _stood_up(version, release, house, watcher, means) as (endpoint, baseline):
            for number, suite in enumerate(suites):
                place = Path(folder) / str(number)
                place.mkdir()
                measured = await measure(suite, endpoint, baseline=baseline, folder=place, tell=watcher.progress)
                one = Found(suite=suite, measured=measured)
                found.append(await asyncio.to_thread(_filed, one, version, house, signers, means.stand.engine))
                if asking.transcripts is not None:  # after the evidence: a full disk there shall not cost that
                    await asyncio.to_thread(_copy, measured.transcripts, asking.transcripts)
    return found


@contextlib.asynccontextmanager
async def _stood_up(
    version: Version, release: Version | None, house: Rooms, watcher: Watcher, means: Means
) -> AsyncIterator[tuple[Endpoint, Endpoint | None]]:
    """The version, and beside it the current release where a suite compares with that, each on its own endpoint."""
    async with contextlib.AsyncExitStack() as stack:
        watcher.stage(f"Standing {version.ref} up")
        own = private_endpoint(version, house, stand=means.stand, engines=means.engines)
        endpoint, baseline = await stack.enter_async_context(own), None
        if release is not None:
            watcher.stage(f"Standing {release.ref}, the current release, up beside it")
            beside = private_endpoint(release, house, stand=replace(means.stand, name="release"), engines=means.engines)
            baseline = await stack.enter_async_context(beside)
        yield endpoint, baseline


def suites_asked(version: Version, house: Rooms, asking: Asking) -> list[Suite]:
    """The named suites, or those that the charter's clauses for this class of version ask for, each once."""
    names = dict.fromkeys(asking.suites)
    if not names:
        one = house.charters.current().charter.class_of(version)
        names = dict.fromkeys(clause.suite for clause in one.clauses) if one is not None else {}
    if not names:
        raise InvalidRequest(
            f"The charter asks for no evidence on {version.ref}.", remedy="Name a suite with --suite.", param="suite"
        )
    suites = [find_suite(name, house.settings.home) for name in names]
    return suites if asking.limit is None else [suite.limited(asking.limit) for suite in suites]


def _signers(house: Rooms, member: str | None) -> list[Signer]:
    return house.members.signers(house.charters.current().charter, "evaluate", name=member)


def _release(version: Version, house: Rooms) -> Version | None:
    """The version of this name that is released now, with the bytes that were released, unless it is this one."""
    standing = house.releases.current(version.name, besides=version.ref)
    if standing is None:
        return None
    artifact = standing.release.as_version().artifact
    released = replace(house.registry.resolve(standing.release.version), artifact=artifact)
    return released if artifact != version.artifact else None


def _filed(found: Found, version: Version, house: Rooms, signers: Sequence[Signer], engine: str) -> Found:
    """Store the transcripts, then the signed evidence that names them; nothing of what is a part of a suite."""
    suite, measured = found.suite, found.measured
    if not suite.whole:
        return found
    evidence = Evidence(
        version=version.ref,
        digest=version.artifact.digest,
        suite=suite.name,
        suite_digest=suite.digest,
        metrics=measured.metrics,
        answered=measured.answered,
        filtered=measured.filtered,
        failed=measured.failed,
        transcripts=house.registry.blobs.put(measured.transcripts).digest,
        baseline=measured.baseline,
        engine=with_version(engine, _PACKAGES.get(engine, engine)),
        hardware=hardware(),
        runner=measured.runner,
        measured_at=clock.unix_milliseconds(),
        base=version.artifact.base or msgspec.UNSET,
    )
    unsigned = Envelope(payload_type=EVIDENCE_TYPE, payload=canonical_document(evidence))
    envelope = reduce(signed, (signer.key for signer in signers), unsigned)
    names = tuple(f"{signer.name} of {signer.party}" for signer in signers)
    return replace(found, evidence=evidence, digest=house.evidence.add(envelope), signed_by=names)


def _copy(log: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(log, folder)
