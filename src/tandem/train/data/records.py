"""Records of training data: each format's many spellings read into one form, or refused with a reason."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tandem.train.data.sources import DOCUMENTS, Raw

Record = dict[str, Any]
"""{"text": str} for text and code, {"messages": [{"role", "content"}]} for chat and questions, and
{"prompt": [messages], "chosen": str, "rejected": str} for preference."""
Message = dict[str, str]

ROLES = ("assistant", "system", "tool", "user")

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_SHOWN = 60  # characters of a value in a reason


def read_record(raw: Raw, format_: str) -> Record:
    """What was found, as a record of its format.

    Raises:
        ValueError: it is none; the message is the reason, for the person whose data it is.
    """
    if raw.flaw:
        raise ValueError(raw.flaw)
    if raw.whole:
        return {"text": _document(raw.data)}
    table = _table(raw.data)
    if format_ in DOCUMENTS:
        return {"text": _said(table, "text")}
    return _preference(table) if format_ == "preference" else {"messages": _chat(table)}


def line_of_flaw(raw: Raw) -> int:
    """The line that a bad record is reported by: in a document, the first one that is not UTF-8."""
    if raw.whole:
        try:
            raw.data.decode("utf-8")
        except UnicodeDecodeError as error:
            return raw.data.count(b"\n", 0, error.start) + 1
    return raw.line


def texts_of(record: Mapping[str, Any]) -> list[str]:
    """What a tokenizer learns from."""
    if "text" in record:
        return [record["text"]]
    if "messages" in record:
        return [message["content"] for message in record["messages"]]
    return [*(message["content"] for message in record["prompt"]), record["chosen"], record["rejected"]]


def compared_text(record: Mapping[str, Any]) -> str:
    """What makes two records alike; a system's words, which many chats share, do not."""
    if "text" in record:
        return str(record["text"])
    messages = record["messages"] if "messages" in record else record["prompt"]
    said = [message["content"] for message in messages if message["role"] != "system"]
    return "\n".join([*said, *(record[side] for side in ("chosen", "rejected") if side in record)])


def split_text(record: Mapping[str, Any]) -> bytes:
    """What decides the side of the split: answers to one prompt stay on one side."""
    if "prompt" in record:
        return msgspec.json.encode(record["prompt"])
    return msgspec.json.encode(record["text"] if "text" in record else record["messages"])


def bytes_of(record: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what is predicted of a sample, for bits per byte: a row says it, of chats the answers count."""
    if "bytes" in record:
        return int(record["bytes"])
    if "messages" in record:
        return sum(len(said["content"].encode()) for said in record["messages"] if said["role"] == "assistant")
    return len(record["chosen" if "chosen" in record else "text"].encode())


def _document(data: bytes) -> str:
    if b"\0" in data:
        raise ValueError("binary")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error
    if not text.strip():
        raise ValueError("empty")
    return text


def _table(data: bytes) -> Mapping[str, Any]:
    try:
        table = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start}") from error
    if not isinstance(table, dict):
        raise ValueError(f"not a JSON object but {_kind(table)}")
    return table


def _said(table: Mapping[str, Any], key: str) -> str:
    """A text of a record that is not empty."""
    if key not in table:
        raise ValueError(f"no {key!r}; it has {_keys(table)}")
    value = table[key]
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {_kind(value)}, not text")
    if not value.strip():
        raise ValueError(f"{key!r} is empty")
    return _encodable(value, key)


def _encodable(text: str, key: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{key!r} has half of a character") from error
    return text


def _chat(table: Mapping[str, Any]) -> list[Message]:
    if "messages" in table:
        messages = _messages(table["messages"], "messages")
    elif "prompt" in table and "completion" in table:
        messages = [*_turns(table, "prompt", "user"), *_turns(table, "completion", "assistant")]
    elif "instruction" in table:
        more = table.get("input") or ""
        asked = _said(table, "instruction") + (f"\n\n{_said(table, 'input')}" if more else "")
        messages = [_message("user", asked), _message("assistant", _said(table, "output"))]
    elif "question" in table:
        messages = [_message("user", _said(table, "question")), _message("assistant", _said(table, "answer"))]
    else:
        raise ValueError(
            f"no 'messages', 'prompt' and 'completion', 'instruction' or 'question'; it has {_keys(table)}"
        )
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("no message of the assistant, so nothing to learn from")
    return messages


def _preference(table: Mapping[str, Any]) -> Record:
    before = _turns(table, "prompt", "user") if "prompt" in table else []
    chosen, rejected = (_answered(table, side, before) for side in ("chosen", "rejected"))
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if same == len(chosen) == len(rejected):
        raise ValueError("'chosen' and 'rejected' are the same")
    last = [*chosen[same:], *rejected[same:]]
    if len(chosen) != same + 1 or len(rejected) != same + 1 or any(said["role"] != "assistant" for said in last):
        raise ValueError("'chosen' and 'rejected' differ in more than the last answer")
    if not same:
        raise ValueError("no prompt before the answers")
    return {"prompt": chosen[:same], "chosen": last[0]["content"], "rejected": last[1]["content"]}


def _answered(table: Mapping[str, Any], side: str, before: list[Message]) -> list[Message]:
    """The whole chat of one side."""
    value = table.get(side)
    if isinstance(value, str) and not before and _TURN.match(value):
        return _transcript(value, side)
    turns = _turns(table, side, "assistant")
    return turns if turns[: len(before)] == before else [*before, *turns]


def _transcript(text: str, side: str) -> list[Message]:
    """A chat written as `Human:` and `Assistant:` paragraphs."""
    _, *parts = _TURN.split(text)
    messages = [
        _message(_SPEAKERS[speaker], said.strip()) for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    if not all(message["content"] for message in messages):
        raise ValueError(f"{side!r} has an empty turn")
    return messages


def _turns(table: Mapping[str, Any], key: str, role: str) -> list[Message]:
    """Messages, or a text that is one message of `role`."""
    if isinstance(table.get(key), list):
        return _messages(table[key], key)
    return [_message(role, _said(table, key))]


def _messages(value: Any, key: str) -> list[Message]:
    if not isinstance(value, list):
        raise ValueError(f"{key!r} is {_kind(value)}, not a list of messages")
    if not value:
        raise ValueError(f"{key!r} is empty")
    return [_checked_message(message, f"{key}[{place}]") for place, message in enumerate(value)]


def _checked_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise ValueError(f"{where} is {_kind(message)}, not a message")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"{where} has the role {_shown(role)}, not one of {', '.join(ROLES)}")
    if message.get("tool_calls"):
        raise ValueError(f"{where} calls tools, which is not learnt yet")
    if isinstance(content, list):
        content = _joined_parts(content, where)
    if not isinstance(content, str):
        raise ValueError(f"{where}.content is {_kind(content)}, not text")
    if not content.strip() and role != "system":
        raise ValueError(f"{where}.content is empty")
    return _message(role, _encodable(content, f"{where}.content"))


def _joined_parts(parts: Sequence[Any], where: str) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}.content has parts that are not text")
    return "".join(str(text) for text in texts)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


def _keys(table: Mapping[str, Any]) -> str:
    return _shown(", ".join(sorted(table)) or "nothing")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
