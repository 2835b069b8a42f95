"""Gaps in code, the question that is asked for them, and the report on the answers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.train.evaluate import infill
from tandem.train.evaluate.examination import Examination
from tandem.train.evaluate.infill import Gap, hide_rest_of_line, hide_span, infill_prompt, infill_report
from tandem.train.objectives.fim import find_markers
from tests.train.objectives.stand_ins import ByteText, untrained

TEXT: Any = ByteText()
MARKERS = find_markers(TEXT)
PROGRAMS = [
    f"def f{number}(x):\n    y = x + {number}\n    return y\n\nprint(f{number}({number}))\n" for number in range(9)
]
LINES = st.text(st.sampled_from("ab \n\tß🙂():"), max_size=60)


def examination(*, count: int = 6, programs: list[str] = PROGRAMS) -> Examination:
    samples: Any = [{"segments": [[*TEXT.encode(program), TEXT.end]]} for program in programs]
    model = untrained(TEXT.size, context=128)
    return Examination(model=model, text=TEXT, samples=samples, context=128, count=count, seed=1, beat=lambda: None)


@pytest.mark.parametrize("hide", [hide_rest_of_line, hide_span])
@given(text=LINES, seed=st.integers(0, 2**32))
def test_a_gap_is_a_part_of_one_line(hide: Any, text: str, seed: int) -> None:
    gap = hide(text, np.random.default_rng(seed))
    if not text.split():
        assert gap is None
        return
    assert gap.filled(gap.middle) == text
    assert gap.middle.strip()
    assert "\n" not in gap.middle
    assert not gap.middle[0].isspace() or gap.prefix.rpartition("\n")[2].strip()
    if hide is hide_rest_of_line:
        assert gap.suffix[:1] in {"", "\n"}


@given(LINES, LINES, st.integers(10, 200))
def test_the_prompt_fits_and_keeps_what_is_next_to_the_gap(prefix: str, suffix: str, room: int) -> None:
    prompt = infill_prompt(TEXT, MARKERS, Gap(prefix, "x", suffix), room=room)
    assert len(prompt) <= room
    assert prompt[0] == MARKERS.prefix
    assert prompt[-1] == MARKERS.middle
    middle = prompt.index(MARKERS.suffix)
    before, after = prompt[1:middle], prompt[middle + 1 : -1]
    whole_before, whole_after = TEXT.encode(prefix).tolist(), TEXT.encode(suffix).tolist()
    assert whole_before[len(whole_before) - len(before) :] == before
    assert whole_after[: len(after)] == after
    assert len(prompt) == min(room, 3 + len(whole_before) + len(whole_after))
    assert len(after) >= min(len(whole_after), (room - 3) // 4)


def test_a_model_that_knows_beats_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    exam = examination(count=9)
    right = {}
    for kind, hide in (("single_line", hide_rest_of_line), ("span", hide_span)):
        for gap in infill._gaps(exam, hide):
            asked = infill_prompt(TEXT, MARKERS, gap, room=128 - 32)
            right[tuple(asked)] = gap.middle
        assert kind
    prompts = []

    def knowing(model: object, ids: list[int], most: int, stops: Any) -> list[int]:
        prompts.append(tuple(ids))
        assert MARKERS.end in stops
        said = TEXT.encode(right[tuple(ids)]).tolist()
        assert not set(said) & set(stops)
        return [*said, MARKERS.end]

    monkeypatch.setattr(infill, "greedy", knowing)
    unlike: Any = [{"segments": [TEXT.encode("import os\n" * 20)]}]
    found = infill_report(exam, unlike)
    assert len(prompts) == 18
    assert found["baseline_tokens"] == 200
    for kind in ("single_line", "span"):
        report = found[kind]
        assert report["samples"] == 9
        assert report["exact_match"] == report["edit_similarity"] == report["parses"] == 1.0
        assert report["parsable"] == 9
        assert report["baseline_exact_match"] < 0.5
        mean, low, high = report["exact_match_gain"]
        assert 0 < low <= mean <= high <= 1
        assert mean == pytest.approx(1 - report["baseline_exact_match"])


def test_the_baseline_knows_what_it_has_seen() -> None:
    """It counted the very programs; the untrained model knows nothing."""
    exam = examination(programs=PROGRAMS[:1] * 4)
    found = infill_report(exam, exam.samples)
    assert found["single_line"]["baseline_edit_similarity"] > 0.8
    assert found["single_line"]["edit_similarity_gain"][0] < 0
    assert found == infill_report(exam, exam.samples)


def test_texts_without_words_and_programs_that_do_not_parse() -> None:
    exam = examination(programs=["  \n\n", "def (", "\t"])
    found = infill_report(exam, exam.samples)
    assert found["span"]["samples"] == 1
    assert found["span"]["parsable"] == 0
    assert found["span"]["parses"] is None
