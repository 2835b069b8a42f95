"""Answers to held-out questions, as the model gives them greedily, against those that the data gives."""

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tandem.spec.scores import edit_similarity
from tandem.train.data import Text
from tandem.train.evaluate.examination import Examination, measuring
from tandem.train.nets import greedy
from tandem.train.objectives.turns import last_turn

_MOST_TOKENS = 256  # of an answer
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Question(NamedTuple):
    """A chat up to where the assistant's last turn begins, and what it should say there."""

    prompt: NDArray[np.int32]
    answer: str
    stops: frozenset[int]


def answers_report(exam: Examination) -> dict[str, Any]:
    """Shares of the held-out chats whose last answer is met, with white space made even.

    `exact`: the very words. `contains`: the data's answer is in the model's. `same_ending`: the last word is the
    same. `edit_similarity`: the mean, between 0 and 1. `number`: the final number is right, over the chats whose
    answer ends with `#### ` and a number, as GSM8K's do; None where there is none. `too_long` chats, whose
    question leaves no room for an answer in the context, are passed over.
    """
    scores: dict[str, list[float]] = {name: [] for name in ("exact", "contains", "same_ending", "edit_similarity")}
    numbers: list[float] = []
    too_long = 0
    with measuring(exam.model):
        for place in exam.places:
            exam.beat()
            question = asked(exam.samples[place]["messages"], exam.text)
            room = min(_MOST_TOKENS, exam.context - len(question.prompt))
            if room <= 0:
                too_long += 1
                continue
            said = greedy(exam.model, question.prompt.tolist(), room, question.stops)
            answer = _even(exam.text.decode([token for token in said if token not in question.stops]))
            for name, score in _scores(answer, _even(question.answer)).items():
                scores[name].append(score)
            if (right := final_number(question.answer, marked=True)) is not None:
                numbers.append(float(final_number(answer) == right))
    shares = {name: _mean(values) for name, values in scores.items()}
    return {"samples": len(scores["exact"]), "too_long": too_long, **shares, "number": _mean(numbers)}


def asked(messages: list[dict[str, Any]], text: Text) -> Question:
    """The question that a chat's last assistant turn answers. A control token at the turn's end is what ends turns."""
    ids, weights = text.encode_chat(messages)
    turn = last_turn(weights)
    said = ids[turn].tolist()
    stops = {text.end, *(token for token in said[-1:] if text.special(text.decode([token])) is not None)}
    answer = text.decode([token for token in said if token not in stops])
    return Question(ids[: turn.start], answer, frozenset(stops))


def final_number(answer: str, *, marked: bool = False) -> str | None:
    """The number after `####`, or else, unless it must be so `marked`, the last one; without commas and point zero."""
    _, found, after = answer.rpartition("####")
    numbers = _NUMBER.findall(after if found or not marked else "")
    if not numbers:
        return None
    number = numbers[0 if found else -1].replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _scores(answer: str, right: str) -> dict[str, float]:
    return {
        "exact": float(answer == right),
        "contains": float(right in answer),
        "same_ending": float(answer.rpartition(" ")[2] == right.rpartition(" ")[2]),
        "edit_similarity": edit_similarity(answer, right),
    }


def _even(text: str) -> str:
    return " ".join(text.split())


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
