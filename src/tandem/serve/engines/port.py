"""The engine port: one process that runs one model and speaks llama.cpp's HTTP dialect on loopback."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from tandem.spec import Task


class Feature(StrEnum):
    """What an engine can do with the model it runs; the gateway refuses whatever is not declared."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    FIM = "fim"
    """`/infill`, and so `suffix`: the model's vocabulary has fill-in-the-middle tokens."""
    FIM_SUFFIX_FIRST = "fim_suffix_first"
    """The model was trained to see the suffix before the prefix, and is asked in that order."""
    TOOLS = "tools"
    """`tools`, and `tool_choice` enforced: the model's chat template has a place for tools."""
    JSON_SCHEMA = "json_schema"
    """`response_format` with a JSON schema, and the plain JSON object."""
    LOGPROBS = "logprobs"
    LOGIT_BIAS = "logit_bias"
    SEED = "seed"
    STOP = "stop"
    CHOICES = "choices"
    """`n` greater than one."""
    PENALTIES = "penalties"
    """`presence_penalty` and `frequency_penalty`."""
    CANCELLATION = "cancellation"
    """Stops in the middle of a whole answer whose client leaves. One without is asked for streams: those it stops."""
    VISION = "vision"
    """Image parts in chat messages."""
    ADAPTERS = "adapters"
    """Holds a model once for the adapters that it was launched with, and answers each request as the one of them, or
    as none, that the request names in `lora`: `[{"id": 0, "scale": 1.0}]` is the first."""


class Health(StrEnum):
    """What an engine says of itself when asked."""

    READY = "ready"
    LOADING = "loading"
    FAILING = "failing"
    """No answer in time, a wrong one, or no process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one engine can do: its features, the tokens one request may use, the requests it runs at once."""

    features: frozenset[Feature]
    context_tokens: int
    parallel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything an engine needs to start: one model file, what it is for, and its share of the machine.

    `adapters` are LoRA adapters of that model, for engines that declare `Feature.ADAPTERS`.
    """

    model_path: Path
    task: Task
    alias: str  # the name that the engine reports as its model; the gateway replaces it
    log_path: Path
    facts: Mapping[str, object] = field(default_factory=dict)  # tandem.spec.Version.facts
    context_tokens: int = 4096  # for each request, not shared between them
    parallel: int = 4
    threads: int = 0  # 0: all cores that this process may use; for the smallest models one
    start_timeout_s: float = 300.0
    adapters: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an engine answers. The key is new with each start and is never written anywhere.

    `choice` is what each request has to say besides, by name; that is JSON.
    """

    url: str  # http://127.0.0.1:port, without a slash at the end
    api_key: str = field(repr=False)
    pid: int | None = None  # None where the engine is not a process of this machine
    choice: Mapping[str, object] = field(default_factory=dict)


class Engine(Protocol):
    """The six verbs. An engine object is started once; a restart is a new object from the same `Launch`."""

    async def start(self) -> asyncio.Future[str]:
        """Start, and return once it listens; the future ends, with the cause in words, when the engine does.

        Raises:
            EngineFailed: it died, or did not listen within `start_timeout_s`; quotes the end of its log.
            IntegrityError: a file is missing, cannot be read as a model, or is no adapter of it.
            MissingPrerequisite: the package that the engine needs is not installed.
        """
        ...

    async def stop(self) -> None:
        """End it within seconds, running requests included, and leave nothing of it; at any time."""
        ...

    async def health(self) -> Health:
        """Ask it; answers within 3 s, and never raises."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; known before the start."""
        ...

    @property
    def address(self) -> Address:
        """Where it answers.

        Raises:
            Unavailable: it is not running.
        """
        ...

    async def metrics(self) -> Mapping[str, float]:
        """Its counters and gauges by name, such as `llamacpp:requests_processing`.

        Raises:
            Unavailable: it does not answer.
        """
        ...


EngineFactory = Callable[[Launch], Engine]
"""How the controller makes engines: one factory for each kind."""
