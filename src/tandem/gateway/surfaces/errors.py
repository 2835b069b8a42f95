"""The error tree in the shapes of both surfaces, mapped once."""

import math
from typing import NamedTuple

import msgspec

from tandem.kit.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    StorageFull,
    TandemError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

Headers = list[tuple[bytes, bytes]]


class Rendered(NamedTuple):
    """An error as HTTP."""

    status: int
    body: bytes
    headers: Headers


# The first class that fits decides: subclasses stand before their parents.
_STATUS: tuple[tuple[type[TandemError], int, str], ...] = (
    (TooLarge, 413, "invalid_request_error"),
    (InvalidRequest, 400, "invalid_request_error"),
    (Unauthenticated, 401, "invalid_request_error"),
    (Forbidden, 403, "permission_error"),
    (NotFound, 404, "invalid_request_error"),
    (PreconditionFailed, 412, "invalid_request_error"),
    (Conflict, 409, "invalid_request_error"),
    (LimitExceeded, 429, "rate_limit_error"),
    (StorageFull, 507, "server_error"),
    (Unavailable, 503, "server_error"),
)


def status_of(error: TandemError) -> tuple[int, str]:
    """The HTTP status and OpenAI's `type` of an error."""
    if error.code == "context_length_exceeded":
        return 400, "invalid_request_error"
    for kind, status, name in _STATUS:
        if isinstance(error, kind):
            return status, name
    return 500, "server_error"


def openai_error(error: TandemError) -> Rendered:
    """`{"error": {message, type, param, code}}`, all four keys present, as OpenAI's clients expect."""
    status, kind = status_of(error)
    body = {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
    return Rendered(status, msgspec.json.encode(body), _retry(error, status))


def azure_error(error: TandemError) -> Rendered:
    """Azure's shapes: the gateway in front of the service answers 401, 404 and 429 with `code` and `message` alone."""
    status, kind = status_of(error)
    fields: dict[str, str | None]
    if status == 401:
        fields = {
            "code": "401",
            "message": "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a "
            "valid key for an active subscription and use a correct regional API endpoint for your resource.",
        }
    elif status == 404:
        code = "DeploymentNotFound" if error.code == "model_not_found" else "404"
        fields = {"code": code, "message": str(error)}
    elif status == 429:
        fields = {"code": "429", "message": str(error)}
    else:
        fields = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return Rendered(status, msgspec.json.encode({"error": fields}), _retry(error, status))


def _retry(error: TandemError, status: int) -> Headers:
    """When to come back. The official clients obey `x-should-retry` first, then `retry-after-ms`."""
    if isinstance(error, LimitExceeded | Unavailable):
        seconds = error.retry_after_s
        return [
            (b"retry-after", str(math.ceil(seconds)).encode()),
            (b"retry-after-ms", str(math.ceil(seconds * 1000)).encode()),
            (b"x-should-retry", b"false" if isinstance(error, StorageFull) else b"true"),
        ]
    return [(b"x-should-retry", b"false")] if status < 500 else []
