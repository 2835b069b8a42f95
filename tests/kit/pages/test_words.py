"""Numbers for people: what they look like, and that none of them says more or less than it is."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.pages import is_number, many, number, percent, rate, ratio, short, size, span, written

_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SPANS_S = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "days": 86_400.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (1_234, "1.23k"),
        (5e6, "5M"),
        (0.00123, "0.00123"),
        (-2e9, "-2G"),
        (7e13, "70T"),
        (999.4, "999"),
        (999.6, "1k"),
        (999_600_000, "1G"),
        (9.99e14, "999T"),
        (9.996e14, "1e+15"),
        (6e23, "6e+23"),
    ],
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert short(value) == expected


@given(st.floats(-1e30, 1e30))
def test_a_short_number_is_the_number_to_three_digits(value: float) -> None:
    told = short(value)
    digits, suffix = (told[:-1], told[-1]) if told[-1].isalpha() else (told, "")
    assert float(digits) * _SCALES[suffix] == pytest.approx(value, rel=5.1e-3)
    assert len(told) <= 10
    assert "e" not in told or abs(value) < 1e-3 or abs(value) >= 9.995e14


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 ms"),
        (0.0001, "0.1 ms"),
        (0.0006, "0.6 ms"),
        (0.00094, "0.9 ms"),
        (0.00096, "1 ms"),
        (0.0345, "34 ms"),
        (0.9996, "1.0 s"),
        (45.25, "45.2 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (259_199, "71 h 59 min"),
        (259_200, "3.0 days"),
        (1e8, "1,157.4 days"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert span(seconds) == expected


@given(st.floats(0.1, 1e9))
def test_a_duration_is_read_back(seconds: float) -> None:
    told = span(seconds).replace(",", "")
    parts = re.findall(r"([\d.]+) ([a-z]+)", told)
    assert sum(float(many) * _SPANS_S[unit] for many, unit in parts) == pytest.approx(seconds, rel=0.05)
    assert all(float(many) < 60 for many, unit in parts if unit in {"s", "min"}), "sixty seconds are a minute"


def test_what_is_no_number_has_no_words() -> None:
    assert short(None) == number("5") == percent("0.5") == rate(None) == size([]) == ratio(None, 1) == ""
    assert short(True) == "", "true is no number of JSON"
    assert ratio(1, 0) == ratio(1, None) == ""
    assert not is_number(False)
    assert is_number(0)


def test_units_stand_behind() -> None:
    assert (percent(0.256), rate(1234.5), size(86e9)) == ("25.6 %", "1,234 tokens/s", "86GB")
    assert (many(1, "host"), many(0, "host"), many(2048, "host")) == ("1 host", "0 hosts", "2,048 hosts")
    assert (number(1_234_567), number(0.123456), ratio(3, 4)) == ("1,234,567", "0.1235", "0.75")


def test_values_of_json_are_written_as_people_say_them() -> None:
    assert written([True, None, 0.1234567, "a", [1, 2]]) == "yes, , 0.123457, a, 1, 2"
