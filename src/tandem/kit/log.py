"""Structured logging without secrets: key=value text or JSON lines, with whatever looks like a secret blotted out."""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this task works for; every line that is logged meanwhile carries it."""

BLOT = "***"

_SENSITIVE = r"(?:api[-_]?key|token|secret|passw(?:or)?d|passphrase|authorization|credentials?|\bsig|signature)"
_SENSITIVE_FIELD = re.compile(rf"(?i){_SENSITIVE}$|^(?:set-)?cookie$")

# Each keeps what stands before the secret, so that a reader sees what was there. The order matters: headers whose
# value has several words come before the single words.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Cookie: a=b; c=d, and the same as a quoted pair of a dictionary or of ASGI headers
    (re.compile(r"""(?i)((?:set-)?cookie(?:\\*["'])\s*[:,=]\s*b?\\*)(["'])(?:(?!\2).)*"""), rf"\1\2{BLOT}"),
    (re.compile(r"(?i)((?:set-)?cookie\s*[:=]\s*)[^\r\n]+"), rf"\1{BLOT}"),
    # scheme://user:password@host; the password may hold any character but a blank
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^\s:/@]*:[^ \t\r\n@]*@(?:[^\s/@]*@)*"), rf"\1{BLOT}@"),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^\s:/@?#]+@"), rf"\1{BLOT}@"),
    # name: value, name=value, "name": "value", ('name', b'value'); the value quoted, escaped and quoted, or bare
    (
        re.compile(
            rf"""(?ix) ( {_SENSITIVE} (?: \\*["']? \s* [:=] \s* | \\*["'] \s* , \s* ) )
            (?: b?"(?:[^"\\]|\\.)*"? | b?'(?:[^'\\]|\\.)*'? | \\+["'](?:(?!\\+["']).)* (?:\\+["'])?
              | (?: (?:bearer|basic) \s+ )? [^\s,;&)}}\]"'\\]+ )"""
        ),
        rf"\1{BLOT}",
    ),
    (re.compile(r"""(?i)\b(bearer\s+)[^\s,;"'\\]+"""), rf"\1{BLOT}"),
    (re.compile(r"\b(Basic\s+)[A-Za-z0-9+/=_-]{6,}"), rf"\1{BLOT}"),
    (re.compile(r"(?i)([?&](?:key|code|state|assertion)=)[^\s&#\"']+"), rf"\1{BLOT}"),
    # keys of Tandem, of OpenAI and of the hub, wherever they stand
    (re.compile(r"(tk-|sk-|hf_)[A-Za-z0-9_-]{8,}"), rf"\1{BLOT}"),
)

# What every record has; anything else on it was passed as `extra`.
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: `get_logger(__name__)`. Fields go in as `extra={"pid": 7}`, never into the message."""
    return logging.getLogger(name if name.split(".", 1)[0] == "tandem" else f"tandem.{name}")


def setup_logging(
    level: str,
    format: str = "text",
    *,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Send all logs to `stream` (standard error); call again to change it. Nothing is logged before this call.

    `level` is debug, info, warning or error, and holds for Tandem; other packages speak from warning on. `format`
    is text or json.
    `secrets` are blotted out wherever they appear, whatever they look like.
    """
    known = tuple(sorted((secret for secret in secrets if secret), key=len, reverse=True))
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(known) if format == "json" else _TextFormatter(known))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("tandem").setLevel(level.upper())
    root.setLevel(max(logging.WARNING, logging.getLogger("tandem").level))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with everything blotted out that looks like a secret, or is one of `secrets`."""
    for secret in secrets:
        text = text.replace(secret, BLOT)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the stream; a record that cannot be written is never shown, since nothing would blot it out."""

    def handleError(self, record: logging.LogRecord) -> None:
        try:
            self.stream.write(f"A log record of {record.name}, line {record.lineno}, could not be written.\n")
        except (OSError, ValueError):
            pass  # the stream itself is gone, and there is nobody left to tell


class _SafeFormatter(logging.Formatter):
    """What both formats share: the fields of a record, each without secrets."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def _redacted(self, text: str) -> str:
        return redact(text, self._secrets)

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        for key, value in vars(record).items():
            if key not in _OWN_FIELDS:
                yield key, self._safe(key, value)
        if current := request_id.get():
            yield "request_id", current

    def _safe(self, key: str, value: object) -> object:
        if _SENSITIVE_FIELD.search(key):
            return BLOT
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redacted(str(value))

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return self._redacted("\n".join(parts))


class _TextFormatter(_SafeFormatter):
    """`time LEVEL logger: message key=value`; one line, then the trace with each line indented."""

    def format(self, record: logging.LogRecord) -> str:
        words = [self._redacted(record.getMessage()).replace("\n", "\\n").replace("\r", "\\r")]
        words += [f"{key}={_word(value)}" for key, value in self._fields(record)]
        lines = [f"{_time(record)} {record.levelname} {record.name}: {' '.join(words)}"]
        return "\n  ".join(lines + self._trace(record).splitlines())


class _JsonFormatter(_SafeFormatter):
    """One JSON object in a line; time, level, logger and message are always there."""

    def format(self, record: logging.LogRecord) -> str:
        line = dict(self._fields(record))
        line |= {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redacted(record.getMessage()),
        }
        if trace := self._trace(record):
            line["exception"] = trace
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)
