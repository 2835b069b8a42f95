"""The edge of a control-plane request: who asks, may they, is it still what they saw, and errors with their remedy."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from tandem.accounts import Principal, Role
from tandem.api.platform import Platform
from tandem.gateway.surfaces.errors import status_of
from tandem.kit.errors import Forbidden, InvalidRequest, NotFound, PreconditionFailed, TandemError, TooLarge
from tandem.kit.ids import sha256_hex
from tandem.kit.typed import fault

_log = logging.getLogger(__name__)

MAX_PAGE = 500
DEFAULT_PAGE = 100
MAX_BODY_BYTES = 1024 * 1024

_TAGS = re.compile(r'\s*(?:(?:W/)?"[\x21\x23-\x7e]*"\s*(?:,\s*)?)+')
_FIELD = re.compile(r" field `([^`]+)`\Z")
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')

T = TypeVar("T")

Handler = Callable[[Platform, Principal, Request], Awaitable[Response]]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong: a stable word for programs, a sentence for people, what to do, and the field that is meant."""

    code: str
    message: str
    remedy: str
    param: str | None


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer of 400 and above."""

    error: Fault


class Seen(NamedTuple):
    """How a client sees an object: the handler that shows it, and which of its fields change by themselves.

    The latter are no reason to refuse a change: a replica that became ready meanwhile takes nothing from anybody.
    `depth` is the number of parts that the object's own path has.
    """

    read: Handler
    observed: frozenset[str]
    depth: int


class Turns:
    """One change of an object at a time within this process, so that nobody comes between a look and a change."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        """The lock of what has this name."""
        return self._locks.setdefault(name, asyncio.Lock())


def guarded(
    platform: Platform,
    handler: Handler,
    *,
    role: Role = Role.USER,
    seen: Seen | None = None,
    turns: Turns | None = None,
) -> Callable[[Request], Awaitable[Response]]:
    """The handler behind authentication, behind the role, and behind the conditions that the caller sets.

    What a GET answers has an `ETag`, and is not sent to a client that has it. A change is done only to what the client
    last saw (`If-Match`), or only where there is nothing yet (`If-None-Match: *`).
    """
    turns = turns or Turns()

    @wraps(handler)
    async def edge(request: Request) -> Response:
        try:
            principal = await platform.keyring.authenticate(_token(request))
            if role is Role.ADMIN and principal.role is not Role.ADMIN:
                raise Forbidden(
                    f"The key {principal.name!r} may not do this.",
                    remedy="Use a key that was made with `tandem keys create --role admin`.",
                )
            if request.method in {"GET", "HEAD"}:
                answer = await handler(platform, principal, request)
                return _unless_known(request, answer, seen.observed if seen else frozenset())
            request = await _arrived(request)
            if seen is None:
                _refuse_conditions(request)
                return await handler(platform, principal, request)
            async with turns.of("/".join(request.url.path.split("/")[: seen.depth])):
                await _check_conditions(platform, principal, request, seen)
                return await handler(platform, principal, request)
        except TandemError as error:
            return error_response(error)
        except Exception:
            _log.exception("control request failed")
            return error_response(TandemError("Something broke here.", code="internal_error"))

    return edge


def error_response(error: TandemError, *, status: int | None = None) -> JSONResponse:
    """`{"error": {code, message, remedy, param}}`, with the error's own status unless another is given."""
    status = status or status_of(error)[0]
    fault = Fault(code=error.code, message=error.message, remedy=error.remedy, param=error.param)
    return JSONResponse(msgspec.to_builtins(ErrorAnswer(error=fault)), status_code=status)


def page(rows: Sequence[Any], *, key: Callable[[Any], str], limit: int) -> JSONResponse:
    """One page of a list; `next` is what to pass as `after` for the following one, or null at the end."""
    return JSONResponse({"data": list(rows), "next": key(rows[-1]) if len(rows) == limit else None})


def page_limit(request: Request) -> int:
    """The `limit` of a list request.

    Raises:
        InvalidRequest: it is no number from 1 to `MAX_PAGE`.
    """
    text = request.query_params.get("limit", str(DEFAULT_PAGE))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_PAGE):
        raise InvalidRequest(f"limit is {text[:80]!r}.", remedy=f"Use 1 to {MAX_PAGE}.", param="limit")
    return int(text)


