"""Supercomputing systems behind one port, by name."""

from tandem.compute.systems.fake import Fake
from tandem.compute.systems.local import Local
from tandem.compute.systems.port import Capacity, Condition, Status, System
from tandem.kit.config import Settings
from tandem.kit.errors import NotFound

SYSTEMS = ("local", "fake")
"""The names that a placement may use."""


def open_system(name: str, settings: Settings) -> System:
    """The system that a placement names.

    Raises:
        NotFound: there is none of this name.
    """
    match name:
        case "local":
            return Local(usd_per_hour=settings.local_usd_per_hour)
        case "fake":
            return Fake()
        case _:
            raise NotFound(f"There is no system {name[:80]!r}.", remedy=f"Use {' or '.join(SYSTEMS)}.")


__all__ = ["SYSTEMS", "Capacity", "Condition", "Fake", "Local", "Status", "System", "open_system"]
