"""Quantities: what is typed, what is shown, and that no number of the room goes without its unit."""

import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tandem.plan
from tandem.kit.errors import InvalidRequest
from tandem.plan.units import (
    UNITS,
    Interval,
    flop_text,
    parameters_text,
    parse_count,
    parse_device_time,
    parse_span_s,
    parse_usd,
    usd_text,
)

EXEMPT = {
    # They have the unit of whatever holds them or is given.
    "Interval.low",
    "Interval.mid",
    "Interval.high",
    "Interval.times.factor",
    "Spread.interval.least",
    "exact.number",
    "parameters_text.count",
    # Jobs, devices and seconds side by side.
    "fitted.runs",
}


def _modules() -> Iterator[types.ModuleType]:
    yield tandem.plan
    for found in pkgutil.walk_packages(tandem.plan.__path__, "tandem.plan."):
        yield importlib.import_module(found.name)


def _own(kind: type, module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """The public things that a module itself defines."""
    for name, one in vars(module).items():
        if not name.startswith("_") and isinstance(one, kind) and one.__module__ == module.__name__:
            yield name, one


def _holds_float(annotation: Any) -> bool:
    """Whether there is a broken number, or an interval of such, in a type."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return annotation in {float, Interval} or any(_holds_float(one) for one in inner)


def _arguments(owner: str, function: Any) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(function)
    return ((f"{owner}.{name}", kind) for name, kind in hints.items() if name != "return")


def _numbers() -> Iterator[tuple[str, Any]]:
    for module in _modules():
        for name, function in _own(types.FunctionType, module):
            yield from _arguments(name, function)
        for name, kind in _own(type, module):
            if dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct):
                yield from (
                    (f"{name}.{field}", hint)
                    for field, hint in typing.get_type_hints(kind).items()
                    if not field.startswith("_")
                )
            for method, function in inspect.getmembers(kind, inspect.isfunction):
                if not method.startswith("_") and function.__module__ == module.__name__:
                    yield from _arguments(f"{name}.{method}", function)


def test_every_number_says_its_unit() -> None:
    numbers = [(name, kind) for name, kind in _numbers() if _holds_float(kind)]
    assert len(numbers) > 30, "the walk finds them"
    bare = [
        name
        for name, _ in numbers
        # `tokens_per_s` is as good as `device_tokens_per_s`.
        if name not in EXEMPT and not any(f"_{name.rpartition('.')[2]}".endswith(ending) for ending in UNITS)
    ]
    assert bare == [], "end the name with a unit of tandem.plan.units.UNITS, or add one there"


def test_the_walk_would_see_a_number_without_a_unit() -> None:
    assert _holds_float(tuple[float, ...])
    assert _holds_float(dict[str, float] | None)
    assert _holds_float(Interval | None)
    assert not _holds_float(dict[str, int])


@pytest.mark.parametrize(
    ("text", "amount_usd"),
    [("250000", 250_000), ("250k", 250_000), ("$1.5M", 1.5e6), ("1_000_000", 1e6), ("2,500 USD", 2500), ("1e3", 1000)],
)
def test_money(text: str, amount_usd: float) -> None:
    assert parse_usd(text, what="--budget") == pytest.approx(amount_usd)


@pytest.mark.parametrize("text", ["", "-5", "0", "five", "5 EUR", "1e400", "nan", "inf", "1" * 50, "٣"])
def test_nonsense_is_no_money(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--budget is .* 250k"):
        parse_usd(text, what="--budget")


@pytest.mark.parametrize(("text", "count"), [("7B", 7e9), ("1.4T", 1.4e12), ("300e9", 3e11), ("512", 512), ("3g", 3e9)])
def test_counts(text: str, count: float) -> None:
    assert parse_count(text, what="--tokens") == pytest.approx(count)


@pytest.mark.parametrize(
    ("text", "span_s"), [("30d", 2_592_000), ("12h", 43_200), ("90min", 5400), ("3600s", 3600), ("2w", 1_209_600)]
)
def test_spans(text: str, span_s: float) -> None:
    assert parse_span_s(text, what="--for") == pytest.approx(span_s)


def test_devices_and_time() -> None:
    assert parse_device_time("512x30d", what="--devices") == (512, 30 * 86_400.0)


@pytest.mark.parametrize(
    "text", ["512", "x30d", "0x30d", "-1x30d", "1.5x30d", "512x", "512x-1d", "²x1d", "9999999999x1d"]
)
def test_nonsense_is_no_device_time(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_device_time(text, what="--devices")


@given(st.floats(1e-3, 1e15, allow_nan=False))
def test_money_is_read_as_it_is_written(amount_usd: float) -> None:
    assert parse_usd(f"{amount_usd:f}", what="x") == pytest.approx(amount_usd, abs=1e-6)


def test_amounts_for_people() -> None:
    assert [usd_text(one) for one in (0.35, 99.5, 1234.4, 2.5e6, 3e9)] == ["$0.35", "$99.50", "$1,234", "$2.5M", "$3B"]
    assert [usd_text(one) for one in (-0.35, -405, -2.5e6, -0.001)] == ["-$0.35", "-$405", "-$2.5M", "$0.00"]
    assert [parameters_text(one) for one in (8_030_261_248, 1.4e12, 1e6)] == ["8.03B", "1.4T", "1M"]
    assert flop_text(3.14e23) == "3.14e+23 FLOP"


def test_an_interval_is_in_order_and_scales() -> None:
    assert Interval(1, 2, 4).times(2) == Interval(2, 4, 8)
    with pytest.raises(AssertionError):
        Interval(2, 1, 3)
