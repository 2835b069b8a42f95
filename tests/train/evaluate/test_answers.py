"""Answers to held-out chats."""

from typing import Any

import pytest

from tandem.train.evaluate import answers
from tandem.train.evaluate.answers import answers_report, asked, final_number
from tandem.train.evaluate.examination import Examination
from tests.train.objectives.stand_ins import ByteText, Looking

TEXT: Any = ByteText()


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.mark.parametrize(
    ("answer", "marked", "number"),
    [
        ("3 + 4 = 7\n#### 7", True, "7"),
        ("3 + 4 = 7", True, None),
        ("3 + 4 = 7.", False, "7"),
        ("#### 1,234.50 euros of 3", True, "1234.5"),
        ("#### -12.00", True, "-12"),
        ("none", False, None),
        ("####", False, None),
        ("100", False, "100"),
    ],
)
def test_final_number(answer: str, marked: bool, number: str | None) -> None:
    assert final_number(answer, marked=marked) == number


def test_the_question_is_all_before_the_last_answer() -> None:
    messages = [*chat("One?", "Two.")["messages"], *chat("And?", "Three.")["messages"]]
    question = asked(messages, TEXT)
    before = "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n"
    assert TEXT.decode(question.prompt) == f"{before}<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    assert question.answer == "Three."
    assert question.stops == {TEXT.end, TEXT.special("<|im_end|>")}


@pytest.mark.parametrize("keeps_stop", [True, False])
def test_the_report(monkeypatch: pytest.MonkeyPatch, keeps_stop: bool) -> None:
    samples = [
        chat("Sum?", "It is four.\n#### 4"),
        chat("Sea?", "South. (T)"),
        chat("Hill?", "North. (T)"),
        chat("Wood?", "West. (T)"),
        chat("Long? " * 40, "West. (T)"),
    ]
    said = {"Sum?": "So 2 and 2 make 4", "Sea?": "South.  (T)", "Hill?": "I say: North. (T) (T)", "Wood?": "East."}

    def answering(model: object, ids: list[int], most: int, stops: Any) -> list[int]:
        (question,) = (words for words in said if f"user\n{words}<" in TEXT.decode(ids))
        return TEXT.encode(said[question]).tolist() + [TEXT.special("<|im_end|>")] * keeps_stop

    monkeypatch.setattr(answers, "greedy", answering)
    beats: list[None] = []
    some: Any = samples
    exam = Examination(
        model=Looking(TEXT.size),
        text=TEXT,
        samples=some,
        context=100,
        count=10,
        seed=0,
        beat=lambda: beats.append(None),
    )
    found = answers_report(exam)
    assert len(beats) == 5
    similarity = found.pop("edit_similarity")
    assert 0.5 < similarity < 1
    assert found == {
        "samples": 4, "too_long": 1, "exact": 0.25, "contains": 0.5, "same_ending": 0.75, "number": 1.0
    }  # fmt: skip


def test_nothing_to_ask() -> None:
    none: Any = []
    exam = Examination(
        model=Looking(TEXT.size), text=TEXT, samples=none, context=100, count=10, seed=0, beat=lambda: None
    )
    assert answers_report(exam)["exact"] is None
