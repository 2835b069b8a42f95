"""The edge of a control-plane request: who asks, may they, and errors as JSON with their remedy."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tandem.accounts import Principal, Role
from tandem.api.platform import Platform
from tandem.gateway.surfaces.errors import status_of
from tandem.kit.errors import Forbidden, InvalidRequest, TandemError, TooLarge

_log = logging.getLogger(__name__)

MAX_PAGE = 500
MAX_BODY_BYTES = 1024 * 1024

T = TypeVar("T")

Handler = Callable[[Platform, Principal, Request], Awaitable[Response]]


def guarded(
    platform: Platform, handler: Handler, *, role: Role = Role.USER
) -> Callable[[Request], Awaitable[Response]]:
    """The handler behind authentication and, for `Role.ADMIN`, behind that role."""

    @wraps(handler)
    async def edge(request: Request) -> Response:
        try:
            principal = await platform.keyring.authenticate(_token(request))
            if role is Role.ADMIN and principal.role is not Role.ADMIN:
                raise Forbidden(
                    f"The key {principal.name!r} may not do this.",
                    remedy="Use a key that was made with `tandem keys create --role admin`.",
                )
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
    fields = {"code": error.code, "message": error.message, "remedy": error.remedy, "param": error.param}
    return JSONResponse({"error": fields}, status_code=status)


def page(rows: Sequence[Any], *, key: Callable[[Any], str], limit: int) -> JSONResponse:
    """One page of a list; `next` is what to pass as `after` for the following one, or null at the end."""
    return JSONResponse({"data": list(rows), "next": key(rows[-1]) if len(rows) == limit else None})


def page_limit(request: Request) -> int:
    """The `limit` of a list request.

    Raises:
        InvalidRequest: it is no number from 1 to `MAX_PAGE`.
    """
    text = request.query_params.get("limit", "100")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PAGE:
        raise InvalidRequest(f"limit is {text!r}.", remedy=f"Use 1 to {MAX_PAGE}.", param="limit")
    return int(text)


async def json_body(request: Request, kind: type[T]) -> T:
    """The typed body of a request; unknown fields are refused, since here a typing error would change the result.

    Raises:
        InvalidRequest: no JSON, or not of this type.
        TooLarge: more than `MAX_BODY_BYTES`.
    """
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > MAX_BODY_BYTES:
            raise TooLarge(f"The request body is larger than {MAX_BODY_BYTES} bytes.")
    try:
        return msgspec.json.decode(chunks, type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"The request body cannot be used: {error}.") from None


def _token(request: Request) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")
