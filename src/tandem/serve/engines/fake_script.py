"""What the fake engine says: a request read into a script of tokens, by rules that a test can predict."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

_TOKEN = re.compile(r"\s*\S+|\s+$")
_KNOB = re.compile(r"\bfake:(\w+)(?:=([\d.]+))?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong or slowly. A test sets it on the engine, or writes `fake:drop=3` into a prompt."""

    delay: float = 0.0  # seconds before each token
    fail: bool = False  # answer 500 before the first byte
    hang: bool = False  # never answer
    drop: int = -1  # cut the connection after so many tokens
    malformed: int = -1  # send a chunk that is not JSON after so many tokens
    tokens: int = 0  # say the prompt again and again, until so many tokens
    tool: bool = False  # call the first tool although nothing requires it


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The whole answer to a request, decided before its first byte."""

    pieces: tuple[str, ...]  # one for each token, of each choice alike
    finish: str  # "stop", "length" or "tool_calls"
    prompt_tokens: int
    faults: Faults
    tool: str = ""  # the function that is called with the pieces as its arguments


def tokenize(text: str) -> list[str]:
    """Tokens are words with the white space before them; joined they are the text again."""
    return _TOKEN.findall(text)


def token_id(token: str) -> int:
    """A number for a token, always the same."""
    return crc32(token.encode()) % 50_000


def without_knobs(text: str, faults: Faults) -> tuple[str, Faults]:
    """The text without its `fake:` words, and the faults that they set on top of the given ones."""
    for name, value in _KNOB.findall(text):
        kind = type(getattr(Faults(), name))
        faults = replace(faults, **{name: True if kind is bool else kind(value)})
    return _KNOB.sub("", text).rstrip(), faults


def chat_script(body: Mapping[str, Any], faults: Faults) -> Script:
    """Say the last message again; call a tool, or fill a schema, where the request demands it."""
    texts = [_text_of(message.get("content")) for message in body["messages"]]
    prompt_tokens = sum(len(tokenize(text)) + 1 for text in texts)  # one for the role, as templates add some
    text, faults = without_knobs(texts[-1], faults)
    tool = _demanded_tool(body, faults)
    if tool is not None:
        text = json.dumps(instance_of(tool.get("parameters") or {}))
    elif (schema := _demanded_schema(body)) is not None:
        text = json.dumps(instance_of(schema))
    script = _said(text, body, faults, prompt_tokens)
    if tool is not None:
        return replace(script, tool=tool["name"], finish="tool_calls")
    return script


def completion_script(prompt: str | list[int], body: Mapping[str, Any], faults: Faults) -> Script:
    """Say the prompt again, after a space."""
    whole = prompt if isinstance(prompt, str) else " ".join(str(token) for token in prompt)
    text, faults = without_knobs(whole, faults)
    return _said(f" {text}" if text else "", body, faults, len(tokenize(whole)))


def signed(script: Script, adapter: str) -> Script:
    """The script with the adapter's name as its last token, where it has one and the answer is free and whole."""
    if not adapter or script.tool or script.finish != "stop":
        return script
    return replace(script, pieces=(*script.pieces, f" {adapter}"))


def infill_script(body: Mapping[str, Any], faults: Faults) -> Script:
    """Say the last line of the prefix again: what stands between prefix and suffix."""
    prefix, suffix = body.get("input_prefix", ""), body.get("input_suffix", "")
    text, faults = without_knobs(prefix.rsplit("\n", 1)[-1], faults)
    return _said(text, body, faults, len(tokenize(prefix)) + len(tokenize(suffix)) + 3)


def instance_of(schema: Mapping[str, Any]) -> Any:
    """The smallest value that fits a JSON schema of the plain kinds."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("type") == "object" or "properties" in schema:
        return {name: instance_of(part) for name, part in schema.get("properties", {}).items()}
    kinds = {"array": [], "string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}
    return kinds.get(schema.get("type", "object"), {})


def embedding_of(text: str | list[int], width: int) -> list[float]:
    """A vector of length 1 that counts the words: texts with the same words lie near each other."""
    vector = [0.0] * width
    for token in tokenize(text) if isinstance(text, str) else map(str, text):
        vector[token_id(token.strip()) % width] += 1.0
    length = sum(value * value for value in vector) ** 0.5 or 1.0
    return [value / length for value in vector]


def _said(text: str, body: Mapping[str, Any], faults: Faults, prompt_tokens: int) -> Script:
    pieces = tokenize(text) or ["ok"]
    if faults.tokens or body.get("ignore_eos"):
        wanted = faults.tokens or _limit(body) or len(pieces)
        spaced = [piece if piece[0].isspace() else f" {piece}" for piece in pieces]
        pieces = [*pieces, *(spaced[index % len(spaced)] for index in range(len(pieces), wanted))][:wanted]
    pieces = list(_until(pieces, body.get("stop") or []))
    limit = _limit(body)
    if limit is not None and limit < len(pieces):
        return Script(pieces=tuple(pieces[:limit]), finish="length", prompt_tokens=prompt_tokens, faults=faults)
    return Script(pieces=tuple(pieces), finish="stop", prompt_tokens=prompt_tokens, faults=faults)


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_tokens", "max_completion_tokens", "n_predict"):
        value = body.get(name)
        if isinstance(value, int) and value >= 0:
            return value
    return None


def _until(pieces: list[str], stop: str | list[str]) -> Iterable[str]:
    text = "".join(pieces)
    ends = [text.find(word) for word in ([stop] if isinstance(stop, str) else stop)]
    end = min((place for place in ends if place >= 0), default=len(text))
    for piece in pieces:
        if end <= 0:
            return
        yield piece[:end]
        end -= len(piece)


def _text_of(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def _demanded_tool(body: Mapping[str, Any], faults: Faults) -> dict[str, Any] | None:
    functions = [tool["function"] for tool in body.get("tools") or [] if "function" in tool]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        named = choice.get("function", {}).get("name")
        return next((function for function in functions if function["name"] == named), None)
    demanded = choice == "required" or (faults.tool and choice != "none")
    return functions[0] if functions and demanded else None


def _demanded_schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema: dict[str, Any] = wanted.get("json_schema", {}).get("schema") or wanted.get("schema") or {}
        return schema
    return {"type": "object"} if wanted.get("type") == "json_object" else None
