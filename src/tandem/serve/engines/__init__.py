"""Engines: the port, and one module for each way of running a model."""

from collections.abc import Mapping
from types import MappingProxyType

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
]
