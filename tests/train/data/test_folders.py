"""Folders by content: whole or not there, the first one stays, and a changed byte is found."""

import os
from pathlib import Path

import pytest

from tandem.kit.errors import IntegrityError, StorageFull
from tandem.train.data.folders import folder_facts, hex_of, recall, remember, shelve, staging, verify
from tests.kit.full_disk import SIZE, small_disk


def test_what_is_shelved_is_whole_and_what_is_not_leaves_nothing(tmp_path: Path) -> None:
    with staging(tmp_path) as part:
        (part / "file").write_text("content")
        shelve(part, tmp_path / "done")
    with pytest.raises(FileNotFoundError), staging(tmp_path) as part:
        (part / "folder" / "file").write_text("half")
    assert [path.name for path in tmp_path.iterdir()] == ["done"]
    assert (tmp_path / "done" / "file").read_text() == "content"


def test_the_first_of_two_stays(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with staging(tmp_path) as part:
            (part / "file").write_text(content)
            shelve(part, tmp_path / "same")
    assert (tmp_path / "same" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_what_a_killed_process_left_a_day_ago_is_swept(tmp_path: Path) -> None:
    with staging(tmp_path) as part:
        old, new = tmp_path / f"{part.name}x", tmp_path / f"{part.name}y"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1, 1))
    with staging(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


@pytest.mark.parametrize("change", ["flip", "cut", "grow", "remove"])
def test_a_change_is_found_and_named(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")
    facts = folder_facts(tmp_path, ["file"])
    verify(tmp_path, facts)
    match change:
        case "flip":
            path.write_bytes(b"some bytez")
        case "cut":
            path.write_bytes(b"some")
        case "grow":
            path.write_bytes(b"some bytes and more")
        case _:
            path.unlink()
    with pytest.raises(IntegrityError, match="file") as caught:
        verify(tmp_path, facts)
    assert caught.value.remedy


def test_what_was_made_from_something_is_recalled_while_it_is_there(tmp_path: Path) -> None:
    key, folder = "a" * 64, tmp_path / ("b" * 64)
    folder.mkdir()
    assert recall(tmp_path, key) is None
    remember(tmp_path, key, folder)
    assert recall(tmp_path, key) == folder
    folder.rmdir()
    assert recall(tmp_path, key) is None


def test_a_digest_names_its_folder() -> None:
    assert hex_of("sha256:ab") == "ab"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull, match="No space left"), staging(disk / "shelf") as part:
            (part / "file").write_bytes(b"x" * (SIZE + 1))
        assert list((disk / "shelf").iterdir()) == []