async def json_body(request: Request, kind: type[T]) -> T:
    """The typed body of a request; unknown fields are refused, since here a typing error would change the result.

    Raises:
        InvalidRequest: no JSON, or not of this type.
        TooLarge: more than `MAX_BODY_BYTES`.
    """
    try:
        return msgspec.json.decode(await _body(request), type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        problem, key = fault(error)
        field = _FIELD.search(problem)
        raise InvalidRequest(
            f"The request body cannot be used: {error}.",
            remedy="GET /api/v1/docs lists its fields and what they take.",
            param=".".join(filter(None, (key, field and field[1]))) or None,
        ) from None


async def _body(request: Request) -> bytes:
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > MAX_BODY_BYTES:
            raise TooLarge(f"The request body is larger than {MAX_BODY_BYTES} bytes.", remedy="Send less at once.")
    return bytes(chunks)


async def _arrived(request: Request) -> Request:
    """The request with all of its body here: while others wait for their turn, nobody waits for a slow line."""
    body = await _body(request)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _unless_known(request: Request, answer: Response, observed: frozenset[str]) -> Response:
    """The answer with its tag, or 304 where the client has it already."""
    if answer.status_code != 200 or getattr(answer, "body", None) is None:
        return answer
    tag = _tag(answer, observed)
    headers = {"etag": f'"{tag}"', "cache-control": "private, no-cache"}
    known = _conditions(request, "if-none-match")
    if known is not None and ("*" in known or tag in {word.removeprefix("W/") for word in known}):
        return Response(status_code=304, headers=headers)
    answer.headers.update(headers)
    return answer


def _tag(answer: Response, observed: frozenset[str]) -> str:
    """The tag of an answer: the digest of what people set, and where more is shown also that of the whole."""
    body = bytes(answer.body)
    whole = sha256_hex(body)[:32]
    if not observed:
        return whole
    fields = msgspec.json.decode(body)
    settled = {name: value for name, value in fields.items() if name not in observed}
    return f"{sha256_hex(msgspec.json.encode(settled, order='deterministic'))[:32]}-{whole}"


async def _check_conditions(platform: Platform, principal: Principal, request: Request, seen: Seen) -> None:
    """See that the object is what the client's conditions say.

    Raises:
        PreconditionFailed: it is not.
        InvalidRequest: a condition is not one.
    """
    wanted, unwanted = _conditions(request, "if-match"), _conditions(request, "if-none-match")
    if wanted is None and unwanted is None:
        return
    try:
        tag = _tag(await seen.read(platform, principal, request), seen.observed)
    except NotFound:
        tag = None
    if wanted is not None and (tag is None or not _is_one_of(tag, wanted)):
        state = "is not there" if tag is None else "was changed since you read it"
        raise PreconditionFailed(
            f"{request.url.path[:200]} {state}; nothing was done.",
            remedy="GET it again, and send the ETag of that answer as If-Match.",
            param="if-match",
        )
    if unwanted is not None and tag is not None and _is_one_of(tag, {word.removeprefix("W/") for word in unwanted}):
        raise PreconditionFailed(
            f"{request.url.path[:200]} is there already; nothing was done.",
            remedy="Leave out If-None-Match to change it.",
            param="if-none-match",
        )


def _is_one_of(tag: str, words: frozenset[str] | set[str]) -> bool:
    """Whether one of the tags stands for the same settled state; `*` stands for any."""
    return "*" in words or tag.partition("-")[0] in {word.partition("-")[0] for word in words}


def _refuse_conditions(request: Request) -> None:
    for header in ("if-match", "if-none-match"):
        if header in request.headers:
            raise InvalidRequest(
                f"{request.url.path[:200]} has no version that {header} could mean.",
                remedy="Leave the header out: what exists already is not made twice.",
                param=header,
            )


def _conditions(request: Request, header: str) -> frozenset[str] | None:
    """The tags of a condition, weak ones with their `W/` before them, or None where it is not set.

    Raises:
        InvalidRequest: the header holds no tags.
    """
    text = ",".join(request.headers.getlist(header)).strip()
    if header not in request.headers:
        return None
    if text == "*":
        return frozenset({"*"})
    if not _TAGS.fullmatch(text):
        raise InvalidRequest(
            f"{header} is {text[:80]!r}.", remedy="Send an ETag as it came, with its quotes, or *.", param=header
        )
    return frozenset(f"{weak}{tag}" for weak, tag in _TAG.findall(text))


def _token(request: Request) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")
