"""Single requests: by each id that a client sees, folded or not, and within what the caller may see."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tandem.accounts import Outcome, Principal, Role, find_request, request_id
from tandem.accounts import traces as traces_module
from tandem.kit.db import Database
from tandem.kit.errors import NotFound
from tests.accounts.stand_ins import principal
from tests.accounts.test_usage import add
from tests.history import journaled

DIGITS = "0" * 31 + "a"
OWN = f"req_{DIGITS}"
CALLERS = [
    (None, True),
    (principal("key_1"), True),
    (principal("key_2"), False),
    (principal("key_2", role=Role.ADMIN), True),
    (principal("key_1", tenant="other"), False),
    (principal("key_2", tenant="other", role=Role.ADMIN), False),
]


@pytest.mark.parametrize("prefix", ["req_", "chatcmpl-", "cmpl-"])
def test_each_id_that_a_client_sees_is_the_ledgers(prefix: str) -> None:
    assert request_id(f"{prefix}{DIGITS}") == OWN


@pytest.mark.parametrize(
    "text", ["", DIGITS, f"run_{DIGITS}", f"{OWN}0", f"{OWN}\n", f"chatcmpl-{DIGITS[:-1]}G", "a@1"]
)
def test_other_texts_are_none(text: str, sqlite_database: Database, tmp_path: Path) -> None:
    assert request_id(text) is None
    with pytest.raises(NotFound, match="no response"):
        find_request(sqlite_database, text, journal_folder=tmp_path)


@pytest.mark.parametrize(("caller", "sees"), CALLERS)
@pytest.mark.parametrize("where", ["database", "journal"])
def test_a_caller_finds_its_own(
    sqlite_database: Database, tmp_path: Path, where: str, caller: Principal | None, sees: bool
) -> None:
    if where == "database":
        add(sqlite_database, OWN, key="key_1")
    else:
        journaled(tmp_path, DIGITS, "starter@1", caller=principal("key_1"))

    def look() -> str:
        return find_request(sqlite_database, f"chatcmpl-{DIGITS}", caller, journal_folder=tmp_path).version

    if sees:
        assert look() == "starter@1"
    else:
        with pytest.raises(NotFound, match="no response"):
            look()


def test_what_is_told_is_the_same_from_both(database: Database, tmp_path: Path) -> None:
    journaled(tmp_path, DIGITS, "starter@1", caller=principal())
    found = find_request(database, OWN, journal_folder=tmp_path)
    assert (found.id, found.deployment, found.outcome) == (OWN, "code", Outcome.OK)
    assert (found.prompt_tokens, found.completion_tokens, found.surface) == (10, 20, "azure")
    add(database, OWN)
    folded = find_request(database, OWN, journal_folder=tmp_path)
    assert (folded.id, folded.deployment, folded.outcome, folded.prompt_tokens) == (OWN, "starter", Outcome.OK, 10)


def test_one_that_still_runs_is_found(sqlite_database: Database, tmp_path: Path) -> None:
    journaled(tmp_path, "b" * 32, "other@1", caller=principal())
    journaled(tmp_path, DIGITS, "starter@1", caller=principal(), ended=False)
    assert find_request(sqlite_database, OWN, journal_folder=tmp_path).outcome is None


def test_one_that_is_folded_while_we_look_is_found(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = traces_module._in_journal

    def folding(*words: object) -> object:
        found = real(*words)
        add(sqlite_database, OWN)
        return found

    monkeypatch.setattr(traces_module, "_in_journal", folding)
    assert find_request(sqlite_database, OWN, journal_folder=tmp_path).id == OWN


def test_a_caller_cannot_find_a_request_by_a_piece_of_sql(sqlite_database: Database, tmp_path: Path) -> None:
    add(sqlite_database, OWN)
    with pytest.raises(NotFound):
        find_request(sqlite_database, "req_%", journal_folder=tmp_path)
    assert sqlite_database.run_sync(lambda connection: connection.scalar(sa.text("SELECT count(*) FROM usage_events")))
