"""The usage ledger: reserved at admission, settled exactly once, in the journal at once and in the database soon.

A request writes one line to the journal when it is let in and one when it ends; neither touches the database. A
task folds settled requests into `usage_events`, whose primary key is the request's id, so that folding a file twice
adds nothing. A file is deleted when every request in it has settled and is in the database. What a killed process
leaves is folded by the next one; there, a request that never settled becomes `interrupted`.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tandem.accounts import journal
from tandem.accounts.journal import MAX_TOKENS, Outcome, Reserved, Segment, Settled
from tandem.accounts.principals import Principal
from tandem.accounts.tables import usage_events
from tandem.kit import clock
from tandem.kit.db import Database, upsert_ignore
from tandem.kit.errors import InvalidRequest, TandemError, Unavailable

_log = logging.getLogger(__name__)

FOLD_INTERVAL_S = 0.5
"""How far the database is behind at most, while it works."""
# Rows in one transaction: large enough to be cheap, small enough not to hold SQLite's only writer for long.
_BATCH = 500
# About 1 kB each. Beyond it, events stay in the journal alone and are read again when the database is back.
_MAX_IN_MEMORY = 10_000
_MAX_BACK_OFF_S = 5.0

_FOLD_ERRORS = (TandemError, SQLAlchemyError)

Pair = tuple[Reserved, Settled]


class _Book:
    """One file of the journal and what of it is not in the database yet."""

    __slots__ = ("on_disk", "path", "pending", "segment", "unwritten")

    def __init__(self, path: Path, segment: Segment | None) -> None:
        self.path = path
        self.segment = segment
        """None for a file that a dead process left."""
        self.pending: list[Pair] = []
        self.unwritten: list[Pair] = []
        """Settled, and the disk did not take it: memory alone knows."""
        self.on_disk = segment is None
        """Whether settled requests have to be read from the file."""

    @property
    def is_done(self) -> bool:
        """Whether all who reserved have settled and are in the database."""
        all_settled = self.segment is None or self.segment.owed == 0
        return all_settled and not (self.pending or self.unwritten or self.on_disk)


class Entry:
    """A reserved request. It must be settled; only the first time counts."""

    __slots__ = ("_book", "_ledger", "_reserved", "_room", "_started_s")

    def __init__(self, ledger: "Ledger", book: _Book, reserved: Reserved, *, room: int) -> None:
        self._ledger: Ledger | None = ledger
        self._book = book
        self._reserved = reserved
        self._room = room
        self._started_s = clock.monotonic_seconds()

    def settle(
        self,
        outcome: Outcome,
        *,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        completion_tokens: int = 0,
        by_second: bool = False,
    ) -> None:
        """Write to the journal how the request ended and what it used; returns once that outlives this process.

        `by_second` says that the second version of the reservation answered.
        Never fails: where the disk does, the event is kept in memory until it is folded, and the log says so.
        """
        ledger, self._ledger = self._ledger, None
        if ledger is None:
            return
        settled = journal.settled(
            self._reserved.id,
            outcome,
            tokens=(prompt_tokens, cached_tokens, completion_tokens),
            settled_ms=clock.unix_milliseconds(),
            duration_ms=int((clock.monotonic_seconds() - self._started_s) * 1000),
            by_second=by_second,
        )
        ledger.settled(self._book, (self._reserved, settled), room=self._room)


class Ledger:
    """What was used, by whom. `reserve` and `Entry.settle` belong to the event loop that `start` ran on."""

    def __init__(self, db: Database, folder: Path, *, segment_bytes: int, fsync: bool = False) -> None:
        self._db = db
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._writer: journal.Writer | None = None
        self._current: _Book | None = None
        self._books: list[_Book] = []
        self._adopted: dict[str, int] = {}  # dead writers and their locks
        self._in_memory = 0
        self._folding = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.skipped_lines = 0
        """Torn and foreign lines that recovery found since the start."""

    @property
    def unfolded(self) -> int:
        """Settled requests in memory that the database does not have yet."""
        return self._in_memory

    async def start(self) -> None:
        """Take up what dead processes left, and begin to fold. A database that is down only delays that.

        Raises:
            StorageFull, Unavailable: the journal's folder cannot be written.
        """
        self._writer = await asyncio.to_thread(
            journal.Writer, self._folder, segment_bytes=self._segment_bytes, fsync=self._fsync
        )
        await asyncio.to_thread(self._adopt)
        try:
            await self.flush()
        except _FOLD_ERRORS as error:
            _log.warning("usage of an earlier process stays in the journal: %s", error)
        self._stopping.clear()
        self._task = asyncio.create_task(self._fold_until_stopped())

    def reserve(
        self,
        *,
        request_id: str,
        principal: Principal,
        deployment: str,
        version: str | tuple[str, str],
        operation: str,
        surface: str,
        tokens: int,
    ) -> Entry:
        """Write to the journal that a request was let in, and keep room for its settlement.

        `request_id` must be unique for ever, and so made by us; `tokens` is what the request may use at most;
        of two versions the second one answers where the first one fails before its first byte.

        Raises:
            InvalidRequest: a text contains a NUL character.
            StorageFull: the disk has no room for the next file of the journal.
            Unavailable: the journal cannot be written.
        """
        version, second = (version, "") if isinstance(version, str) else version
        reserved = Reserved(
            request_id,
            principal.tenant,
            principal.key_id,
            deployment,
            version,
            operation,
            surface,
            min(max(tokens, 0), MAX_TOKENS),
            clock.unix_milliseconds(),
            second,
        )
        line = journal.to_line(reserved)
        if b"\\u0000" in line:
            # PostgreSQL takes no NUL in a text, and one row that cannot be folded would hold up all others.
            raise InvalidRequest("A name in the request contains a NUL character.", remedy="Leave it out.")
        room = journal.settlement_bytes(request_id)
        book = self._current
        if book is None or book.segment is None or not book.segment.fits(line, room):
            book = self._turn_page(len(line) + room)
        assert book.segment is not None, "the current book is ours"
        try:
            book.segment.reserve(line, room)
        except OSError as error:
            raise Unavailable(f"The usage journal {book.path} cannot be written: {error.strerror}.") from error
        return Entry(self, book, reserved, room=room)

    def settled(self, book: _Book, pair: Pair, *, room: int) -> None:
        """Take an entry's settlement; only `Entry` calls this, once."""
        segment = book.segment
        assert segment is not None, "entries are made from our own books"
        if segment.is_closed:
            _log.error("request %s settled after the ledger stopped; it will count as interrupted", pair[0].id)
            return
        try:
            segment.settle(journal.to_line(pair[1]), room)
            book.pending.append(pair)
        except OSError as error:
            _log.error("usage of request %s is in memory alone: %s", pair[0].id, error)
            book.unwritten.append(pair)
        self._in_memory += 1
        if book is not self._current and segment.owed == 0:
            segment.close()
        if self._in_memory % _BATCH == 0:
            self._wake.set()
        if self._in_memory > _MAX_IN_MEMORY:
            self._leave_on_disk()

    async def flush(self) -> None:
        """Fold all that has settled so far.

        Raises:
            Unavailable: the database is down; nothing is lost.
        """
        async with self._folding:
            unreadable: OSError | None = None
            for book in list(self._books):
                try:
                    await self._fold(book)
                except OSError as error:
                    unreadable = error  # one bad file must not hold up the others
            if unreadable is not None:
                raise Unavailable(f"The usage journal cannot be read: {unreadable}.") from unreadable
            if all(book.segment is not None for book in self._books):
                self._release_adopted()

    async def stop(self) -> None:
        """Fold what there is and close the journal; what cannot be folded now is folded after the next start."""
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None
        self._current = None
        try:
            await self.flush()
        except _FOLD_ERRORS as error:
            _log.warning("usage stays in the journal until the next start: %s", error)
        for book in self._books:
            if book.segment is not None:
                book.segment.close()
        self._books.clear()
        self._in_memory = 0
        self._release_adopted()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _turn_page(self, at_least: int) -> _Book:
        if self._writer is None:
            raise Unavailable("The usage ledger is not running.", remedy="Try again after the restart.")
        segment = self._writer.new_segment(at_least)
        last, self._current = self._current, _Book(segment.path, segment)
        self._books.append(self._current)
        # A file descriptor for each file would run out in a long outage of the database.
        if last is not None and last.segment is not None and last.segment.owed == 0:
            last.segment.close()
        return self._current

    def _leave_on_disk(self) -> None:
        """Forget what the journal can say again."""
        for book in self._books:
            if book.pending:
                book.pending = []
                book.on_disk = True
        self._in_memory = sum(len(book.unwritten) for book in self._books)

    def _adopt(self) -> None:
        """Lock the names of dead writers and take over their files."""
        for name in journal.writers(self._folder):
            try:
                lock = journal.lock_writer(self._folder, name)
            except OSError as error:
                _log.error("the usage journal of %s cannot be recovered: %s", name, error)
                continue
            if lock is not None:
                self._adopted[name] = lock
                self._books.extend(_Book(path, None) for path in journal.segments_of(self._folder, name))

    def _release_adopted(self) -> None:
        while self._adopted:
            journal.release_writer(self._folder, *self._adopted.popitem())

    async def _fold_until_stopped(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            woken_by = self._stopping if failures else self._wake
            try:
                async with asyncio.timeout(min(FOLD_INTERVAL_S * 2**failures, _MAX_BACK_OFF_S)):
                    await woken_by.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.flush()
            except _FOLD_ERRORS as error:
                if failures == 0:
                    _log.warning("usage stays in the journal for now: %s", error)
                failures = min(failures + 1, 10)
            except Exception:  # the edge of a job
                _log.exception("folding usage failed; it stays in the journal")
                failures = min(failures + 1, 10)
            else:
                if failures:
                    _log.info("usage is folded again")
                failures = 0

    async def _fold(self, book: _Book) -> None:
        """Fold what has settled in this book by now, and delete its file when nothing more can come."""
        if book.on_disk:
            await self._fold_from_disk(book)
        await self._fold_from_memory(book, book.pending)
        await self._fold_from_memory(book, book.unwritten)
        if book is not self._current and book.is_done:
            self._books.remove(book)
            if book.segment is not None:
                book.segment.close()
            await asyncio.to_thread(book.path.unlink, missing_ok=True)

    async def _fold_from_memory(self, book: _Book, pairs: list[Pair]) -> None:
        # What settles in the meantime waits for the next round, or this one would never end under load.
        for _ in range(0, len(pairs), _BATCH):
            batch = pairs[:_BATCH]
            await self._insert(batch)
            if pairs is not book.pending and pairs is not book.unwritten:
                return  # left to the disk while the database was busy; counted there
            del pairs[: len(batch)]
            self._in_memory -= len(batch)

    async def _fold_from_disk(self, book: _Book) -> None:
        # What settles from here on is added to `pending` again; what is in both is inserted once.
        end = None if book.segment is None else book.segment.offset
        book.on_disk = False
        try:
            contents = await asyncio.to_thread(journal.read_segment, book.path, end=end)
            pairs = contents.settled
            if book.segment is None:
                pairs.extend(_interrupted(contents.open))
            for first in range(0, len(pairs), _BATCH):
                await self._insert(pairs[first : first + _BATCH])
        except BaseException:
            book.on_disk = True
            raise
        if contents.skipped:
            self.skipped_lines += contents.skipped
            _log.warning("%d lines of %s could not be read and were skipped", contents.skipped, book.path.name)

    async def _insert(self, pairs: Sequence[Pair]) -> None:
        await self._db.run(partial(_insert, pairs=pairs))


def _interrupted(reserved: Iterable[Reserved]) -> list[Pair]:
    now_ms = clock.unix_milliseconds()
    return [
        (one, journal.settled(one.id, Outcome.INTERRUPTED, tokens=(0, 0, 0), settled_ms=now_ms, duration_ms=0))
        for one in reserved
    ]


def _insert(connection: sa.Connection, *, pairs: Sequence[Pair]) -> None:
    connection.execute(upsert_ignore(connection, usage_events), [_row(*pair) for pair in pairs])


def _row(reserved: Reserved, settled: Settled) -> dict[str, Any]:
    return {
        "id": reserved.id,
        "tenant_id": reserved.tenant,
        "key_id": reserved.key,
        "deployment": reserved.deployment,
        "version": reserved.second if settled.by_second else reserved.version,
        "operation": reserved.operation,
        "surface": reserved.surface,
        "outcome": settled.outcome.value,
        "prompt_tokens": settled.prompt_tokens,
        "cached_tokens": settled.cached_tokens,
        "completion_tokens": settled.completion_tokens,
        "reserved_tokens": reserved.tokens,
        "started_at": reserved.started_ms,
        "settled_at": settled.settled_ms,
        "duration_ms": settled.duration_ms,
    }
