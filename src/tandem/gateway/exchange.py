"""One request on its way through the gateway, and what is learnt about it."""

from dataclasses import dataclass, field

from tandem.gateway.wire import EngineUsage, Logprobs, Timings, ToolCallDelta
from tandem.kit import clock, ids


@dataclass(slots=True)
class Tally:
    """Token counts of one engine call, exact as soon as the engine has said them."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def take_usage(self, usage: EngineUsage) -> None:
        """The engine's final word."""
        self.prompt = usage.prompt_tokens
        self.completion = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            self.cached = usage.prompt_tokens_details.cached_tokens or 0

    def take_timings(self, timings: Timings) -> None:
        """The engine's running word, so that an interrupted stream is counted exactly too."""
        self.prompt = timings.cache_n + timings.prompt_n
        self.cached = timings.cache_n
        self.completion = timings.predicted_n


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one choice; the last one of a choice has a `finish_reason`."""

    index: int
    text: str = ""
    tool_calls: list[ToolCallDelta] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One call of an engine: the choice it makes, of which prompt, where, with which body; `streamed` as that asks."""

    index: int
    path: str
    body: bytes
    streamed: bool
    prompt_index: int = 0
    echo: str = ""


@dataclass(slots=True)
class Exchange:
    """A request as the gateway sees it, from the first header to the settled ledger entry."""

    surface: str
    operation: str
    client_request_id: str = ""
    id: str = field(default_factory=lambda: ids.new_id("req"))
    created: int = field(default_factory=clock.unix_seconds)
    started_s: float = field(default_factory=clock.monotonic_seconds)
    deployment: str = ""
    development: bool = False
    """Whether the deployment is one that this key alone sees."""
    first_token_s: float | None = None
    """When the first piece of the stream came, on the monotonic clock."""
    abandoned: bool = False
    """Whether the client left, or did not read for too long."""
    rate_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    tallies: dict[int, Tally] = field(default_factory=dict)
    prompts: dict[int, int] = field(default_factory=dict)

    def tally(self, call: EngineCall) -> Tally:
        """A fresh count for one engine call."""
        tally = self.tallies[call.index] = Tally()
        self.prompts[call.index] = call.prompt_index
        return tally

    def forget(self) -> None:
        """Begin to count afresh: what was made so far is thrown away, and another engine is asked."""
        self.tallies.clear()
        self.prompts.clear()

    def usage(self) -> Tally:
        """The sum over all calls. A prompt that several choices share counts once, as OpenAI bills it."""
        if len(self.tallies) == 1:
            return next(iter(self.tallies.values()))
        prompts: dict[int, Tally] = {}
        for index, tally in self.tallies.items():
            # Of an interrupted stream some choices may not have begun, and so know nothing of their prompt.
            known = prompts.setdefault(self.prompts[index], tally)
            if tally.prompt > known.prompt:
                prompts[self.prompts[index]] = tally
        return Tally(
            prompt=sum(tally.prompt for tally in prompts.values()),
            cached=sum(tally.cached for tally in prompts.values()),
            completion=sum(tally.completion for tally in self.tallies.values()),
        )
