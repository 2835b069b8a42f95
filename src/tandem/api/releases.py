"""/api/v1/charter, /evidence and /releases: the rules, the proofs, and what was signed; signing is for clients."""

import asyncio
from typing import TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import Principal
from tandem.api.edge import json_body, page, page_limit
from tandem.api.platform import Platform
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.kit.signing import Envelope, Signature
from tandem.registry import Charter, Decision, Filed, Release, ReleaseState, Revision, Standing
from tandem.spec import Evidence


class RevisionAnswer(TypedDict):
    """A revision of the charter, and the envelope that holds its text and signatures."""

    revision: int
    digest: str
    charter: Charter
    text: str
    envelope: Envelope


class EvidenceAnswer(TypedDict):
    """What a suite measured, and who of the charter signed it; only what `counts` is taken by the gate."""

    digest: str
    counts: bool
    signed_by: list[str]
    evidence: Evidence


class ReleaseAnswer(TypedDict):
    """A release as it stands now: `why` keeps it from being in force, and `missing` are parties that have to sign."""

    digest: str
    state: ReleaseState
    why: str
    signed_by: list[str]
    missing: list[str]
    decision: Decision | None
    release: Release


class NewRelease(msgspec.Struct, forbid_unknown_fields=True):
    """The version that somebody wants released."""

    version: str


class Signed(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One signature, or the whole envelope with its signatures."""

    keyid: str | None = None
    sig: bytes | None = None
    payload_type: str | None = None
    payload: bytes | None = None
    signatures: tuple[Signature, ...] = ()


async def get_charter(platform: Platform, _principal: Principal, _request: Request) -> Response:
    """The charter that holds now."""
    return JSONResponse(_revision(await asyncio.to_thread(platform.charters.current)))


async def get_revision(platform: Platform, _principal: Principal, request: Request) -> Response:
    """One revision of the charter."""
    number = request.path_params["revision"]
    if not (number.isascii() and number.isdecimal() and len(number) < 6):
        raise NotFound(f"The charter has no revision {number[:80]!r}.", remedy="Revisions are numbered from 1.")
    return JSONResponse(_revision(await asyncio.to_thread(platform.charters.revision, int(number))))


async def list_evidence(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A page of evidence, the newest first; `version` asks for that on one version."""
    limit, asked = page_limit(request), request.query_params
    found = await asyncio.to_thread(
        platform.evidence.page, version=asked.get("version"), limit=limit, after=asked.get("after")
    )
    return page([_evidence(one) for one in found], key=lambda row: str(row["digest"]), limit=limit)


async def get_evidence(platform: Platform, _principal: Principal, request: Request) -> Response:
    """One piece of evidence with its envelope."""
    found = await asyncio.to_thread(platform.evidence.get, request.path_params["digest"])
    return JSONResponse(_evidence(found) | {"envelope": msgspec.to_builtins(found.envelope)})


async def add_evidence(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Keep evidence that a member signed: the body is its envelope."""
    envelope = await json_body(request, Envelope)
    digest = await asyncio.to_thread(platform.evidence.add, envelope)
    found = await asyncio.to_thread(platform.evidence.get, digest)
    return JSONResponse(_evidence(found), status_code=201)


async def list_releases(platform: Platform, _principal: Principal, request: Request) -> Response:
    """A page of releases, the newest first; `state` and `name` ask for some of them."""
    limit, asked = page_limit(request), request.query_params
    found = await asyncio.to_thread(
        platform.releases.page,
        limit=limit,
        after=asked.get("after"),
        state=_state(asked.get("state")),
        name=asked.get("name"),
    )
    return page([_release(one) for one in found], key=lambda row: str(row["digest"]), limit=limit)


async def get_release(platform: Platform, _principal: Principal, request: Request) -> Response:
    """One release with its envelope, whose bytes are what members sign."""
    found = await asyncio.to_thread(platform.releases.get, request.path_params["digest"])
    return JSONResponse(_release(found) | {"envelope": msgspec.to_builtins(found.envelope)})


async def request_release(platform: Platform, principal: Principal, request: Request) -> Response:
    """Ask for a version's release: `{"version": "coder@3"}`; 409 lists every clause that is not met."""
    wanted = await json_body(request, NewRelease)
    found = await asyncio.to_thread(platform.releases.request, wanted.version, by=principal.name)
    return JSONResponse(_release(found) | {"envelope": msgspec.to_builtins(found.envelope)}, status_code=201)


async def sign_release(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Add signatures that members made: `{"keyid": ..., "sig": ...}`, or the signed envelope."""
    body, digest = await json_body(request, Signed), request.path_params["digest"]
    signatures = body.signatures
    if body.payload is not None or body.payload_type is not None:
        _check_same(body, await asyncio.to_thread(platform.releases.get, digest))
    elif body.keyid is not None and body.sig is not None:
        signatures = (*signatures, Signature(keyid=body.keyid, sig=body.sig))
    if not signatures:
        raise InvalidRequest("There is no signature in the body.", remedy="Send keyid and sig, or an envelope.")
    found = await asyncio.to_thread(platform.releases.add_signatures, digest, signatures)
    platform.poke()
    return JSONResponse(_release(found))


async def decide_release(platform: Platform, _principal: Principal, request: Request) -> Response:
    """Refuse or withdraw a release: the body is the envelope of a decision that a member signed."""
    envelope = await json_body(request, Envelope)
    found = await asyncio.to_thread(platform.releases.decide, envelope, about=request.path_params["digest"])
    platform.poke()
    return JSONResponse(_release(found), status_code=201)


def _check_same(body: Signed, standing: Standing) -> None:
    if (body.payload, body.payload_type) != (standing.envelope.payload, standing.envelope.payload_type):
        raise InvalidRequest(
            "The envelope holds another document than this release.", remedy="GET the release and sign that."
        )


def _state(text: str | None) -> ReleaseState | None:
    try:
        return ReleaseState(text) if text is not None else None
    except ValueError as error:
        known = ", ".join(ReleaseState)
        raise InvalidRequest(f"state is {str(text)[:80]!r}.", remedy=f"Use {known}.", param="state") from error


def _revision(one: Revision) -> RevisionAnswer:
    return {
        "revision": one.charter.revision,
        "digest": one.digest,
        "charter": msgspec.to_builtins(one.charter),
        "text": one.text,
        "envelope": msgspec.to_builtins(one.envelope),
    }


def _evidence(one: Filed) -> EvidenceAnswer:
    return {
        "digest": one.digest,
        "counts": one.counts,
        "signed_by": list(one.signed_by),
        "evidence": msgspec.to_builtins(one.evidence),
    }


def _release(one: Standing) -> ReleaseAnswer:
    return {
        "digest": one.digest,
        "state": one.state,
        "why": one.why,
        "signed_by": list(one.signed_by),
        "missing": sorted(one.missing),
        "decision": msgspec.to_builtins(one.decision),
        "release": msgspec.to_builtins(one.release),
    }
