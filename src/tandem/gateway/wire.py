"""What an engine says: its answers and stream chunks, decoded to the few fields that we use."""

from msgspec import Struct


class TopLogprob(Struct):
    """One of the likeliest tokens at a position; `logprob` is a natural logarithm."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(Struct):
    """The chosen token at a position."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class Logprobs(Struct):
    """Log-probabilities of the generated tokens, in order."""

    content: list[TokenLogprob] | None = None


class FunctionDelta(Struct, omit_defaults=True):
    """A piece of a function call: the name comes once, the arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, omit_defaults=True):
    """A piece of a tool call; `index` says of which."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class Text(Struct):
    """A message or a delta."""

    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class EngineChoice(Struct):
    """A choice of an answer or of a chunk; one of `message`, `delta` and `text` is there."""

    message: Text | None = None
    delta: Text | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class CachedTokens(Struct):
    """How much of the prompt the engine had already seen."""

    cached_tokens: int | None = None


class EngineUsage(Struct):
    """Token counts of one engine call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: CachedTokens | None = None


class Timings(Struct):
    """llama.cpp's running counts, on each chunk when `timings_per_token` was asked for."""

    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class EngineError(Struct):
    """An engine's refusal; llama.cpp adds the two counts when a prompt does not fit."""

    message: str = ""
    type: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class EngineAnswer(Struct):
    """An answer or a stream chunk, of the OpenAI-like endpoints or of llama.cpp's native `/infill`."""

    choices: list[EngineChoice] = []
    usage: EngineUsage | None = None
    timings: Timings | None = None
    error: EngineError | None = None
    # llama.cpp's native shape
    content: str | None = None
    stop: bool | None = None
    stop_type: str | None = None


class EngineVector(Struct):
    """One embedding."""

    embedding: list[float]
    index: int = 0


class EngineEmbeddings(Struct):
    """An answer of the embeddings endpoint."""

    data: list[EngineVector]
    usage: EngineUsage | None = None
