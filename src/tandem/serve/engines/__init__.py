"""Engines: the port, and one module for each way of running a model."""

from collections.abc import Mapping
from types import MappingProxyType

from tandem.kit.errors import InvalidRequest
from tandem.serve.engines.llamacpp import LlamaCpp
from tandem.serve.engines.port import (
    Address,
    Capabilities,
    Engine,
    EngineFactory,
    Feature,
    Health,
    Launch,
)

ENGINES: Mapping[str, EngineFactory] = MappingProxyType({"llamacpp": LlamaCpp})
"""The kinds of engine that a deployment may name."""


def check_engine(name: str, engines: Mapping[str, EngineFactory] = ENGINES) -> None:
    """Refuse an engine that nobody here can start, before a name is bound to it.

    Raises:
        InvalidRequest: it is none of these.
    """
    if name not in engines:
        known = ", ".join(sorted(engines))
        raise InvalidRequest(f"There is no engine {name[:80]!r}.", remedy=f"Known are: {known}.", param="engine")


__all__ = [
    "ENGINES",
    "Address",
    "Capabilities",
    "Engine",
    "EngineFactory",
    "Feature",
    "Health",
    "Launch",
    "LlamaCpp",
    "check_engine",
]
