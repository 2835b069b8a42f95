"""The ledger under any history: reservations, settlements, folds, outages and crashes in any order."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tandem.accounts import Entry, Ledger, Outcome
from tandem.accounts import ledger as ledger_module
from tandem.kit.errors import Unavailable
from tests.accounts.stand_ins import FailingDatabase
from tests.accounts.test_ledger import crash, events, reserve


class History(RuleBasedStateMachine):
    """Keeps beside the ledger what every request must have become."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        shutil.copy(self.template, self.folder / "t.db")
        self.db = FailingDatabase(f"sqlite:///{self.folder / 't.db'}")
        self.expected: dict[str, tuple[str, int]] = {}
        self.running: dict[str, Entry] = {}
        self.made = 0

    @initialize()
    def start(self) -> None:
        """Begin, or begin again after a crash."""
        self.ledger = Ledger(self.db, self.folder / "journal", segment_bytes=1500)
        self.run(self.ledger.start())

    @rule()
    def reserve(self) -> None:
        self.made += 1
        name = f"req_{self.made}"
        self.running[name] = self.run_in_loop(reserve, name, self.made)
        self.expected[name] = ("interrupted", 0)

    @rule(which=st.integers(0, 100), tokens=st.integers(0, 10**6), outcome=st.sampled_from(["ok", "error", "filtered"]))
    def settle(self, which: int, tokens: int, outcome: str) -> None:
        if not self.running:
            return
        name = list(self.running)[which % len(self.running)]
        entry = self.running.pop(name)
        for again in range(2):
            entry.settle(Outcome(outcome), completion_tokens=tokens + again)
        self.expected[name] = (outcome, tokens)

    @rule()
    def fold(self) -> None:
        try:
            self.run(self.ledger.flush())
        except Unavailable:
            assert self.db.is_down

    @rule()
    def let_the_background_run(self) -> None:
        self.ledger._wake.set()
        self.run(asyncio.sleep(0))

    @rule(down=st.booleans())
    def outage(self, down: bool) -> None:
        self.db.is_down = down

    @rule()
    def crash(self) -> None:
        self.run(crash(self.ledger))
        self.running.clear()
        self.start()

    @rule()
    def restart(self) -> None:
        self.run(self.ledger.stop())
        self.running.clear()
        self.start()

    @invariant()
    def nothing_is_counted_that_did_not_happen(self) -> None:
        if self.db.is_down or not hasattr(self, "ledger"):
            return
        for name, row in events(self.db).items():
            assert (row.outcome, row.completion_tokens) == self.expected[name]
            assert name not in self.running

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.db.is_down = False
            self.crash()
            self.run(self.ledger.stop())
            assert {
                name: (row.outcome, row.completion_tokens) for name, row in events(self.db).items()
            } == self.expected
            assert not list((self.folder / "journal").iterdir())
        self.runner.close()
        self.db.close()
        shutil.rmtree(self.folder)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)

    def run_in_loop(self, make: Any, name: str, tokens: int) -> Entry:
        return make(self.ledger, name, tokens)


def test_any_history_counts_each_settled_request_once(migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_IN_MEMORY", 4)
    monkeypatch.setattr(ledger_module, "_BATCH", 2)
    monkeypatch.setattr(History, "template", migrated_sqlite, raising=False)
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
