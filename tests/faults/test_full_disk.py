"""A full disk: what cannot be stored is refused with the remedy, what runs is finished, and space heals it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.formats.tiny import TinyShape, write_tiny_gguf
from tests.faults.program import Home, Prepared, Server
from tests.faults.traffic import Answer, asked, chat, ledger, streaming
from tests.serving import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

DISK_BYTES = 24 * 2**20  # the prepared home takes 10 MiB
SEGMENT_BYTES = 4096  # the least: some ten requests fill a file of the journal


@pytest.fixture
def on_small_disk(prepared: Prepared, tmp_path: Path) -> Iterator[Home]:
    """A prepared home on a disk of its own that only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        # Beside the disk, not on it: what the programs say must not be cut off by the same fault.
        yield prepared.copy(folder, journal_segment_bytes=SEGMENT_BYTES)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path, *, leave: int = 0) -> Iterator[None]:
    """The disk with no more than `leave` bytes free inside the block."""
    path = folder / "filling"
    space = os.statvfs(folder)
    try:
        with contextlib.suppress(OSError):  # it is full sooner where the programs write meanwhile
            path.write_bytes(bytes(max(space.f_bavail * space.f_frsize - leave, 0)))
        yield
    finally:
        path.unlink()


def files(folder: Path) -> set[Path]:
    """All files of a model that may be on the disk."""
    return {path for name in ("blobs", "downloads") for path in (folder / name).rglob("*") if path.is_file()}


@pytest.mark.parametrize("leave", [0, 100_000])
def test_a_pull_leaves_nothing_and_works_later(on_small_disk: Home, tmp_path: Path, leave: int) -> None:
    tandem = on_small_disk
    model = write_tiny_gguf(tmp_path / "more.gguf", shape=TinyShape(layers=8))
    before = files(tandem.folder)
    with filled(tandem.folder, leave=leave):
        said = tandem.refused("models", "pull", f"file:{model}")
        assert "full" in said or "No space left" in said
        assert "Free some space" in said
        left = files(tandem.folder) - before
        assert not [path for path in left if path.stat().st_size], "nothing half-done"
    assert [found["ref"] for found in tandem.json("models", "list")] == ["quick@1", "slow@1"]
    assert tandem.bare("models", "pull", f"file:{model}") == "more@1"
    tandem.release("more")
    assert tandem.bare("deploy", "more") == "more"


def chatted(server: Server, key: str) -> Answer:
    return asked(server.url, "/v1/chat/completions", chat("quick", tokens=3), key=key)


def test_a_server_on_a_disk_that_fills_up(on_small_disk: Home, prepared: Prepared) -> None:
    tandem = on_small_disk
    key = prepared.key
    answers: list[Answer] = []
    with tandem.serving() as server:
        server.wait_until_ready()
        stream = streaming(server.url, key=key, tokens=300)
        with filled(tandem.folder):

            def refused() -> bool:
                answers.append(chatted(server, key))
                return answers[-1].status != 200

            wait_until(refused)
            assert answers[-1].status == 507
            assert "Free some space" in answers[-1].json()["error"]["message"]
            assert stream.read().is_finished_stream, "what runs is finished"
            assert asked(server.url, "/health", method="GET").status == 200
        wait_until(lambda: chatted(server, key).status == 200)
        by_id = {row["id"]: row for row in ledger(server.url, prepared.admin_key)}
    for answer in [*answers[:-1], stream.answer]:
        assert by_id[answer.id]["outcome"] == "ok"
        assert by_id[answer.id]["completion_tokens"] == answer.tokens()[1]
    assert answers[-1].id not in by_id, "what was refused used nothing"


def test_a_start_on_a_full_disk_says_so(on_small_disk: Home) -> None:
    tandem = on_small_disk
    with filled(tandem.folder):
        said = tandem.refused("up")
        assert "full" in said
        assert "Free some space" in said
    with tandem.serving() as server:
        server.wait_until_ready()


def test_a_stop_on_a_full_disk_loses_nothing(on_small_disk: Home, prepared: Prepared) -> None:
    tandem = on_small_disk
    with tandem.serving() as server:
        server.wait_until_ready()
        answer = chatted(server, prepared.key)
        with filled(tandem.folder):
            stream = streaming(server.url, key=prepared.key, tokens=20).read()
            assert server.stop() == 0
    with tandem.serving() as server:
        by_id = {row["id"]: row for row in ledger(server.url, prepared.admin_key)}
    for known in (answer, stream):
        assert by_id[known.id]["completion_tokens"] == known.tokens()[1]
