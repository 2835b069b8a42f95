"""Usage: sums and single events, each caller within its bounds."""

from datetime import UTC, datetime, timedelta

import pytest

from tandem.accounts import GroupBy, Keyring, Outcome, Page, Role, UsageRow, summarise
from tandem.accounts import events as usage_events_of
from tandem.accounts.tables import usage_events
from tandem.kit.db import Database
from tandem.kit.errors import InvalidRequest, NotFound
from tests.accounts.stand_ins import principal

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def add(
    db: Database,
    event_id: str,
    *,
    tenant: str = "default",
    key: str = "key_1",
    deployment: str = "starter",
    outcome: str = "ok",
    tokens: int = 1,
    at: datetime = NOON,
) -> None:
    row = {
        "id": event_id,
        "tenant_id": tenant,
        "key_id": key,
        "deployment": deployment,
        "version": f"{deployment}@1",
        "operation": "chat.completions",
        "surface": "openai",
        "outcome": outcome,
        "prompt_tokens": 10 * tokens,
        "cached_tokens": tokens,
        "completion_tokens": 100 * tokens,
        "reserved_tokens": 1000,
        "started_at": at,
        "settled_at": at + timedelta(milliseconds=250),
        "duration_ms": 250,
    }
    db.run_sync(lambda connection: connection.execute(usage_events.insert(), row))


def row(group: str, requests: int, tokens: int, *, failed: int = 0, row_id: str | None = None) -> UsageRow:
    return UsageRow(
        id=group if row_id is None else row_id,
        group=group,
        requests=requests,
        failed=failed,
        prompt_tokens=10 * tokens,
        cached_tokens=tokens,
        completion_tokens=100 * tokens,
    )


def test_sums_by_everything(database: Database) -> None:
    ada = Keyring(database, cache_s=1, grace_s=1).create("ada").key
    add(database, "req_1", key=ada.id, tokens=1)
    add(database, "req_2", key=ada.id, tokens=2, deployment="coder", outcome="client_gone")
    add(database, "req_3", key="key_forgotten", tokens=4, at=NOON + timedelta(hours=12))
    add(database, "req_4", key="key_forgotten", tokens=8, at=NOON + timedelta(hours=12, milliseconds=-1))
    assert summarise(database) == [row("", 4, 15, failed=1)]
    assert summarise(database, group_by=GroupBy.KEY) == [
        row("ada", 2, 3, failed=1, row_id=ada.id),
        row("key_forgotten", 2, 12),
    ]
    assert summarise(database, group_by=GroupBy.DEPLOYMENT) == [row("coder", 1, 2, failed=1), row("starter", 3, 13)]
    assert summarise(database, group_by=GroupBy.DAY) == [row("2026-01-31", 3, 11, failed=1), row("2026-02-01", 1, 4)]


@pytest.mark.parametrize("group_by", GroupBy)
def test_without_events_there_are_no_rows(database: Database, group_by: GroupBy) -> None:
    assert summarise(database, group_by=group_by) == []


@pytest.mark.parametrize("group_by", GroupBy)
def test_sums_come_in_pages(database: Database, group_by: GroupBy) -> None:
    for number in range(7):
        at = NOON + timedelta(days=number % 5)
        add(database, f"req_{number}", key=f"key_{number % 4}", deployment=f"name-{number % 3}", at=at)
    whole = summarise(database, group_by=group_by)
    paged: list[UsageRow] = []
    while part := summarise(database, group_by=group_by, page=Page(2, paged[-1].id if paged else None)):
        assert len(part) <= 2
        paged += part
    assert paged == whole
    assert len({one.id for one in whole}) == len(whole) == {"key": 4, "deployment": 3, "day": 5, "none": 1}[group_by]
    assert sum(one.requests for one in paged) == 7


def test_a_page_of_days_after_what_is_no_day(sqlite_database: Database) -> None:
    with pytest.raises(InvalidRequest, match="no day"):
        summarise(sqlite_database, group_by=GroupBy.DAY, page=Page(2, "yesterday"))


def test_sums_pass_what_an_integer_of_32_bits_holds(database: Database) -> None:
    for number in range(3):
        add(database, f"req_{number}", tokens=10**10)
    (total,) = summarise(database)
    assert total.completion_tokens == 3 * 10**12
    assert type(total.completion_tokens) is int


def test_the_span_includes_its_start_and_not_its_end(sqlite_database: Database) -> None:
    for hour in range(4):
        add(sqlite_database, f"req_{hour}", at=NOON + timedelta(hours=hour))
    span = {"since": NOON + timedelta(hours=1), "until": NOON + timedelta(hours=3)}
    assert summarise(sqlite_database, **span) == [row("", 2, 2)]
    assert [event.id for event in usage_events_of(sqlite_database, **span)] == ["req_2", "req_1"]


def test_callers_see_their_own(sqlite_database: Database) -> None:
    add(sqlite_database, "req_1", key="key_1")
    add(sqlite_database, "req_2", key="key_2")
    add(sqlite_database, "req_3", key="key_3", tenant="other")
    seen = {
        name: {event.id for event in usage_events_of(sqlite_database, caller)}
        for name, caller in {
            "house": None,
            "admin": principal("key_9", role=Role.ADMIN),
            "user": principal("key_1"),
            "stranger": principal("key_1", tenant="other"),
        }.items()
    }
    assert seen == {
        "house": {"req_1", "req_2", "req_3"},
        "admin": {"req_1", "req_2"},
        "user": {"req_1"},
        "stranger": set(),
    }
    assert summarise(sqlite_database, principal("key_2")) == [row("", 1, 1)]
    with pytest.raises(NotFound):
        usage_events_of(sqlite_database, principal("key_1"), after="req_2")


def test_events_are_paged_through_equal_times(database: Database) -> None:
    for number in range(25):
        add(database, f"req_{number:02d}", at=NOON + timedelta(milliseconds=number // 10))
    seen: list[str] = []
    page = usage_events_of(database, limit=7)
    while page:
        assert len(page) <= 7
        seen += [event.id for event in page]
        page = usage_events_of(database, limit=7, after=seen[-1])
    assert seen == [f"req_{number:02d}" for number in reversed(range(25))]


def test_an_event_keeps_all_it_was_given(database: Database) -> None:
    add(database, "req_1", outcome="engine_failed")
    (event,) = usage_events_of(database)
    assert event.outcome is Outcome.ENGINE_FAILED
    assert event.started_at == NOON
    assert event.settled_at - event.started_at == timedelta(milliseconds=250)
    assert (event.version, event.reserved_tokens, event.duration_ms) == ("starter@1", 1000, 250)
