"""Every class of the error tree has a status and a body on both surfaces."""

import json
from collections.abc import Iterator

import pytest

from tandem.gateway.surfaces.errors import azure_error, openai_error, status_of
from tandem.kit import errors
from tandem.kit.errors import LimitExceeded, TandemError, TooLarge, Unavailable

STATUS = {
    "TandemError": 500,
    "InvalidRequest": 400,
    "UnsupportedFeature": 400,
    "TooLarge": 413,
    "Unauthenticated": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "Conflict": 409,
    "PreconditionFailed": 412,
    "LimitExceeded": 429,
    "Unavailable": 503,
    "EngineFailed": 503,
    "StorageFull": 507,
    "IntegrityError": 500,
    "ConfigError": 500,
    "MissingPrerequisite": 500,
}


def _tree(kind: type[TandemError] = TandemError) -> Iterator[type[TandemError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def _made(kind: type[TandemError]) -> TandemError:
    if issubclass(kind, LimitExceeded):
        return kind("It broke.", remedy="Mend it.", retry_after_s=1.2345)
    if issubclass(kind, Unavailable):
        return kind("It broke.", remedy="Mend it.", retry_after_s=2.0)
    return kind("It broke.", remedy="Mend it.", param="n")


def test_the_whole_tree_is_here() -> None:
    assert sorted(kind.__name__ for kind in _tree()) == sorted(STATUS)


@pytest.mark.parametrize("kind", list(_tree()), ids=lambda kind: kind.__name__)
def test_openai(kind: type[TandemError]) -> None:
    error = _made(kind)
    status, body, headers = openai_error(error)
    fields = json.loads(body)["error"]
    assert status == STATUS[kind.__name__] == status_of(error)[0]
    assert fields == {"message": "It broke. Mend it.", "type": fields["type"], "param": error.param, "code": error.code}
    assert fields["type"] == {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    _check_retry(error, status, dict(headers))


@pytest.mark.parametrize("kind", list(_tree()), ids=lambda kind: kind.__name__)
def test_azure(kind: type[TandemError]) -> None:
    error = _made(kind)
    status, body, headers = azure_error(error)
    fields = json.loads(body)["error"]
    assert status == STATUS[kind.__name__]
    if status in {401, 404, 429}:
        assert set(fields) == {"code", "message"}
        assert fields["code"] == str(status)
    else:
        assert set(fields) == {"message", "type", "param", "code"}
        assert (fields["message"], fields["code"]) == ("It broke. Mend it.", error.code)
    _check_retry(error, status, dict(headers))


def _check_retry(error: TandemError, status: int, headers: dict[bytes, bytes]) -> None:
    """The official clients try 409, 429 and 500 upwards again unless they are told not to."""
    if status == 429:
        assert headers == {b"retry-after": b"2", b"retry-after-ms": b"1235", b"x-should-retry": b"true"}
    elif status == 503:
        assert headers == {b"retry-after": b"2", b"retry-after-ms": b"2000", b"x-should-retry": b"true"}
    elif status == 507:
        assert headers[b"x-should-retry"] == b"false"
    else:
        assert headers == ({b"x-should-retry": b"false"} if status < 500 else {})


def test_a_prompt_that_does_not_fit_is_a_400_as_at_openai() -> None:
    error = TooLarge("Too long.", code="context_length_exceeded", param="messages")
    assert openai_error(error).status == azure_error(error).status == 400
    assert openai_error(TooLarge("Too long.")).status == 413
