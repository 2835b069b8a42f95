"""Blobs: what goes in comes out, under its digest, whole or not at all."""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit import blobs as blobs_module
from tandem.kit import clock
from tandem.kit.blobs import Blobs
from tandem.kit.errors import ConfigError, IntegrityError, InvalidRequest, NotFound, StorageFull
from tests.kit.full_disk import SIZE, small_disk


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """A store in a folder, and one behind fsspec."""
    if request.param == "file":
        return Blobs(f"file://{tmp_path / 'store'}")
    return Blobs(f"memory://{tmp_path.name}", cache=tmp_path / "cache")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def written(folder: Path, data: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3 * 2**20 + 1)], ids=["empty", "small", "chunks"])
def test_what_goes_in_comes_out(blobs: Blobs, tmp_path: Path, data: bytes, share: bool) -> None:
    stored = blobs.put(written(tmp_path, data), share=share)
    assert stored == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    assert blobs.has(stored.digest)
    assert blobs.local(stored.digest).read_bytes() == data
    blobs.verify(stored.digest)


@pytest.mark.parametrize("share", [False, True])
def test_the_same_bytes_twice_are_one_blob(blobs: Blobs, tmp_path: Path, share: bool) -> None:
    source = written(tmp_path, b"once")
    first = blobs.put(source, share=share)
    assert blobs.put(source, share=share) == first
    source.unlink()
    assert [path.read_bytes() for path in files(tmp_path)] == [b"once"]


def test_sharing_takes_no_second_room(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path / 'store'}")
    source = written(tmp_path, b"large")
    assert blobs.local(blobs.put(source, share=True).digest).stat().st_ino == source.stat().st_ino


def test_sharing_falls_back_to_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    blobs = Blobs(f"file://{tmp_path / 'store'}")
    assert blobs.local(blobs.put(written(tmp_path, b"far"), share=True).digest).read_bytes() == b"far"


def test_putting_again_mends_damaged_bytes(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path / 'store'}")
    source = written(tmp_path, b"right")
    digest = blobs.put(source).digest
    blobs.local(digest).write_bytes(b"wrong")
    with pytest.raises(IntegrityError, match="changed on disk"):
        blobs.verify(digest)
    blobs.put(source)
    blobs.verify(digest)


def test_a_writer_that_fails_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    def fail() -> None:
        with blobs.writer() as writer:
            writer.write(b"half")
            raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="broke"):
        fail()
    assert not blobs.has(f"sha256:{hashlib.sha256(b'half').hexdigest()}")
    assert files(tmp_path) == []


def test_a_deleted_blob_is_gone(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(written(tmp_path, b"old")).digest
    blobs.delete(digest)
    blobs.delete(digest)
    assert not blobs.has(digest)
    with pytest.raises(NotFound, match=digest):
        blobs.local(digest)


def test_a_missing_file_cannot_be_stored(blobs: Blobs, tmp_path: Path) -> None:
    for share in (False, True):
        with pytest.raises(NotFound, match="nowhere"):
            blobs.put(tmp_path / "nowhere", share=share)


def test_a_remote_blob_is_fetched_once_and_checked(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}-remote"
    digest = Blobs(url, cache=tmp_path / "a").put(written(tmp_path, b"far away")).digest
    other = Blobs(url, cache=tmp_path / "b")
    assert other.local(digest).read_bytes() == b"far away"
    other._fs.pipe_file(other._key(digest), b"tampered")
    assert other.local(digest).read_bytes() == b"far away", "from the cache"
    with pytest.raises(IntegrityError, match="answered"):
        Blobs(url, cache=tmp_path / "c").local(digest)
    assert files(tmp_path / "c") == []


@pytest.mark.parametrize("url", ["nonsense://somewhere", "memory://without-cache"])
def test_an_unusable_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="blob"):
        Blobs(url)


