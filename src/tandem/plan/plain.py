"""Answers as plain tables for JSON: fields by their names, models with their weights, what is infinite as null."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from tandem.plan.model import ModelSize


def plain(value: Any) -> Any:
    """What JSON holds of an answer: dataclasses and rows as objects, tuples as lists; numbers that are not finite,
    which JSON has no word for, as None.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, ModelSize):
        return _fields(value) | {"parameters": value.parameters}
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, msgspec.Struct):
        return {key: plain(one) for key, one in msgspec.structs.asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
