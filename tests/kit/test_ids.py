"""Ids are unique and sort by time; secrets are long and differ; digests are SHA-256."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit import ids
from tandem.kit.ids import new_id, new_secret, sha256_hex


def test_an_id_is_its_prefix_and_32_hexadecimal_digits() -> None:
    prefix, _, rest = new_id("req").partition("_")
    assert prefix == "req"
    assert len(rest) == 32
    assert set(rest) <= set("0123456789abcdef")


def test_ids_are_unique() -> None:
    assert len({new_id("x") for _ in range(10_000)}) == 10_000


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=8))
def test_ids_sort_by_the_millisecond_they_were_made_in(milliseconds: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = []
        for value in milliseconds:
            patch.setattr(time, "time_ns", lambda value=value: value * 1_000_000)
            made.append((value, new_id("x")))
    for earlier, first in made:
        for later, second in made:
            assert first < second or earlier >= later


def test_the_last_millisecond_of_the_layout_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids.time, "time_ns", lambda: (2**48 - 1) * 1_000_000)
    assert new_id("x").startswith("x_ffffffffffff")


def test_secrets_have_256_bits_and_differ() -> None:
    first, second = new_secret("tk"), new_secret("tk")
    assert first != second
    assert first.startswith("tk-")
    assert len(first) == len("tk-") + 43  # 32 bytes in base 64


def test_a_digest_is_the_sha256_of_text_or_bytes() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_hex("") == sha256_hex(b"") == empty
    assert sha256_hex("ä") == sha256_hex("ä".encode())