@given(st.one_of(st.text(max_size=80), st.from_regex(r"sha256:[0-9a-fA-F./]{60,66}")))
def test_nothing_but_a_digest_becomes_a_path(text: str) -> None:
    blobs = Blobs("file:///nowhere")
    digits = text.removeprefix("sha256:")
    if text.startswith("sha256:") and len(digits) == 64 and set(digits) <= set("0123456789abcdef"):
        assert not blobs.has(text)
        return
    for verb in (blobs.has, blobs.local, blobs.verify, blobs.delete):
        with pytest.raises(InvalidRequest, match="digest"):
            verb(text)


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path / 'store'}")
    old, young = (tmp_path / "store" / "incoming" / name for name in ("old.part", "young.part"))
    old.parent.mkdir(parents=True)
    old.write_bytes(b"left")
    young.write_bytes(b"being written")
    os.utime(old, (0, 0))
    blobs.put(written(tmp_path, b"new"))
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    blobs = Blobs(f"file://{tmp_path / 'store'}")
    source = written(tmp_path, b"too much")
    monkeypatch.setattr(blobs_module.os, "fsync", full)
    with pytest.raises(StorageFull, match="full"):
        blobs.put(source)
    assert files(tmp_path / "store") == []


@pytest.mark.fault
def test_a_really_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    source = written(tmp_path, os.urandom(SIZE + 1))
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull, match="full"):
            Blobs(f"file://{disk}").put(source)
        assert files(disk) == []
        small = written(tmp_path, b"fits")
        Blobs(f"file://{disk}").put(small)


def test_progress_counts_to_the_end(blobs: Blobs, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    size = 2 * 2**20 + 5
    for share in (False, True):
        blobs.put(written(tmp_path, bytes(size)), share=share, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2**20, size), (2 * 2**20, size), (size, size)] * 2


def test_everything_is_listed_with_its_size_and_age(blobs: Blobs, tmp_path: Path) -> None:
    assert list(blobs.digests()) == []
    before = clock.unix_seconds()
    stored = [blobs.put(written(tmp_path, data)) for data in (b"one", b"three")]
    listed = sorted(blobs.digests(), key=lambda one: one.size)
    assert [(one.digest, one.size) for one in listed] == [tuple(one) for one in stored]
    # A file's time is that of the kernel's last tick, which may lie in the second before.
    assert all(before - 1 <= one.arrived_s <= clock.unix_seconds() + 1 for one in listed)
    assert [blobs.held(one.digest) for one in listed] == listed
    assert blobs.held(f"sha256:{'0' * 64}") is None


def test_what_is_no_blob_is_not_listed(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path / 'store'}")
    stored = blobs.put(written(tmp_path, b"one"))
    blobs.local(stored.digest).with_name("notes.txt").write_text("mine")
    assert [one.digest for one in blobs.digests()] == [stored.digest]


@pytest.mark.parametrize("share", [False, True])
def test_storing_again_renews_the_age(tmp_path: Path, share: bool) -> None:
    blobs = Blobs(f"file://{tmp_path / 'store'}")
    source = written(tmp_path, b"old")
    digest = blobs.put(source, share=share).digest
    os.utime(blobs.local(digest), (1, 1))
    assert blobs.held(digest) == (digest, 3, 1.0)
    blobs.put(source, share=share)
    again = blobs.held(digest)
    assert again is not None
    assert again.arrived_s > 1


def test_known_bytes_of_a_remote_store_are_renewed_once_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(f"memory://{tmp_path.name}-renewed", cache=tmp_path / "cache")
    source = written(tmp_path, b"far away")
    digest = blobs.put(source).digest
    first = blobs.held(digest)
    blobs.put(source)
    assert blobs.held(digest) == first
    later = clock.unix_seconds() + 7200
    monkeypatch.setattr(blobs_module, "unix_seconds", lambda: later)
    blobs.put(source)
    renewed = blobs.held(digest)
    assert first is not None
    assert renewed is not None
    assert renewed.arrived_s > first.arrived_s


def test_nothing_arrives_while_somebody_looks(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path / 'store'}")
    source = written(tmp_path, b"late")
    with ThreadPoolExecutor(1) as threads:
        with blobs.exclusive():
            putting = threads.submit(blobs.put, source)
            deadline = clock.monotonic_seconds() + 30
            while not list((tmp_path / "store").glob("incoming/*.part")) and clock.monotonic_seconds() < deadline:
                pass
            assert list(blobs.digests()) == []
        digest = putting.result(30).digest
    assert blobs.has(digest)


def test_hashing_tells_how_far_it_is(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(written(tmp_path, b"four")).digest
    told: list[tuple[int, int | None]] = []
    blobs.verify(digest, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 4)]
