"""Records: every spelling of a format means the same, and what is no record says why."""

import json
from typing import Any

import pytest

from tandem.train.data.records import bytes_of, compared_text, line_of_flaw, read_record, split_text, texts_of
from tandem.train.data.sources import Raw

ASKED = [{"role": "user", "content": "2+2?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "4"}]
PAIR = {"prompt": ASKED, "chosen": "4", "rejected": "5"}


def read(record: Any, format_: str) -> dict[str, Any]:
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    return read_record(Raw(file="f", line=1, data=data), format_)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": ANSWERED},
        {"messages": [{**said, "name": "x"} for said in ANSWERED], "id": 7},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, ANSWERED[1]]},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": ASKED, "completion": ANSWERED[1:]},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"instruction": "2+2?", "output": "4"},
        {"question": "2+2?", "answer": "4"},
    ],
)
def test_chats_in_every_spelling(record: dict[str, Any]) -> None:
    assert read(record, "chat") == {"messages": ANSWERED}
    assert read(record, "questions") == {"messages": ANSWERED}


def test_an_instructions_input_follows_it() -> None:
    found = read({"instruction": "Add.", "input": "2 2", "output": "4"}, "chat")
    assert found["messages"][0]["content"] == "Add.\n\n2 2"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": ASKED, "chosen": "4", "rejected": "5"},
        {"prompt": ASKED, "chosen": ANSWERED[1:], "rejected": [{"role": "assistant", "content": "5"}]},
        {"prompt": "2+2?", "chosen": ANSWERED, "rejected": [*ASKED, {"role": "assistant", "content": "5"}]},
        {"chosen": ANSWERED, "rejected": [*ASKED, {"role": "assistant", "content": "5"}]},
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
    ],
)
def test_preferences_in_every_spelling(record: dict[str, Any]) -> None:
    assert read(record, "preference") == PAIR


def test_a_transcript_of_several_turns_keeps_what_is_common_as_the_prompt() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello: you?\n\nHuman: 2+2?\n\nAssistant:"
    found = read({"chosen": f"{start} 4", "rejected": f"{start} 5"}, "preference")
    assert [said["content"] for said in found["prompt"]] == ["Hi", "Hello: you?", "2+2?"]
    assert (found["chosen"], found["rejected"]) == ("4", "5")


@pytest.mark.parametrize(
    ("record", "format_", "reason"),
    [
        (b'{"text": "a"', "text", "not JSON"),
        (b"[1]", "text", "not a JSON object but a list"),
        (b'{"text": "\xff"}', "text", "not"),
        (b"[" * 100_000, "text", "not JSON"),
        ({"words": "a"}, "text", "no 'text'; it has words"),
        ({"text": 3}, "text", "'text' is a number, not text"),
        ({"text": " \n"}, "text", "'text' is empty"),
        ({"messages": []}, "chat", "'messages' is empty"),
        ({"messages": ASKED}, "chat", "nothing to learn from"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "chat", "messages[0] has the role robot"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "chat", "messages[0] has the role ['user']"),
        ({"messages": ["x"]}, "chat", "messages[0] is text, not a message"),
        ({"messages": [*ASKED, {"role": "assistant", "content": None}]}, "chat", "messages[1].content is nothing"),
        ({"messages": [*ASKED, {"role": "assistant", "content": ""}]}, "chat", "messages[1].content is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "chat", "parts that are not text"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}, "chat", "calls tools"),
        ({"question": "x", "answer": True}, "questions", "'answer' is true or false, not text"),
        ({"else": 1}, "chat", "no 'messages'"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "preference", "are the same"),
        ({"prompt": "x", "chosen": "a"}, "preference", "no 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, "preference", "no prompt"),
        ({"chosen": ANSWERED, "rejected": [*ANSWERED, *ANSWERED]}, "preference", "more than the last answer"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: b"},
            "preference",
            "empty turn",
        ),
    ],
)
def test_what_is_no_record_says_why(record: Any, format_: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(record, format_)
    assert reason in str(caught.value)


def test_half_of_a_character_is_refused() -> None:
    with pytest.raises(ValueError):
        read(b'{"text": "a\\ud800"}', "text")


def test_a_document_that_is_not_utf_8_is_reported_by_the_line_of_the_first_wrong_byte() -> None:
    raw = Raw(file="f", line=1, data=b"one\ntwo\n\xe9", whole=True)
    assert line_of_flaw(raw) == 3
    with pytest.raises(ValueError, match="not UTF-8: byte 8 is 0xe9"):
        read_record(raw, "text")


@pytest.mark.parametrize(("data", "reason"), [(b"a\0b", "binary"), (b" \n\t", "empty"), (b"", "empty")])
def test_documents_that_hold_no_text(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_record(Raw(file="f", line=1, data=data, whole=True), "code")


def test_the_mark_before_utf_8_is_no_text() -> None:
    assert read_record(Raw(file="f", line=1, data=b"\xef\xbb\xbfx = 1", whole=True), "code") == {"text": "x = 1"}
    assert read(b'\xef\xbb\xbf{"text": "a"}', "text") == {"text": "a"}


def test_what_is_learnt_compared_split_and_counted_of_a_record() -> None:
    system = {"role": "system", "content": "Be brief."}
    record = {"messages": [system, *ANSWERED]}
    assert texts_of(record) == ["Be brief.", "2+2?", "4"]
    assert compared_text(record) == "2+2?\n4"
    assert texts_of(PAIR) == ["2+2?", "4", "5"]
    assert compared_text(PAIR) == "2+2?\n4\n5"
    assert split_text(PAIR) == split_text({**PAIR, "chosen": "four"})
    assert split_text(PAIR) != split_text({**PAIR, "prompt": [system]})
    assert [bytes_of(one) for one in (record, PAIR, {"text": "é"}, {"segments": [], "bytes": 7})] == [1, 1, 2, 7]
