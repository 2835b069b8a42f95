"""Refuse what the engine cannot do: every field that would change the answer is served or answered with 400."""

import msgspec

from tandem.gateway.requests import (
    AudioPart,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FilePart,
    ImagePart,
    NamedTool,
)
from tandem.kit.errors import InvalidRequest, UnsupportedFeature
from tandem.serve import Capabilities, Feature, Route
from tandem.spec import Task

_TOKEN_ID_DIGITS = 9  # no vocabulary is near a thousand million; engines ignore ids that they do not have

# Known to OpenAI, changing the answer, and in no engine of ours yet.
_NOT_BUILT = (
    "functions",
    "function_call",
    "audio",
    "web_search_options",
    "reasoning_effort",
    "verbosity",
    "moderation",
    "data_sources",
)


def check_task(route: Route, task: Task, operation: str) -> None:
    """Refuse a generation on an embedding model and the reverse."""
    if route.task is not task:
        offer = "/embeddings" if route.task is Task.EMBED else "/chat/completions and /completions"
        raise UnsupportedFeature(
            f"The deployment {route.name!r} ({route.version}) does not do {operation}.",
            remedy=f"It answers {offer}.",
            code="operation_not_supported",
            param="model",
        )


def check_chat(request: ChatRequest, capabilities: Capabilities) -> None:
    """Refuse a chat request that this engine cannot honour in full."""
    features = capabilities.features
    if Feature.CHAT not in features:
        raise _missing("chat: it has no chat template", "messages", "Use /completions, or deploy an instruct model.")
    for name in _NOT_BUILT:
        if getattr(request, name):
            raise _missing(f"{name!r}", name, f"Leave {name!r} out.")
    if request.modalities and set(request.modalities) != {"text"}:
        raise _missing("modalities other than text", "modalities", 'Ask for ["text"].')
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    if request.logprobs and Feature.LOGPROBS not in features:
        raise _missing("'logprobs'", "logprobs")
    _check_tools(request, features)
    _check_calls(request)
    _check_format(request, features)
    _check_parts(request, features)
    _check_sampling(request, features)


def check_completion(request: CompletionRequest, capabilities: Capabilities) -> None:
    """Refuse a completion request that this engine cannot honour in full."""
    features = capabilities.features
    if Feature.COMPLETIONS not in features:
        raise _missing("completions", "prompt")
    if request.suffix and Feature.FIM not in features:
        raise _missing(
            "'suffix': the model has no fill-in-the-middle tokens",
            "suffix",
            "Deploy a code model that was trained for it.",
        )
    if request.logprobs is not None and Feature.LOGPROBS not in features:
        raise _missing("'logprobs'", "logprobs")
    if request.best_of not in {None, 1, request.n or 1}:
        raise _missing("'best_of' larger than 'n'", "best_of", "Leave 'best_of' out.")
    if request.echo and request.logprobs is not None:
        raise _missing("'echo' together with 'logprobs'", "echo", "Ask for one of them.")
    if request.echo and request.suffix:
        raise InvalidRequest("'echo' and 'suffix' exclude each other.", param="echo")
    if request.suffix and request.logprobs is not None:
        raise _missing("'suffix' together with 'logprobs'", "suffix", "Ask for one of them.")
    _check_sampling(request, features)


def check_embedding(request: EmbeddingRequest, route: Route, capabilities: Capabilities) -> None:
    """Refuse an embedding request that this engine cannot honour in full."""
    if Feature.EMBEDDINGS not in capabilities.features:
        raise _missing("embeddings", "input")
    width = route.facts.get("embedding_length")
    if request.dimensions is not None and request.dimensions != width:
        raise _missing(f"'dimensions' other than {width}", "dimensions", "Leave 'dimensions' out.")


def _check_sampling(request: ChatRequest | CompletionRequest, features: frozenset[Feature]) -> None:
    if request.logit_bias and Feature.LOGIT_BIAS not in features:
        raise _missing("'logit_bias'", "logit_bias")
    for token in request.logit_bias or ():
        if not token.isascii() or not token.isdigit() or len(token) > _TOKEN_ID_DIGITS:
            raise InvalidRequest(f"'logit_bias' has the key {token!r}, which is no token id.", param="logit_bias")
    if request.seed is not None and Feature.SEED not in features:
        raise _missing("'seed'", "seed")
    if request.stop and Feature.STOP not in features:
        raise _missing("'stop'", "stop")
    if request.presence_penalty and Feature.PENALTIES not in features:
        raise _missing("'presence_penalty'", "presence_penalty")
    if request.frequency_penalty and Feature.PENALTIES not in features:
        raise _missing("'frequency_penalty'", "frequency_penalty")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' needs 'stream' to be true.", param="stream_options")


def _check_tools(request: ChatRequest, features: frozenset[Feature]) -> None:
    choice = request.tool_choice
    named = choice.function.name if isinstance(choice, NamedTool) else None
    if choice not in (None, "none") and not request.tools:
        raise InvalidRequest("'tool_choice' needs 'tools'.", param="tool_choice")
    if named is not None and all(tool.function.name != named for tool in request.tools or ()):
        raise InvalidRequest(f"'tool_choice' names {named!r}, which is not among 'tools'.", param="tool_choice")
    if request.tools and Feature.TOOLS not in features:
        raise _missing(
            "'tools': the model's chat template has no place for them", "tools", "Deploy a model that knows tools."
        )


def _check_format(request: ChatRequest, features: frozenset[Feature]) -> None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return
    if Feature.JSON_SCHEMA not in features:
        raise _missing(f"'response_format' of type {wanted.type!r}", "response_format")
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise InvalidRequest("'response_format' of type 'json_schema' needs 'json_schema'.", param="response_format")


def _check_calls(request: ChatRequest) -> None:
    """Templates write the calls of earlier turns as JSON; an engine fails on arguments that are none."""
    for message in request.messages:
        for call in message.tool_calls or ():
            try:
                msgspec.json.decode(call.function.arguments or "{}")
            except (msgspec.DecodeError, RecursionError):
                raise InvalidRequest(
                    f"The arguments of the tool call {call.id!r} are not valid JSON.",
                    remedy="Leave an unfinished call out.",
                    param="messages",
                ) from None


def _check_parts(request: ChatRequest, features: frozenset[Feature]) -> None:
    for message in request.messages:
        if not isinstance(message.content, list):
            continue
        for part in message.content:
            if isinstance(part, ImagePart) and Feature.VISION not in features:
                raise _missing("images", "messages", "Deploy a model that sees, or leave the images out.")
            if isinstance(part, AudioPart | FilePart):
                raise _missing("audio and files in messages", "messages", "Send text.")


def _missing(what: str, param: str, remedy: str = "") -> UnsupportedFeature:
    return UnsupportedFeature(f"This deployment does not support {what}.", remedy=remedy, param=param)
