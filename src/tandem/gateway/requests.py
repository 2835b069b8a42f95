"""What a client may ask: typed requests, decoded once at the edge with bounds checked.

Fields and bounds follow OpenAI's OpenAPI document (version 2.3.0). Unknown fields are ignored, as OpenAI's own
clients of other versions send them; known fields of a wrong type are refused (`docs/reference/api.md`).
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

MAX_CHOICES = 128  # prompts times choices, as OpenAI bounds n
MAX_INPUTS = 2048  # inputs of one embeddings request, as OpenAI bounds them

StopText = Annotated[str, Meta(min_length=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# Several texts, one list of token ids, or several of those; which of them is looked at in `prepare`.
Inputs = list[str | TokenId | list[TokenId]]


class TextPart(Struct, tag="text", tag_field="type"):
    """A piece of text in a message."""

    text: str


class RefusalPart(Struct, tag="refusal", tag_field="type"):
    """A refusal of an earlier assistant turn."""

    refusal: str


class ImagePart(Struct, tag="image_url", tag_field="type"):
    """An image by URL or as data; only for engines that see."""

    image_url: dict[str, Any]


class AudioPart(Struct, tag="input_audio", tag_field="type"):
    """Recorded speech; only for engines that hear."""

    input_audio: dict[str, Any]


class FilePart(Struct, tag="file", tag_field="type"):
    """A document; only for engines that read them."""

    file: dict[str, Any]


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart


class FunctionCall(Struct):
    """The function that the model called, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Struct):
    """A call of a tool in an earlier assistant turn."""

    id: str
    function: FunctionCall
    type: str = "function"


class Message(Struct, omit_defaults=True):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(Struct, omit_defaults=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool that the model may use."""

    function: Function
    type: Literal["function"] = "function"


class FunctionName(Struct):
    """The name of a function."""

    name: str


class NamedTool(Struct):
    """The one tool that the model must call."""

    function: FunctionName
    type: Literal["function"] = "function"


class JsonSchema(Struct):
    """A named JSON schema."""

    schema: dict[str, Any]
    name: str = "schema"
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, omit_defaults=True):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct):
    """Options of a stream; `include_usage` asks for one last chunk with the token counts."""

    include_usage: bool | None = None


class Generation(Struct):
    """What generation requests have in common."""

    model: str | None = None  # the path may name the deployment
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=4)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens that each choice may have; None leaves it to the model's context."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream and self.stream_options and self.stream_options.include_usage)


class ChatRequest(Generation, kw_only=True):
    """`POST /chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    # Known to OpenAI, changing the answer, and in no engine of ours yet: refused by name, never ignored.
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    moderation: Any = None
    data_sources: Any = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens that each choice may have; the newer name wins."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def alternatives(self) -> int:
        """How many of the likeliest tokens the answer shows at each position."""
        return self.top_logprobs or 0


class CompletionRequest(Generation, kw_only=True):
    """`POST /completions`, with `suffix` for fill-in-the-middle."""

    prompt: str | Inputs | None = None
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    @property
    def token_limit(self) -> int:
        """The most tokens that each choice may have; 16 where none is given, as OpenAI documents."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int:
        """How many of the likeliest tokens the answer shows at each position."""
        return self.logprobs or 0


class EmbeddingRequest(Struct, kw_only=True):
    """`POST /embeddings`."""

    input: str | Inputs
    model: str | None = None  # the path may name the deployment
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None
