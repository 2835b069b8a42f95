"""kill -9 of real gateways' ledgers at random moments: every acknowledged settlement is in the database, once."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tandem.accounts import Ledger
from tandem.accounts.tables import usage_events
from tandem.kit.db import Database
from tests.conftest import FreshUrl

pytestmark = pytest.mark.fault

KILLS = 40
# A slow machine stops early, after this many kills at least.
BUDGET_S = 20.0
FEWEST_KILLS = 8

# Forks a writer for each line on stdin and answers with its process id; a fork is 50 times faster than a new Python.
# A writer says on stdout `R id tokens` after a reservation and `S id outcome tokens` after a settlement.
WRITERS = """
import asyncio, logging, os, random, signal, sys, traceback
from pathlib import Path
from tandem.accounts import NO_LIMITS, Ledger, Outcome, Principal, Role, ledger as module
from tandem.kit.db import Database
from tandem.kit.ids import new_id

url, folder = sys.argv[1], Path(sys.argv[2])
module.FOLD_INTERVAL_S = 0.02  # so that many die while they fold
logging.disable()  # torn lines are expected here
caller = Principal(key_id="key_1", name="ada", tenant="default", role=Role.USER, limits=NO_LIMITS)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def write():
    ledger = Ledger(Database(url), folder, segment_bytes=8192)
    await ledger.start()
    say("U", os.getpid())
    running = []
    while True:
        for _ in range(random.randrange(1, 30)):
            request_id, tokens = new_id("req"), random.randrange(1, 1000)
            entry = ledger.reserve(
                request_id=request_id, principal=caller, deployment="d", version="d@1", operation="chat",
                surface="openai", tokens=tokens,
            )
            say("R", request_id, tokens)
            running.append((request_id, entry))
        random.shuffle(running)
        for _ in range(random.randrange(len(running))):
            request_id, entry = running.pop()
            outcome, tokens = random.choice(["ok", "error", "client_gone"]), random.randrange(1000)
            entry.settle(Outcome(outcome), completion_tokens=tokens)
            say("S", request_id, outcome, tokens)
        await asyncio.sleep(random.choice([0, 0.001, 0.01]))

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        random.seed(int(line))
        try:
            asyncio.run(write())
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    say("P", child)
"""


class Said:
    """What the writers said before they died."""

    def __init__(self) -> None:
        self.reserved: dict[str, int] = {}
        self.settled: dict[str, tuple[str, int]] = {}
        self.up: set[int] = set()
        self.started: list[int] = []

    def take(self, line: str) -> None:
        kind, *words = line.split()
        match kind:
            case "P":
                self.started.append(int(words[0]))
            case "U":
                self.up.add(int(words[0]))
            case "R":
                self.reserved[words[0]] = int(words[1])
            case "S":
                assert words[0] not in self.settled
                self.settled[words[0]] = (words[1], int(words[2]))
            case _:
                pytest.fail(f"a writer said {line!r}")


class Stage:
    """The process that forks writers, and their common voice."""

    def __init__(self, url: str, folder: Path) -> None:
        self.said = Said()
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITERS, url, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._rest = b""

    def start_writer(self) -> int:
        """The process id of a new writer."""
        assert self._process.stdin is not None
        known = len(self.said.started)
        self._process.stdin.write(b"%d\n" % random.randrange(10**9))
        self._process.stdin.flush()
        self.wait(lambda: len(self.said.started) > known)
        return self.said.started[known]

    def wait(self, condition: Any, *, seconds: float = 60) -> None:
        """Listen until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "a writer does not start"
            self.listen()
            time.sleep(0.001)

    def listen(self) -> None:
        """Take what was said so far; every line is whole, since a pipe keeps short writes together."""
        assert self._process.stdout is not None
        while data := self._process.stdout.read(1 << 20):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self.said.take(line.decode())

    def close(self) -> None:
        """End the process that forks; its writers are dead already."""
        for pid in self.said.started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        rest, errors = self._process.communicate(timeout=20)
        for line in (self._rest + rest).splitlines():
            self.said.take(line.decode())
        assert not errors, errors.decode()[-2000:]


@pytest.fixture
def url(fresh_sqlite: FreshUrl) -> Iterator[str]:
    with fresh_sqlite() as fresh:
        yield fresh


def test_kill_9_loses_no_settled_usage_and_doubles_none(url: str, tmp_path: Path) -> None:
    """Two writers share the folder; each new one recovers the dead ones' files while the other goes on writing."""
    folder = tmp_path / "journal"
    stage = Stage(url, folder)
    said = stage.said
    try:
        deadline = time.monotonic() + BUDGET_S
        alive = [stage.start_writer(), stage.start_writer()]
        kills = 0
        while kills < FEWEST_KILLS or (kills < KILLS and time.monotonic() < deadline):
            victim = alive.pop(0)
            if random.random() < 0.7:  # else it may die while it recovers
                stage.wait(lambda victim=victim: victim in said.up)
            until = time.monotonic() + random.random() * 0.2
            while time.monotonic() < until:
                stage.listen()
            os.kill(victim, signal.SIGKILL)
            kills += 1
            alive.append(stage.start_writer())
        for pid in alive:
            stage.wait(lambda pid=pid: pid in said.up)
            os.kill(pid, signal.SIGKILL)
    finally:
        stage.close()
    database = Database(url)
    asyncio.run(recover(database, folder))
    rows = database.run_sync(lambda connection: connection.execute(sa.select(usage_events)).all())
    database.close()
    compare(said, {row.id: row for row in rows})
    assert len(said.settled) > 100
    assert not list(folder.iterdir()), "everything is folded, so nothing is left"


async def recover(database: Database, folder: Path) -> None:
    ledger = Ledger(database, folder, segment_bytes=8192)
    await ledger.start()
    await ledger.stop()


def compare(said: Said, rows: dict[str, Any]) -> None:
    """What was said is in the database; a writer that died between doing and saying explains one more each."""
    for request_id, (outcome, tokens) in said.settled.items():
        assert (rows[request_id].outcome, rows[request_id].completion_tokens) == (outcome, tokens)
    for request_id, tokens in said.reserved.items():
        assert rows[request_id].reserved_tokens == tokens
    unsaid = [row for request_id, row in rows.items() if request_id not in said.settled]
    interrupted = [row for row in unsaid if row.outcome == "interrupted"]
    assert all(row.completion_tokens == 0 for row in interrupted)
    assert interrupted
    assert len(unsaid) - len(interrupted) <= len(said.started)
    assert len(rows.keys() - said.reserved.keys()) <= len(said.started)
