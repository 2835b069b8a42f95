"""Data sets: what is bad is put aside by line, what is double goes, the split is fair, the digest is the content's."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import IntegrityError, InvalidRequest, NotFound, StorageFull
from tandem.spec import Curation, Data
from tandem.train.data.dataset import Dataset, cut_in_two, held_out_places, make_dataset, open_dataset
from tests.kit.full_disk import SIZE, small_disk
from tests.train.data.corpora import chat, document, silent, write_lines, write_tree

HALF = Curation(held_out=0.5)


def make(home: Path, data: Data, curation: Curation = HALF) -> Dataset:
    return make_dataset(data, curation, home=home, progress=silent)


def texts(dataset: Dataset) -> list[str]:
    return sorted(record["text"] for side in ("train", "held_out") for record in dataset.records(side))


def test_bad_records_are_put_aside_by_file_and_line(tmp_path: Path, home: Path) -> None:
    lines = [{"text": document(1)}, b"{", {"text": 3}, {"text": document(2)}, b'{"text": "\xff"}', {"text": ""}]
    write_lines(tmp_path / "in" / "a.jsonl", lines)
    write_tree(tmp_path / "in", {"b.txt": document(3), "c.txt": b"ok\nbad \xe9\n", "d.txt": b"\0"})
    data = Data(format="text", source=f"folder:{tmp_path / 'in'}", include=("*.txt", "*.jsonl"))
    dataset = make(home, data)
    bad = [(one.file, one.line, one.reason.partition(":")[0]) for one in dataset.bad_records(100)]
    assert bad == [
        ("a.jsonl", 2, "not JSON"),
        ("a.jsonl", 3, "'text' is a number, not text"),
        ("a.jsonl", 5, bad[2][2]),
        ("a.jsonl", 6, "'text' is empty"),
        ("c.txt", 2, "not UTF-8"),
        ("d.txt", 1, "binary"),
    ]
    assert dataset.manifest.counts.quarantined == 6
    assert dataset.manifest.counts.records == 3
    assert dataset.bad_records(2) == dataset.bad_records(100)[:2]


def test_if_all_is_bad_the_first_reason_is_told_and_nothing_is_left(tmp_path: Path, home: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [b"no", {"text": "x"}])
    with pytest.raises(InvalidRequest, match=r"2 are bad, the first one \(x.jsonl, line 1\): not JSON"):
        make(home, Data(format="chat", source=f"file:{path}"))
    path.write_text("\n\n")
    with pytest.raises(NotFound, match="no records"):
        make(home, Data(format="chat", source=f"file:{path}"))
    assert list((home / "datasets").iterdir()) == []


def test_copies_and_near_copies_go_and_the_first_stays(tmp_path: Path, home: Path) -> None:
    long = document(1, words=300)
    write_tree(
        tmp_path / "in",
        {"a.txt": long, "b.txt": long, "c.txt": f"{long} more words", "d.txt": document(2), "e.txt": "x", "f.txt": "x"},
    )
    data = Data(format="text", source=f"folder:{tmp_path / 'in'}")
    dataset = make(home, data)
    assert texts(dataset) == sorted([long, document(2), "x"])
    assert (dataset.manifest.counts.duplicates, dataset.manifest.counts.near_duplicates) == (2, 1)
    kept = make(home, data, Curation(held_out=0.5, near_duplicates=0.0))
    assert len(texts(kept)) == 4
    assert kept.manifest.counts.near_duplicates == 0


def test_the_same_content_elsewhere_has_the_same_digest(tmp_path: Path, home: Path) -> None:
    files: dict[str, str | bytes] = {f"{n % 3}/{n}.py": document(n) for n in range(12)}
    one, other = (write_tree(tmp_path / name, files) for name in ("one", "other/place"))
    first = make(home, Data(format="code", source=f"folder:{one}"))
    second = make(tmp_path / "home2", Data(format="code", source=f"folder:{other}"))
    assert first.digest == second.digest
    assert first.digest == f"sha256:{first.manifest.identity}"
    (other / "1" / "1.py").write_text("other")
    assert make(home, Data(format="code", source=f"folder:{other}")).digest != first.digest


@pytest.mark.parametrize("name", ["renamed.jsonl", "packed.jsonl"])
def test_a_files_own_name_is_no_content(tmp_path: Path, home: Path, name: str) -> None:
    records = [chat(f"q{n}", f"a{n}") for n in range(9)]
    paths = [write_lines(tmp_path / place / file, records) for place, file in (("a", "x.jsonl"), ("b", name))]
    digests = {make(home, Data(format="chat", source=f"file:{path}")).digest for path in paths}
    assert len(digests) == 1


def test_documents_keep_their_path_and_the_manifest_their_origin(tmp_path: Path, home: Path) -> None:
    write_tree(tmp_path / "in", {"a/b.py": "x = 1", "c.py": "y = 2", "LICENSE": "Apache License\nVersion 2.0"})
    dataset = make(home, Data(format="code", source=f"folder:{tmp_path / 'in'}"))
    records = [record for side in ("train", "held_out") for record in dataset.records(side)]
    assert sorted(record["path"] for record in records) == ["a/b.py", "c.py"]
    assert set(dataset.manifest.inputs or {}) == {"a/b.py", "c.py"}
    assert dataset.manifest.licenses == ("Apache-2.0 (LICENSE)",)
    named = make(tmp_path / "home2", Data(format="code", source=f"folder:{tmp_path / 'in'}", license="MIT"))
    assert named.manifest.licenses == ("MIT",)


def test_a_limit_chooses_by_content_alone(tmp_path: Path, home: Path) -> None:
    lines = [{"text": document(n)} for n in range(40)]
    forward = write_lines(tmp_path / "a.jsonl", lines)
    backward = write_lines(tmp_path / "b.jsonl", lines[::-1])
    few, same, more = (
        make(home, Data(format="text", source=f"file:{path}", limit=limit))
        for path, limit in ((forward, 10), (backward, 10), (forward, 20))
    )
    assert texts(few) == texts(same)
    assert len(texts(few)) == 10
    assert set(texts(few)) < set(texts(more))
    assert few.manifest.counts.beyond_limit == 30


def test_what_was_made_from_the_same_files_is_not_made_again(tmp_path: Path, home: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": document(n)} for n in range(5)])
    data, steps = Data(format="text", source=f"file:{path}"), list[str]()
    for _ in range(2):
        make_dataset(data, HALF, home=home, progress=lambda step, done, total: steps.append(step))
    assert len(steps) == 1


def test_a_pinned_entry_takes_no_other_data(tmp_path: Path, home: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": document(n)} for n in range(5)])
    pinned = Data(
        format="text", source=f"file:{path}", sha256=make(home, Data(format="text", source=f"file:{path}")).digest
    )
    shutil.rmtree(home / "datasets")
    assert make(home, pinned).digest == pinned.sha256
    path.write_text('{"text": "else"}\n')
    with pytest.raises(InvalidRequest, match="the source has changed"):
        make(home, pinned)


@pytest.mark.parametrize("name", ["train.jsonl", "held_out.jsonl", "quarantine.jsonl", "manifest.json"])
def test_a_changed_file_is_found(tmp_path: Path, home: Path, name: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [b"bad", *({"text": document(n)} for n in range(5))])
    dataset = make(home, Data(format="text", source=f"file:{path}"))
    data = Data(format="text", sha256=dataset.digest)
    open_dataset(home, data)
    file = dataset.folder / name
    file.write_bytes(file.read_bytes().replace(b"e", b"E", 1))
    with pytest.raises(IntegrityError, match=name):
        open_dataset(home, data)


def test_a_manifest_of_other_data_is_found(tmp_path: Path, home: Path) -> None:
    one, other = (
        make(home, Data(format="text", source=f"file:{write_lines(tmp_path / name, [{'text': name}])}"))
        for name in ("a.jsonl", "b.jsonl")
    )
    for file in other.folder.iterdir():
        shutil.copy(file, one.folder)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        open_dataset(home, Data(format="text", sha256=one.digest))
    with pytest.raises(NotFound, match="not there"):
        open_dataset(home, Data(format="text", sha256=f"sha256:{'0' * 64}"))


KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=40)


@given(keys=KEYS, share=st.floats(0, 1))
def test_both_sides_have_records_and_equal_keys_stay_together(keys: list[bytes], share: float) -> None:
    held = held_out_places(keys, share)
    assert held <= set(range(len(keys)))
    if share > 0 and len(keys) >= 2:
        assert 0 < len(held) < len(keys)
    if len(set(keys)) > 1:
        assert {keys[place] for place in held}.isdisjoint(key for place, key in enumerate(keys) if place not in held)


@given(keys=st.lists(st.binary(min_size=32, max_size=32), min_size=20, max_size=40, unique=True))
def test_more_records_move_none_that_are_held_out_by_share(keys: list[bytes]) -> None:
    few, many = held_out_places(keys[:10], 0.5), held_out_places(keys, 0.5)
    by_bound = {place for place in range(10) if keys[place] < b"\x80"}
    if 0 < len(by_bound) < 10:
        assert few == by_bound
        assert many & set(range(10)) == by_bound


@given(text=st.text(alphabet="ab \n", max_size=60), share=st.floats(0.01, 0.99))
def test_a_single_document_is_cut_between_lines(text: str, share: float) -> None:
    head, tail = cut_in_two(text, share)
    assert head + tail == text
    assert not tail or (head.endswith("\n") and head.strip() and tail.strip())


def test_the_end_of_a_single_document_is_held_out(tmp_path: Path, home: Path) -> None:
    lines = [f"line {number}\n" for number in range(100)]
    (tmp_path / "x.txt").write_text("".join(lines))
    dataset = make(home, Data(format="text", source=f"file:{tmp_path / 'x.txt'}"), Curation(held_out=0.1))
    (held,) = dataset.records("held_out")
    assert held["text"] == "".join(lines[90:])
    whole = make(home, Data(format="text", source=f"file:{tmp_path / 'x.txt'}"), Curation(held_out=0.0))
    assert (whole.manifest.counts.train, whole.manifest.counts.held_out) == (1, 0)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("many words\n" * (SIZE // 10))
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull, match="No space left"):
            make(disk, Data(format="text", source=f"file:{tmp_path / 'x.txt'}"))
        assert list((disk / "datasets").iterdir()) == []


def test_the_files_of_a_data_set_are_json_lines(tmp_path: Path, home: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [chat("q\n1", "é")])
    dataset = make(home, Data(format="chat", source=f"file:{path}"))
    assert [json.loads(line) for line in dataset.path("train").read_text().splitlines()] == [chat("q\n1", "é")]
