"""Turn a checked request into engine calls: one for each choice, since an engine counts only one choice's tokens."""

from collections.abc import Collection
from typing import Any

import msgspec

from tandem.gateway.exchange import EngineCall
from tandem.gateway.requests import (
    MAX_CHOICES,
    MAX_INPUTS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Generation,
    Inputs,
    Message,
    NamedTool,
)
from tandem.kit.errors import InvalidRequest
from tandem.serve import Feature

_encode = msgspec.json.Encoder().encode

# Passed on by name when the client gave them.
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "stop")
_CHAT = ("response_format", "tools", "tool_choice", "parallel_tool_calls")

_INT32_MAX = 2**31 - 1  # llama.cpp keeps limits in 32 bits and wraps larger ones round

# What a completion counts at admission when the client set no limit; corrected when the answer is settled.
_UNSTATED_COMPLETION_TOKENS = 256
_BYTES_PER_TOKEN = 4  # the usual rule for English text and code under byte-level BPE


def estimate_tokens(body: bytes, request: ChatRequest | CompletionRequest | EmbeddingRequest) -> int:
    """What a request may use, in tokens, as Azure counts at arrival: the prompt's share plus n times the limit."""
    prompt = len(body) // _BYTES_PER_TOKEN + 1
    if isinstance(request, EmbeddingRequest):
        return prompt
    choices = (request.n or 1) * _prompt_count(request)
    return prompt + choices * (request.token_limit or _UNSTATED_COMPLETION_TOKENS)


def prepare_chat(request: ChatRequest, *, streamed: bool, features: Collection[Feature] = ()) -> list[EngineCall]:
    """The calls of a chat request, one for each choice; `streamed` asks the engine for streams."""
    del features  # a chat is put to all engines alike
    fields = _sampling(request, streamed=streamed)
    fields["messages"] = [_for_template(message) for message in request.messages]
    for name in _CHAT:
        if (value := getattr(request, name)) is not None:
            fields[name] = value
    if isinstance(request.tool_choice, NamedTool):
        # Engines know no names here: the one tool is all there is, and it is required.
        named = request.tool_choice.function.name
        fields["tools"] = [tool for tool in request.tools or () if tool.function.name == named]
        fields["tool_choice"] = "required"
    if request.logprobs:
        # llama.cpp reads 0 as no log-probabilities at all, and an absent number as 20.
        fields |= {"logprobs": True, "top_logprobs": max(request.alternatives, 1)}
    return [
        EngineCall(index, "/v1/chat/completions", _encode(_seeded(fields, request, index)), streamed)
        for index in range(request.n or 1)
    ]


def prepare_completion(
    request: CompletionRequest, *, streamed: bool, features: Collection[Feature] = ()
) -> list[EngineCall]:
    """The calls of a completion request: for each prompt, one for each choice; `streamed` as for chat."""
    prompts = _prompts(request.prompt)
    choices = request.n or 1
    if len(prompts) * choices > MAX_CHOICES:
        raise InvalidRequest(
            f"{len(prompts)} prompts with n={choices} make more than {MAX_CHOICES} choices.", param="n"
        )
    fields = _sampling(request, streamed=streamed)
    if request.logprobs is not None:
        fields["logprobs"] = max(request.alternatives, 1)  # 0 asks for the chosen token alone
    calls = []
    for prompt_index, prompt in enumerate(prompts):
        path, prompted = _prompted(prompt, request, suffix_first=Feature.FIM_SUFFIX_FIRST in features)
        echo = prompt if request.echo and isinstance(prompt, str) else ""
        if request.echo and not isinstance(prompt, str):
            raise InvalidRequest("'echo' needs the prompt as text.", param="echo")
        for choice in range(choices):
            index = prompt_index * choices + choice
            body = _encode(_seeded(fields | prompted, request, index))
            calls.append(EngineCall(index, path, body, streamed, prompt_index, echo))
    return calls


def prepare_embedding(request: EmbeddingRequest) -> EngineCall:
    """The one call of an embedding request."""
    inputs = _prompts(request.input, name="input")
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(f"'input' has {len(inputs)} items; at most {MAX_INPUTS} are taken.", param="input")
    for position, item in enumerate(inputs):
        if not item:
            raise InvalidRequest(f"'input' is empty at position {position}.", param="input")
    return EngineCall(0, "/v1/embeddings", _encode({"input": inputs}), streamed=False)


def _sampling(request: Generation, *, streamed: bool) -> dict[str, Any]:
    # Reasoning stays in the text: what a client gets must not depend on the engine's parsers.
    fields: dict[str, Any] = {"reasoning_format": "none", "cache_prompt": True}
    for name in _SAMPLING:
        if (value := getattr(request, name)) is not None:
            fields[name] = value
    if (limit := request.token_limit) is not None:
        fields["max_tokens"] = min(limit, _INT32_MAX)
    if streamed:
        fields |= {"stream": True, "stream_options": {"include_usage": True}, "timings_per_token": True}
    return fields


def _seeded(fields: dict[str, Any], request: Generation, index: int) -> dict[str, Any]:
    # llama.cpp takes 32 bits and reads the largest value as "choose one"; each choice needs its own stream.
    if request.seed is None:
        return fields
    return {**fields, "seed": (request.seed + index) % (2**32 - 1)}


def _for_template(message: Message) -> Message:
    # Templates of open models know "system"; "developer" is OpenAI's newer name for the same turn.
    if message.role == "developer":
        return msgspec.structs.replace(message, role="system")
    for call in message.tool_calls or ():
        call.function.arguments = call.function.arguments or "{}"  # a call without arguments, as some clients write it
    return message


def _prompted(prompt: str | list[int], request: CompletionRequest, *, suffix_first: bool) -> tuple[str, dict[str, Any]]:
    if request.suffix is None:
        return "/v1/completions", {"prompt": prompt}
    if not isinstance(prompt, str):
        raise InvalidRequest("'suffix' needs the prompt as text.", param="suffix")
    if suffix_first:
        # llama.cpp's /infill knows another order of the same pieces; only models that Tandem trained declare this one.
        return "/v1/completions", {"prompt": f"<|fim_prefix|><|fim_suffix|>{request.suffix}<|fim_middle|>{prompt}"}
    filled = {"input_prefix": prompt, "input_suffix": request.suffix, "n_predict": min(request.token_limit, _INT32_MAX)}
    return "/infill", filled


def _prompt_count(request: ChatRequest | CompletionRequest) -> int:
    prompt = request.prompt if isinstance(request, CompletionRequest) else None
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return 1
    return len(prompt)


def _prompts(given: str | Inputs | None, *, name: str = "prompt") -> list[str | list[int]]:
    if given is None or given == "":
        # OpenAI completes an absent prompt as a new document.
        return [""]
    if isinstance(given, str):
        return [given]
    ids = [item for item in given if isinstance(item, int)]
    prompts = [item for item in given if not isinstance(item, int)]
    if len({type(item) for item in given}) != 1:
        raise InvalidRequest(
            f"{name!r} is empty or mixes texts and token ids.", remedy="Use one kind of item.", param=name
        )
    return [ids] if ids else prompts
