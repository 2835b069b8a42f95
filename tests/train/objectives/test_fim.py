"""The fill-in-the-middle objective: exact pieces, exact layouts, and nothing else left to chance."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.train.objectives.fim import Fim, Markers, Pieces, cut, find_markers, prefix_first, suffix_first
from tandem.train.objectives.lm import Lm
from tests.train.objectives.stand_ins import SPECIALS, ByteText

TEXT: Any = ByteText()
MARKERS = find_markers(TEXT)
TEXTS = st.text(st.sampled_from("ab é🙂ß\n()def retun€"), max_size=40)


def ids(text: str) -> list[int]:
    return TEXT.encode(text).tolist()


@given(TEXTS, st.integers(0, 60), st.integers(0, 60), st.integers(0, 2**32), st.sampled_from([0.0, 1.0]))
def test_the_pieces_are_the_segment_byte_for_byte(text: str, start: int, stop: int, seed: int, lines: float) -> None:
    """Whatever tokens a segment begins and ends with, halves of characters included."""
    segment = TEXT.encode(text)[start:stop]
    pieces = cut(segment, TEXT, np.random.default_rng(seed), lines=lines)
    assert b"".join(TEXT.decode_bytes(piece) for piece in pieces) == TEXT.decode_bytes(segment)
    TEXT.decode_bytes(pieces.middle).decode("utf-8")


@given(st.text(st.sampled_from("🙂é€x"), min_size=1, max_size=12), st.integers(0, 9), st.integers(0, 9), st.integers())
def test_no_character_is_cut(text: str, start: int, stop: int, seed: int) -> None:
    segment = TEXT.encode(text)[start : len(TEXT.encode(text)) - stop]
    pieces = cut(segment, TEXT, np.random.default_rng(abs(seed)))
    for left, right in ((pieces.prefix, pieces.middle), (pieces.middle, pieces.suffix)):
        joined = TEXT.decode_bytes(left), TEXT.decode_bytes(right)
        if all(joined):
            assert joined[1][0] & 0xC0 != 0x80


def test_a_cut_in_a_line_hides_something_of_it() -> None:
    random = np.random.default_rng(1)
    to_the_end = 0
    for _ in range(300):
        pieces = cut(TEXT.encode("a = 1\n    b = 2\n"), TEXT, random, lines=1.0)
        middle, suffix = TEXT.decode(pieces.middle), TEXT.decode(pieces.suffix)
        assert middle.strip()
        assert "\n" not in middle
        assert not middle.startswith(" ")
        to_the_end += suffix.startswith("\n")
    assert 150 < to_the_end < 290


def test_all_cuts_are_equally_likely() -> None:
    seen = Counter()
    random = np.random.default_rng(1)
    for _ in range(4000):
        pieces = cut(TEXT.encode("a🙂b"), TEXT, random)
        seen[tuple(TEXT.decode(piece) for piece in pieces)] += 1
    edges = ["", "a", "a🙂", "a🙂b"]
    expected = {
        (p, q[len(p) :], "a🙂b"[len(q) :]): 1 if p == q else 2 for p in edges for q in edges if len(p) <= len(q)
    }
    assert seen.keys() == expected.keys()
    for pieces, share in expected.items():
        assert seen[pieces] / 4000 == pytest.approx(share / 16, abs=0.03)


def test_the_layouts() -> None:
    pieces = Pieces(prefix=TEXT.encode("def f"), middle=TEXT.encode("()"), suffix=TEXT.encode(": 1"))
    shown = {
        "psm": TEXT.decode(prefix_first(pieces, MARKERS)),
        "spm": TEXT.decode(suffix_first(pieces, MARKERS)),
    }
    assert shown == {
        "psm": "<|fim_prefix|>def f<|fim_suffix|>: 1<|fim_middle|>()<|endoftext|>",
        "spm": "<|fim_prefix|><|fim_suffix|>: 1<|fim_middle|>def f()<|endoftext|>",
    }


@pytest.mark.parametrize("spm", [0.0, 1.0])
@given(first=TEXTS, second=TEXTS, seed=st.integers(0, 2**32))
def test_every_segment_is_rearranged_by_itself(spm: float, first: str, second: str, seed: int) -> None:
    """The end of a document is not text: it is not cut, and each rearranged segment has one."""
    segments = [[*ids(first), TEXT.end], ids(second)]
    objective = Fim({"rate": 1.0, "spm": spm}, context=500)
    made = objective.prepare({"segments": segments}, TEXT, np.random.default_rng(seed))
    assert (made["weights"] == 1).all()
    shown = TEXT.decode(made["ids"]).split("<|endoftext|>")
    assert len(shown) == 3
    assert shown[2] == ""
    for part, text in zip(shown, (first, second), strict=False):
        before, found, last = part.removeprefix("<|fim_prefix|>").partition("<|fim_middle|>")
        prefix, _, suffix = before.partition("<|fim_suffix|>")
        assert found
        if spm:
            assert prefix == ""
        assert prefix + last + suffix == text


def test_half_of_the_segments_are_rearranged_and_half_of_those_suffix_first() -> None:
    objective = Fim({}, context=100_000)
    made = objective.prepare({"segments": [ids("abcdefghijkl")] * 2000}, TEXT, np.random.default_rng(5))
    rearranged = np.flatnonzero(made["ids"] == MARKERS.prefix)
    suffix_led = sum(made["ids"][place + 1] == MARKERS.suffix for place in rearranged)
    assert len(rearranged) / 2000 == pytest.approx(0.5, abs=0.05)
    # A prefix may be empty in the other form too: 1 of 13 edges drawn twice, 25 of 169.
    assert suffix_led / len(rearranged) == pytest.approx(0.5 + 0.5 * 25 / 169, abs=0.06)


@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=4), st.integers(0, 2**32))
def test_without_a_rate_it_is_lm(texts: list[str], seed: int) -> None:
    record = {"segments": [ids(text) for text in texts]}
    plain = Lm({}, context=30).prepare(record, TEXT, np.random.default_rng(seed))
    made = Fim({"rate": 0.0}, context=30).prepare(record, TEXT, np.random.default_rng(seed))
    assert all(np.array_equal(made[key], plain[key]) and made[key].dtype == plain[key].dtype for key in plain)


def test_the_same_generator_makes_the_same_example() -> None:
    record = {"segments": [ids("def a():\n    return 🙂"), ids("def b(): ()")]}
    objective = Fim({"rate": 0.9}, context=200)
    first, again, other = (objective.prepare(record, TEXT, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first["ids"], again["ids"])
    assert not np.array_equal(first["ids"], other["ids"])


def test_markers_are_taken_from_the_vocabulary() -> None:
    assert Markers(prefix=3, suffix=4, middle=5, end=0) == MARKERS
    without: Any = ByteText(specials=[name for name in SPECIALS if "suffix" not in name])
    with pytest.raises(InvalidRequest, match="The tokenizer has no <|fim_prefix|>"):
        Fim({}, context=8).prepare({"segments": [[7]]}, without, np.random.default_rng(0))
