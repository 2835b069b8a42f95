"""The journal on disk: room for every settlement, whole lines or none, and files that tell living from dead."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.accounts import Outcome, journal
from tandem.accounts.journal import MAX_TOKENS, Reserved, Segment, Writer, read_segment
from tandem.kit.errors import StorageFull, Unavailable

TEXTS = st.text(st.characters(codec="utf-8"), max_size=80)
HUGE = st.integers(-(10**30), 10**30)


def reserved(request_id: str, tokens: int = 5) -> Reserved:
    return Reserved(request_id, "default", "key_1", "starter", "starter@1", "chat", "openai", tokens, 1_700_000_000_000)


def settled_line(request_id: str, tokens: int = 3) -> bytes:
    record = journal.settled(
        request_id, Outcome.OK, tokens=(tokens, 0, tokens), settled_ms=1_700_000_000_500, duration_ms=500
    )
    return journal.to_line(record)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    opened = Writer(tmp_path / "journal", segment_bytes=4096, fsync=False)
    yield opened
    opened.close()


def reserve(segment: Segment, request_id: str) -> bool:
    line, room = journal.to_line(reserved(request_id)), journal.settlement_bytes(request_id)
    if not segment.fits(line, room):
        return False
    segment.reserve(line, room)
    return True


def settle(segment: Segment, request_id: str, line: bytes | None = None) -> None:
    segment.settle(line or settled_line(request_id), journal.settlement_bytes(request_id))


@given(
    request_id=TEXTS,
    outcome=st.sampled_from(Outcome),
    tokens=st.tuples(HUGE, HUGE, HUGE),
    settled_ms=HUGE,
    duration_ms=HUGE,
    by_second=st.booleans(),
)
def test_no_settlement_is_longer_than_its_room(request_id: str, outcome: Outcome, **numbers: Any) -> None:
    record = journal.settled(request_id, outcome, **numbers)
    assert len(journal.to_line(record)) <= journal.settlement_bytes(request_id)


def test_the_room_is_exact() -> None:
    """The longest settlement fills it, so nothing is wasted either."""
    longest = journal.settled(
        "req_1",
        Outcome.ENGINE_FAILED,
        tokens=(10**20,) * 3,
        settled_ms=10**20,
        duration_ms=10**20,
        by_second=True,
    )
    assert len(journal.to_line(longest)) == journal.settlement_bytes("req_1")
    assert longest.prompt_tokens == MAX_TOKENS


@given(operations=st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=120))
def test_a_full_file_settles_all_and_does_not_grow(
    tmp_path_factory: pytest.TempPathFactory, operations: list[int | None]
) -> None:
    """None reserves, a number settles one of those that run; at the end the rest settle with the longest line."""
    folder = tmp_path_factory.mktemp("journal")
    writer = Writer(folder, segment_bytes=2048, fsync=False)
    segment = writer.new_segment(0)
    running: list[str] = []
    made = 0
    for operation in operations:
        if operation is None:
            made += 1
            if reserve(segment, f"req_{made}"):
                running.append(f"req_{made}")
        elif running:
            settle(segment, running.pop(operation % len(running)))
    for request_id in running:
        longest = journal.settled(
            request_id, Outcome.ENGINE_FAILED, tokens=(MAX_TOKENS,) * 3, settled_ms=10**20, duration_ms=10**20
        )
        settle(segment, request_id, journal.to_line(longest))
    contents = read_segment(segment.path)
    assert segment.owed == 0
    assert segment.offset <= segment.size == segment.path.stat().st_size == 2048
    assert contents.skipped == 0
    assert not contents.open
    segment.close()
    writer.close()
    shutil.rmtree(folder)


def test_what_is_written_is_read(writer: Writer) -> None:
    segment = writer.new_segment(0)
    for name in ("a", "b", "c"):
        assert reserve(segment, name)
    settle(segment, "b")
    settle(segment, "a")
    contents = read_segment(segment.path)
    assert [pair[0].id for pair in contents.settled] == ["b", "a"]
    assert contents.settled[0][0] == reserved("b")
    assert contents.settled[0][1].completion_tokens == 3
    assert contents.open == [reserved("c")]
    assert contents.skipped == 0
    segment.close()


def test_a_line_larger_than_a_file_gets_a_file_of_its_own(writer: Writer) -> None:
    segment = writer.new_segment(10_000)
    assert segment.size == 10_000
    segment.close()


GARBAGE = [
    b"\xff\xfe",
    b"{",
    b"[]",
    b'{"record":"other"}',
    b'{"record":"settled","id":"req_9","outcome":"ok"}',
    journal.to_line(reserved("req_9", tokens=5)).replace(b":5,", b":-5,").strip(),
    journal.to_line(reserved("req_9", tokens=5)).replace(b":5,", b":99999999999999999999,").strip(),
    settled_line("never_reserved").strip(),
    settled_line("req_1").replace(b'"ok"', b'"fine"').strip(),
]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("end", [b"\n", b"\0\0\0"])
def test_garbage_is_skipped_and_counted(tmp_path: Path, garbage: bytes, end: bytes) -> None:
    path = tmp_path / "w-1.log"
    path.write_bytes(journal.to_line(reserved("req_1")) + garbage + end + settled_line("req_1") + bytes(100))
    contents = read_segment(path)
    assert contents.skipped == 1
    assert [pair[0].id for pair in contents.settled] == ["req_1"]
    assert not contents.open


@given(cut=st.integers(0, 400))
def test_a_torn_end_loses_only_the_torn_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    first, second = journal.to_line(reserved("req_1")), settled_line("req_1")
    path = tmp_path_factory.mktemp("torn") / "w-1.log"
    whole = first + second
    path.write_bytes(whole[:cut] + bytes(64))
    contents = read_segment(path)
    # A line without its line feed is whole.
    assert bool(contents.settled) == (cut >= len(whole) - 1)
    assert bool(contents.open) == (len(first) - 1 <= cut < len(whole) - 1)
    shutil.rmtree(path.parent)


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    contents = read_segment(tmp_path / "gone.log")
    assert (contents.settled, contents.open, contents.skipped) == ([], [], 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_file(writer: Writer, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageFull, match="disk is full"):
        writer.new_segment(0)
    assert not list(writer._folder.glob("*.log"))
    monkeypatch.undo()
    writer.new_segment(0).close()


def test_a_failing_disk_is_unavailable(writer: Writer) -> None:
    shutil.rmtree(writer._folder)
    with pytest.raises(Unavailable) as caught:
        writer.new_segment(0)
    assert not isinstance(caught.value, StorageFull)


def test_a_torn_write_is_overwritten_by_the_next(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = writer.new_segment(0)
    assert reserve(segment, "req_1")
    assert reserve(segment, "req_2")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, line, offset: real(fd, line[: len(line) // 2], offset))
    with pytest.raises(OSError, match="No space"):
        settle(segment, "req_1")
    monkeypatch.undo()
    settle(segment, "req_2")
    contents = read_segment(segment.path)
    assert [pair[0].id for pair in contents.settled] == ["req_2"]
    assert [one.id for one in contents.open] == ["req_1"]
    assert segment.owed == 0
    segment.close()


def test_a_living_writer_is_locked_and_a_dead_one_is_not(writer: Writer) -> None:
    folder = writer._folder
    assert list(journal.writers(folder)) == [writer.id]
    assert journal.lock_writer(folder, writer.id) is None
    segment = writer.new_segment(0)
    segment.close()
    os.close(writer._lock)  # as the kernel does for a killed process
    lock = journal.lock_writer(folder, writer.id)
    assert lock is not None
    assert journal.lock_writer(folder, writer.id) is None
    journal.release_writer(folder, writer.id, lock)
    assert (folder / f"{writer.id}.lock").exists(), "the files still need it"
    segment.path.unlink()
    writer._lock = journal.lock_writer(folder, writer.id) or -1


def test_closing_leaves_nothing_behind(tmp_path: Path) -> None:
    writer = Writer(tmp_path, segment_bytes=4096, fsync=True)
    segment = writer.new_segment(0)
    segment.close()
    segment.path.unlink()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_lock_on_a_removed_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who recovers may lock, and remove, a lock file between its making and its locking."""
    import fcntl

    real = fcntl.flock

    def slow(fd: int, operation: int) -> None:
        (tmp_path / "w_1.lock").unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    assert journal.lock_writer(tmp_path, "w_1") is None


