"""Typed tables: whatever is wrong in a file is said with the file and the key."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from tandem.kit.errors import InvalidRequest
from tandem.kit.typed import converted, fault, parse_toml, read_toml


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(ge=1)]
    """How large."""


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    inner: tuple[Inner, ...] = ()


def convert(text: str) -> Outer:
    table = parse_toml(text, what="the sheet", where="a.toml")
    return converted(table, Outer, what="the sheet", where="a.toml", page="docs/sheet.md")


def test_a_file_becomes_a_typed_table(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "ä"\n[[inner]]\nsize = 2\n', encoding="utf-8")
    assert convert(path.read_text(encoding="utf-8")) == Outer(name="ä", inner=(Inner(2),))
    assert read_toml(path, what="the sheet") == {"name": "ä", "inner": [{"size": 2}]}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "the top"),
        ("name = 3", "name"),
        ('name = "a"\nnmae = "b"', "the top"),
        ('name = "a"\n[[inner]]\nsize = 1\n[[inner]]\nsize = 0', "inner.1.size"),
        ('name = "a"\n[[inner]]\nsize = "1"', "inner.0.size"),
        ('name = "a"\n[[inner]]\nsize = 1.5', "inner.0.size"),
        ('name = "a"\ninner = 1', "inner"),
    ],
)
def test_a_wrong_key_is_named(text: str, key: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^The sheet a\.toml is wrong at ") as caught:
        convert(text)
    assert f"is wrong at {key}: " in caught.value.message
    assert caught.value.param == key
    assert "docs/sheet.md" in caught.value.remedy


@pytest.mark.parametrize("text", ["name", "name = ", 'name = "a"\nname = "b"', "a = " + "[" * 100_000])
def test_what_is_not_toml(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^The sheet a\.toml is not TOML: "):
        convert(text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="Cannot read the sheet .*No such file"):
        read_toml(tmp_path / "nothing.toml", what="the sheet")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "\xe4"')
    with pytest.raises(InvalidRequest, match="is not TOML"):
        read_toml(path, what="the sheet")


@pytest.mark.parametrize(
    ("said", "problem", "key"),
    [
        ("Expected `int` >= 1 - at `$.inner[0].size`", "Expected `int` >= 1", "inner.0.size"),
        ("Object contains unknown field `x`", "Object contains unknown field `x`", ""),
        ("Expected `object`, got `array`", "Expected `object`, got `array`", ""),
        ("JSON is malformed: trailing characters (byte 3)", "JSON is malformed: trailing characters (byte 3)", ""),
    ],
)
def test_what_is_wrong_and_where_are_told_apart(said: str, problem: str, key: str) -> None:
    assert fault(msgspec.ValidationError(said)) == (problem, key)
