"""Samples: every token of every document once, chats as they were, epochs by weight, and no changed byte unnoticed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import IntegrityError, NotFound
from tandem.spec import Recipe
from tandem.train.data import open_dataset, open_samples, open_text, prepare
from tandem.train.data.samples import FIM_SLACK, epoch_places
from tests.train.data.corpora import BYTES, chat, document, recipe, silent, write_lines, write_tree


def prepared(home: Path, wanted: Recipe) -> Recipe:
    return prepare(wanted, home=home, parent_gguf=None, progress=silent)


def code(tmp_path: Path, count: int = 30, **more: Any) -> dict[str, Any]:
    files: dict[str, str | bytes] = {f"{n}.py": document(n, words=1 + n * 3) for n in range(count)}
    return {"format": "code", "source": f"folder:{write_tree(tmp_path / 'code', files)}", **more}


@pytest.mark.parametrize(("objective", "room"), [("lm", 33), ("fim", 33 - FIM_SLACK)])
def test_rows_hold_every_token_of_every_document_once(tmp_path: Path, home: Path, objective: str, room: int) -> None:
    pinned = prepared(home, recipe(code(tmp_path), objective=objective))
    text = open_text(home, pinned)
    for side in ("train", "held_out"):
        samples = open_samples(home, pinned, side)
        rows = [samples[number] for number in range(len(samples))]
        sizes = [sum(map(len, row["segments"])) for row in rows]
        assert min(sizes) > 0
        assert max(sizes) == samples.longest <= room
        documents = [record["text"] for record in open_dataset(home, pinned.data[0]).records(side)]
        ids = [[*text.encode(one).tolist(), text.end] for one in documents]
        assert samples.tokens == sum(sizes) == sum(map(len, ids))
        found = Counter(tuple(segment.tolist()) for row in rows for segment in row["segments"])
        assert found == Counter(tuple(one[at : at + room]) for one in ids for at in range(0, len(one), room))
        assert {segment.dtype for row in rows for segment in row["segments"]} == {np.dtype(np.int32)}


def test_bytes_are_those_of_what_is_predicted(tmp_path: Path, home: Path) -> None:
    pinned = prepared(home, recipe(code(tmp_path)))
    text, samples = open_text(home, pinned), open_samples(home, pinned, "train")
    total = 0
    for number in range(len(samples)):
        row = samples[number]
        ids = np.concatenate(row["segments"])[1:]
        assert row["bytes"] == len(text.decode_bytes(ids[ids != text.end]))
        total += row["bytes"]
    assert samples.bytes == total


def test_chats_come_as_they_were(tmp_path: Path, home: Path) -> None:
    records = [chat(f"What is {n}?", f"It is é{n}. " * (n + 1)) for n in range(12)]
    path = write_lines(tmp_path / "x.jsonl", records)
    pinned = prepared(home, recipe({"format": "chat", "source": f"file:{path}"}, objective="sft"))
    text = open_text(home, pinned)
    sides = [open_samples(home, pinned, side) for side in ("train", "held_out")]
    found = [samples[number] for samples in sides for number in range(len(samples))]
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, records))
    lengths = [len(text.encode_chat(record["messages"])[0]) for record in found]
    assert sum(samples.tokens for samples in sides) == sum(lengths)
    assert max(samples.longest for samples in sides) == max(lengths)
    assert sum(samples.bytes for samples in sides) == sum(len(one["messages"][1]["content"].encode()) for one in found)


def test_preferences_come_as_they_are_read(tmp_path: Path, home: Path) -> None:
    records = [{"prompt": f"Is {n} odd?", "chosen": "yes, I think" * n, "rejected": "no"} for n in range(1, 9)]
    path = write_lines(tmp_path / "x.jsonl", records)
    pinned = prepared(home, recipe({"format": "preference", "source": f"file:{path}"}, objective="dpo"))
    samples = open_samples(home, pinned, "train")
    assert samples[0].keys() == {"prompt", "chosen", "rejected"}
    assert samples[0]["prompt"][0].keys() == {"role", "content"}


def test_an_epoch_holds_each_source_by_its_weight(tmp_path: Path, home: Path) -> None:
    one, other = (
        {
            "format": "chat",
            "source": f"file:{write_lines(tmp_path / f'{name}.jsonl', [chat(f'{name}{n}', 'x') for n in range(20)])}",
            "weight": weight,
        }
        for name, weight in (("a", 2.5), ("b", 0.25))
    )
    pinned = prepared(home, recipe(one, other, objective="sft"))
    counts = [open_dataset(home, data).manifest.counts for data in pinned.data]
    samples = open_samples(home, pinned, "train")
    asked = Counter(samples[number]["messages"][0]["content"] for number in range(len(samples)))
    first = {words: times for words, times in asked.items() if words.startswith("a")}
    assert len(first) == counts[0].train
    assert set(first.values()) == {2, 3}
    assert sum(first.values()) == 2 * counts[0].train + round(counts[0].train / 2)
    assert sum(asked.values()) - sum(first.values()) == round(counts[1].train / 4)
    assert len(open_samples(home, pinned, "held_out")) == sum(count.held_out for count in counts)
    with pytest.raises(IndexError):
        samples[len(samples)]


@given(count=st.integers(0, 300), weight=st.floats(0.001, 5), key=st.binary(min_size=32, max_size=32))
def test_places_of_an_epoch(count: int, weight: float, key: bytes) -> None:
    places = epoch_places(count, weight, key=key.hex())
    times = np.bincount(places, minlength=count)
    assert len(times) == count
    assert len(places) == int(weight) * count + max(
        round(count * (weight - int(weight))), int(count > 0 and weight < 1)
    )
    assert set(times.tolist()) <= {int(weight), int(weight) + 1}
    assert (np.diff(places) >= 0).all()


def test_a_part_of_a_source_is_another_one_for_another_source() -> None:
    one, other = (epoch_places(1000, 0.5, key=letter * 64).tolist() for letter in "ab")
    assert one != other
    assert 180 < len(set(one) & set(other)) < 320


@pytest.mark.parametrize("shelf", ["datasets", "samples", "tokenizers"])
def test_any_changed_file_stops(tmp_path: Path, home: Path, shelf: str) -> None:
    pinned = prepared(home, recipe(code(tmp_path)))

    def opened() -> None:
        open_text(home, pinned)
        for side in ("train", "held_out"):
            open_samples(home, pinned, side)

    opened()
    files = [path for path in (home / shelf).glob("[0-9a-f]*/*") if path.stat().st_size]
    assert files
    for path in files:
        if shelf == "samples" and path.name == "manifest.json":
            continue  # its name is that of what it was made from, which the data and the tokenizer vouch for
        before = path.read_bytes()
        place = len(before) // 2
        if b'"train.jsonl"' in before:  # where the records were found is not part of what they are
            place = before.index(b'"sha256":"', before.index(b'"train.jsonl"')) + 12
        path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        with pytest.raises(IntegrityError) as caught:
            opened()
        assert caught.value.remedy
        path.write_bytes(before)
    opened()


def test_what_was_never_prepared_is_not_there(tmp_path: Path, home: Path) -> None:
    pinned = prepared(home, recipe(code(tmp_path)))
    with pytest.raises(NotFound, match="not there"):
        open_samples(tmp_path / "nowhere", pinned, "train")


def test_chats_that_the_template_refuses_are_left_out_and_counted(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}"
    strict += "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
    strict += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    monkeypatch.setattr("tandem.train.data.tokenizer.CHATML", strict)
    records = [chat(f"q{n}", "a" * 200) for n in range(6)]
    records.append({"messages": [{"role": "system", "content": "s"}, *chat("q", "a")["messages"]]})
    path = write_lines(tmp_path / "x.jsonl", records)
    pinned = prepared(home, recipe({"format": "chat", "source": f"file:{path}"}, objective="sft", tokenizer=BYTES))
    manifests = [json.loads(one.read_text()) for one in (home / "samples").glob("[0-9a-f]*/manifest.json")]
    assert sum(one["refused"] for one in manifests) == 1
    assert "the chat template refuses it: no" in str([one["first_refused"] for one in manifests])
    assert sum(one["longer"] for one in manifests) == 6
    assert sum(len(open_samples(home, pinned, side)) for side in ("train", "held_out")) == 6
