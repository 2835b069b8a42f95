"""Who calls: a key, its tenant, its role, and the limits that hold for it."""

from dataclasses import dataclass, fields
from enum import StrEnum

from tandem.kit.errors import InvalidRequest


class Role(StrEnum):
    """What a key may do beside calling models."""

    ADMIN = "admin"
    """Everything in its tenant: deploy, make keys, read all usage."""
    USER = "user"
    """Call models and read its own usage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a key may use at once and per minute; `None` is no limit.

    Raises:
        InvalidRequest: a limit is below 1.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise InvalidRequest(
                    f"The limit {field.name} is {value}.",
                    remedy="Use 1 or more, or leave it out for no limit.",
                    param=field.name,
                )


NO_LIMITS = Limits()
"""What a key has that was made without limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller of a request, as its key says."""

    key_id: str
    name: str
    tenant: str
    role: Role
    limits: Limits
