"""The ledger: whatever happens in whatever order, each settled request is counted once and none is lost."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tandem.accounts import Entry, Ledger, Outcome, journal
from tandem.accounts import ledger as ledger_module
from tandem.accounts.tables import usage_events
from tandem.kit.db import Database
from tandem.kit.errors import InvalidRequest, StorageFull, Unavailable
from tests.accounts.stand_ins import FailingDatabase, principal
from tests.conftest import FreshUrl

pytestmark = pytest.mark.anyio


@pytest.fixture
def db(fresh_sqlite: FreshUrl) -> Iterator[FailingDatabase]:
    with fresh_sqlite() as url:
        opened = FailingDatabase(url)
        yield opened
        opened.open.set()
        opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
async def ledger(db: FailingDatabase, folder: Path) -> AsyncIterator[Ledger]:
    opened = Ledger(db, folder, segment_bytes=4096)
    await opened.start()
    yield opened
    await opened.stop()


def reserve(ledger: Ledger, request_id: str, tokens: int = 100) -> Entry:
    return ledger.reserve(
        request_id=request_id,
        principal=principal(),
        deployment="starter",
        version="starter@1",
        operation="chat.completions",
        surface="openai",
        tokens=tokens,
    )


def events(db: Database) -> dict[str, Any]:
    rows = db.run_sync(lambda connection: connection.execute(sa.select(usage_events)).all())
    return {row.id: row for row in rows}


def outcomes(db: Database) -> dict[str, str]:
    return {name: row.outcome for name, row in events(db).items()}


async def crash(ledger: Ledger) -> None:
    """What the kernel does when a process is killed: nothing is said, all locks are gone."""
    assert ledger._task is not None
    assert ledger._writer is not None
    ledger._task.cancel()
    await asyncio.wait([ledger._task])
    for book in ledger._books:
        if book.segment is not None:
            book.segment.close()
    for lock in (ledger._writer._lock, *ledger._adopted.values()):
        os.close(lock)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_request_from_reservation_to_the_database(database: Database, folder: Path) -> None:
    ledger = Ledger(database, folder, segment_bytes=4096)
    await ledger.start()
    entry = reserve(ledger, "req_1", tokens=100)
    await ledger.flush()
    assert events(database) == {}
    entry.settle(Outcome.OK, prompt_tokens=10, cached_tokens=4, completion_tokens=7)
    await ledger.flush()
    row = events(database)["req_1"]
    assert (row.tenant_id, row.key_id, row.deployment, row.version) == ("default", "key_1", "starter", "starter@1")
    assert (row.operation, row.surface, row.outcome) == ("chat.completions", "openai", "ok")
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reserved_tokens) == (10, 4, 7, 100)
    assert row.started_at <= row.settled_at
    assert row.duration_ms >= 0
    await ledger.stop()
    assert not list(folder.iterdir())


async def test_only_the_first_settlement_counts(ledger: Ledger, db: Database) -> None:
    entry = reserve(ledger, "req_1")
    entry.settle(Outcome.CLIENT_GONE, completion_tokens=5)
    entry.settle(Outcome.OK, completion_tokens=50)
    await ledger.flush()
    entry.settle(Outcome.ERROR, completion_tokens=500)
    await ledger.flush()
    assert [(row.outcome, row.completion_tokens) for row in events(db).values()] == [("client_gone", 5)]


async def test_the_background_folds_by_itself(ledger: Ledger, db: Database) -> None:
    reserve(ledger, "req_1").settle(Outcome.OK)
    await until(lambda: "req_1" in events(db))


async def test_the_hot_path_never_touches_the_database(ledger: Ledger, db: FailingDatabase) -> None:
    before = db.transactions
    for number in range(200):
        reserve(ledger, f"req_{number}").settle(Outcome.OK)
    assert db.transactions == before


async def test_an_interrupted_request_keeps_what_it_reserved(db: FailingDatabase, folder: Path) -> None:
    first = Ledger(db, folder, segment_bytes=4096)
    await first.start()
    reserve(first, "done").settle(Outcome.OK, completion_tokens=7)
    reserve(first, "cut off", tokens=123)
    await crash(first)
    second = Ledger(db, folder, segment_bytes=4096)
    await second.start()
    found = events(db)
    assert {name: row.outcome for name, row in found.items()} == {"done": "ok", "cut off": "interrupted"}
    assert (found["cut off"].completion_tokens, found["cut off"].reserved_tokens) == (0, 123)
    await second.stop()
    assert not list(folder.iterdir())


async def test_recovering_twice_counts_once(database: Database, folder: Path) -> None:
    """Killed between the commit and the deletion of the file."""
    first = Ledger(database, folder, segment_bytes=4096)
    await first.start()
    reserve(first, "req_1").settle(Outcome.OK, completion_tokens=7)
    await first.flush()
    await crash(first)
    for _ in range(2):
        kept = {path.name: path.read_bytes() for path in folder.glob("*.log")}
        assert kept
        second = Ledger(database, folder, segment_bytes=4096)
        await second.start()
        await second.stop()
        for name, content in kept.items():
            (folder / name).write_bytes(content)
    assert [(name, row.completion_tokens) for name, row in events(database).items()] == [("req_1", 7)]


async def test_a_living_neighbour_is_left_alone(ledger: Ledger, db: FailingDatabase, folder: Path) -> None:
    running = reserve(ledger, "running")
    neighbour = Ledger(db, folder, segment_bytes=4096)
    await neighbour.start()
    assert events(db) == {}
    await neighbour.stop()
    running.settle(Outcome.OK)
    await ledger.flush()
    assert outcomes(db) == {"running": "ok"}


async def test_torn_lines_are_counted(db: FailingDatabase, folder: Path) -> None:
    folder.mkdir()
    line = journal.to_line(journal.Reserved("req_1", "default", "key_1", "d", "d@1", "chat", "openai", 5, 1))
    (folder / "w_dead-000001.log").write_bytes(line + b'{"record":"settled","id":"req_1","outco' + bytes(50))
    ledger = Ledger(db, folder, segment_bytes=4096)
    await ledger.start()
    assert ledger.skipped_lines == 1
    assert outcomes(db) == {"req_1": "interrupted"}
    await ledger.stop()
    assert not list(folder.iterdir())


async def test_a_database_that_is_down_loses_nothing(ledger: Ledger, db: FailingDatabase, folder: Path) -> None:
    db.is_down = True
    for number in range(100):
        reserve(ledger, f"req_{number}").settle(Outcome.OK, completion_tokens=number)
    with pytest.raises(Unavailable):
        await ledger.flush()
    assert ledger.unfolded == 100
    db.is_down = False
    await ledger.flush()
    assert {name: row.completion_tokens for name, row in events(db).items()} == {f"req_{n}": n for n in range(100)}
    assert len(list(folder.glob("*.log"))) == 1


async def test_the_background_goes_on_when_the_database_is_back(ledger: Ledger, db: FailingDatabase) -> None:
    db.is_down = True
    before = db.transactions
    reserve(ledger, "req_1").settle(Outcome.OK)
    await until(lambda: db.transactions > before)
    db.is_down = False
    await until(lambda: "req_1" in events(db))


async def test_starting_without_the_database(db: FailingDatabase, folder: Path) -> None:
    first = Ledger(db, folder, segment_bytes=4096)
    await first.start()
    reserve(first, "old").settle(Outcome.OK)
    await crash(first)
    db.is_down = True
    second = Ledger(db, folder, segment_bytes=4096)
    await second.start()
    reserve(second, "new").settle(Outcome.OK)
    await second.stop()
    db.is_down = False
    third = Ledger(db, folder, segment_bytes=4096)
    await third.start()
    await third.stop()
    assert outcomes(db) == {"old": "ok", "new": "ok"}
    assert not list(folder.iterdir())


async def test_memory_is_bounded_while_the_database_is_down(
    ledger: Ledger, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_IN_MEMORY", 10)
    db.is_down = True
    held = [reserve(ledger, f"held_{number}") for number in range(3)]
    for number in range(200):
        reserve(ledger, f"req_{number}").settle(Outcome.OK)
        assert ledger.unfolded <= 10
    open_files = [book for book in ledger._books if book.segment is not None and not book.segment.is_closed]
    assert len(open_files) <= 2, "a file that is settled must not hold a descriptor"
    db.is_down = False
    await ledger.flush()
    assert len(events(db)) == 200
    db.is_down = True
    first = ledger._books[0].segment
    for entry in held:
        entry.settle(Outcome.ERROR)
    assert first is not None
    assert first.is_closed, "the last settlement in an old file gives its descriptor back"
    db.is_down = False
    await ledger.flush()
    assert len(events(db)) == 203
    assert ledger.unfolded == 0


async def test_events_that_settle_while_the_database_is_slow_are_kept(
    ledger: Ledger, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_IN_MEMORY", 10)
    reserve(ledger, "first").settle(Outcome.OK)
    db.open.clear()
    folding = asyncio.create_task(ledger.flush())
    await until(lambda: db.transactions > 0)
    for number in range(30):
        reserve(ledger, f"req_{number}").settle(Outcome.OK)
    db.open.set()
    await folding
    await ledger.flush()
    assert len(events(db)) == 31
    assert ledger.unfolded == 0


async def test_a_full_disk_refuses_new_requests_and_settles_running_ones(
    ledger: Ledger, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, os.strerror(28))

    running = [reserve(ledger, "req_0")]
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageFull):
        running.extend(reserve(ledger, f"req_{number}") for number in range(1, 1000))
    for entry in running:
        entry.settle(Outcome.OK, completion_tokens=10**30)
    await ledger.flush()
    assert len(events(db)) == len(running) > 5
    monkeypatch.undo()
    reserve(ledger, "after").settle(Outcome.OK)


async def test_a_failing_disk_does_not_fail_the_answer(
    ledger: Ledger, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, line: bytes, offset: int) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(ledger_module, "_MAX_IN_MEMORY", 0)
    entry = reserve(ledger, "req_1")
    with monkeypatch.context() as failing:
        failing.setattr(os, "pwrite", broken)
        with pytest.raises(Unavailable, match="cannot be written"):
            reserve(ledger, "req_2")
        entry.settle(Outcome.OK, completion_tokens=7)
    reserve(ledger, "req_3").settle(Outcome.OK)
    await ledger.flush()
    assert outcomes(db) == {"req_1": "ok", "req_3": "ok"}
    assert ledger.unfolded == 0


async def test_an_unreadable_file_does_not_hold_up_the_others(db: FailingDatabase, folder: Path) -> None:
    (folder / "w_dead-000001.log").mkdir(parents=True)
    ledger = Ledger(db, folder, segment_bytes=4096)
    await ledger.start()
    reserve(ledger, "req_1").settle(Outcome.OK)
    with pytest.raises(Unavailable, match="cannot be read"):
        await ledger.flush()
    assert outcomes(db) == {"req_1": "ok"}
    (folder / "w_dead-000001.log").rmdir()
    await ledger.stop()
    assert not list(folder.iterdir())


async def test_settling_after_the_end_is_an_interruption(db: FailingDatabase, folder: Path) -> None:
    ledger = Ledger(db, folder, segment_bytes=4096)
    await ledger.start()
    late = reserve(ledger, "late")
    await ledger.stop()
    late.settle(Outcome.OK)
    with pytest.raises(Unavailable, match="not running"):
        reserve(ledger, "later")
    await ledger.start()
    assert outcomes(db) == {"late": "interrupted"}
    reserve(ledger, "again").settle(Outcome.OK)
    await ledger.stop()
    assert outcomes(db) == {"late": "interrupted", "again": "ok"}


async def test_a_nul_is_refused_before_it_poisons_the_journal(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="NUL"):
        reserve(ledger, "req\0")


async def test_a_request_larger_than_a_file(ledger: Ledger, db: Database) -> None:
    reserve(ledger, "x" * 10_000).settle(Outcome.OK)
    await ledger.flush()
    assert len(events(db)) == 1
