"""Typed tables from files that people write: TOML read and converted, with errors that name the file and the key."""

import re
import tomllib
from typing import Any, Protocol, TypeVar

import msgspec

from tandem.kit.errors import InvalidRequest

T = TypeVar("T")

_INDEX = re.compile(r"\[(\d+)\]")  # as msgspec writes it; for people it is a part of the dotted key


class Readable(Protocol):
    """A path, for modules that may not know the file system."""

    def read_text(self, encoding: str) -> str: ...


def read_toml(path: Readable, *, what: str) -> dict[str, Any]:
    """The tables of a TOML file; `what` is its kind, as in `the recipe`.

    Raises:
        InvalidRequest: no such file, or not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"Cannot read {what} {path}: {error.strerror}.", remedy="Check the path.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{_begun(what)} {path} is not TOML: {error}.", remedy="Save it as UTF-8.") from error
    return parse_toml(text, what=what, where=str(path))


def parse_toml(text: str, *, what: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        InvalidRequest: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{_begun(what)} {where} is not TOML: {error}.", remedy="Mend that line.") from error


def converted(table: object, kind: type[T], *, what: str, where: str, page: str) -> T:
    """Plain tables as a typed one; `page` is the part of the documentation that lists the keys.

    Raises:
        InvalidRequest: a key is unknown, missing or has a wrong value; the message names it.
    """
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        problem, place = fault(error)
        key = place or "the top"
        raise InvalidRequest(
            f"{_begun(what)} {where} is wrong at {key}: {problem}.",
            remedy=f"{page} lists the keys and what they take.",
            param=key,
        ) from error


def fault(error: Exception) -> tuple[str, str]:
    """What an error of msgspec says is wrong, and the dotted key at which it is; none is the top, or no type at all."""
    problem, _, place = str(error).partition(" - at `$")
    return problem, _INDEX.sub(r".\1", place.rstrip("`")).lstrip(".")


def _begun(what: str) -> str:
    return what[:1].upper() + what[1:]
