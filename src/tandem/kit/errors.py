"""The one tree of errors, without HTTP: each names the object, the cause and the remedy.

    TandemError
    ├── InvalidRequest            the caller sent something that cannot be meant
    │   ├── UnsupportedFeature    meant, valid, and this model or engine cannot do it
    │   └── TooLarge              more bytes or tokens than a stated bound
    ├── Unauthenticated           no key, or one that does not exist
    ├── Forbidden                 a known caller who may not
    ├── NotFound                  the named object does not exist, or not for this caller
    ├── Conflict                  the object is not in the state that the request supposes
    │   └── PreconditionFailed    the object was changed since the caller looked, or is there already
    ├── LimitExceeded             a rate, a quota or a budget is used up
    ├── Unavailable               may work later, unchanged
    │   ├── EngineFailed          the engine died, or broke its word
    │   └── StorageFull           the disk or the blob store takes no more
    ├── IntegrityError            bytes are not what their digest or format says
    ├── ConfigError               a setting is missing, unknown or wrong
    └── MissingPrerequisite       a package or a program is not installed

Each surface maps this tree once: the command line in `cli`, HTTP in `gateway.surfaces` and `api`.
"""


class TandemError(Exception):
    """Root of all errors that a person is meant to read.

    `message` names the object and the cause, `remedy` says what to do about it. `code` is a stable
    machine-readable word; `param` names the offending field of a request.
    """

    code = "error"

    def __init__(self, message: str, *, remedy: str = "", code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.param = param
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class InvalidRequest(TandemError):
    """The request has a wrong type, a value out of bounds, or fields that contradict each other."""

    code = "invalid_value"


class UnsupportedFeature(InvalidRequest):
    """The request is valid, and the model or engine behind the deployment cannot do it."""

    code = "unsupported_feature"


class TooLarge(InvalidRequest):
    """A body, a file or a prompt is larger than the stated bound."""

    code = "too_large"


class Unauthenticated(TandemError):
    """There is no key on the request, or one that does not exist or was revoked."""

    code = "invalid_api_key"


class Forbidden(TandemError):
    """The caller is known and may not do this."""

    code = "forbidden"


class NotFound(TandemError):
    """The named object does not exist, or is not visible to this caller."""

    code = "not_found"


class Conflict(TandemError):
    """The object is in another state than the request supposes."""

    code = "conflict"


class PreconditionFailed(Conflict):
    """The object is no longer what the caller last saw, or exists where it should not; nothing was done."""

    code = "precondition_failed"


class LimitExceeded(TandemError):
    """A rate, a quota or a budget is used up; `retry_after_s` says when to come back."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float, remedy: str = "", code: str | None = None) -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.retry_after_s = retry_after_s


class Unavailable(TandemError):
    """It cannot be done now and may work later, unchanged."""

    code = "unavailable"

    def __init__(self, message: str, *, remedy: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class EngineFailed(Unavailable):
    """An engine died, did not start, or answered what it must not."""

    code = "engine_failed"


class StorageFull(Unavailable):
    """The disk or the blob store takes no more bytes."""

    code = "storage_full"


class IntegrityError(TandemError):
    """Bytes are not what their digest, header or manifest says."""

    code = "integrity"


class ConfigError(TandemError):
    """A setting is missing, unknown or wrong."""

    code = "config"


class MissingPrerequisite(TandemError):
    """A package or a program that this needs is not installed; the remedy is the command that installs it."""

    code = "missing_prerequisite"