def test_with_fsync_the_disk_has_it_before_settle_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path, segment_bytes=4096, fsync=True)
    segment = writer.new_segment(0)
    assert reserve(segment, "req_1")
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(bool(read_segment(segment.path).settled)))
    settle(segment, "req_1")
    assert synced == [True]
    segment.close()
    writer.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "tandem-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault
def test_on_a_disk_that_is_really_full_running_requests_still_settle(tiny_disk: Path) -> None:
    writer = Writer(tiny_disk / "journal", segment_bytes=8192, fsync=False)
    segments = [writer.new_segment(0)]
    running: list[tuple[Segment, str]] = []
    with pytest.raises(StorageFull):
        fill(writer, segments, running)
    (tiny_disk / "filler").write_bytes(bytes(shutil.disk_usage(tiny_disk).free))
    assert shutil.disk_usage(tiny_disk).free == 0
    for segment, request_id in running:
        settle(segment, request_id)
    found = [pair[0].id for segment in segments for pair in read_segment(segment.path).settled]
    assert len(found) == len(running) > 50
    (tiny_disk / "filler").unlink()
    last = segments.pop()
    last.close()
    last.path.unlink()
    writer.new_segment(0).close()
    for segment in segments:
        segment.close()
    writer.close()


def fill(writer: Writer, segments: list[Segment], running: list[tuple[Segment, str]]) -> None:
    for number in range(10_000):
        if not reserve(segments[-1], f"req_{number}"):
            segments.append(writer.new_segment(0))
            assert reserve(segments[-1], f"req_{number}")
        running.append((segments[-1], f"req_{number}"))
