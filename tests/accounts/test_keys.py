"""Keys: shown once, dead soon after revocation, and alive while the database is not."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
import sqlalchemy as sa

from tandem.accounts import Keyring, Limits, Role
from tandem.accounts import keys as keys_module
from tandem.accounts.tables import keys, tenants
from tandem.kit import clock, ids
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, InvalidRequest, NotFound, Unauthenticated, Unavailable
from tests.accounts.stand_ins import FailingDatabase, StoppedClock, principal
from tests.conftest import FreshUrl

pytestmark = pytest.mark.anyio

CACHE_S = 2.0
GRACE_S = 60.0


@pytest.fixture
def db(fresh_sqlite: FreshUrl) -> Iterator[FailingDatabase]:
    with fresh_sqlite() as url:
        opened = FailingDatabase(url)
        yield opened
        opened.open.set()
        opened.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep a query waiting for longer than a caller waits; only a database that hangs is to."""
    monkeypatch.setattr(keys_module, "_PATIENCE_S", 60.0)


@pytest.fixture
def ring(db: FailingDatabase) -> Keyring:
    return Keyring(db, cache_s=CACHE_S, grace_s=GRACE_S)


@pytest.fixture
def any_ring(database: Database) -> Keyring:
    """On SQLite, then on PostgreSQL: for what the databases themselves guarantee."""
    return Keyring(database, cache_s=CACHE_S, grace_s=GRACE_S)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    stopped = StoppedClock()
    monkeypatch.setattr(clock, "monotonic_seconds", stopped)
    return stopped


async def test_a_new_key_opens_the_door(any_ring: Keyring) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=4, concurrency=5)
    key, secret = any_ring.create("ada", role=Role.ADMIN, limits=limits)
    assert any_ring.cached(secret) is None
    found = await any_ring.authenticate(secret)
    assert (found.key_id, found.name, found.tenant) == (key.id, "ada", "default")
    assert (found.role, found.limits) == (Role.ADMIN, limits)
    assert any_ring.cached(secret) == found


def test_the_secret_is_nowhere_in_the_database(ring: Keyring, db: Database) -> None:
    key, secret = ring.create("ada")
    row = db.run_sync(lambda connection: connection.execute(sa.select(keys)).one())
    assert secret not in str(tuple(row))
    assert row.digest == ids.sha256_hex(secret)
    assert key.prefix == f"{secret[:7]}…"


@pytest.mark.parametrize("token", ["", "x", "tk-abcdefghijklmnopqrstuvwxyz", "é" * 30, "\x00" * 30, "x" * 513])
async def test_unknown_tokens_are_refused_without_being_repeated(ring: Keyring, token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await ring.authenticate(token)
    assert not token[6:] or token[6:] not in str(caught.value)
    assert caught.value.remedy


async def test_the_message_shows_which_key_it_was(ring: Keyring) -> None:
    with pytest.raises(Unauthenticated, match=r"^Incorrect API key provided: tk-ab\*\*\*\."):
        await ring.authenticate("tk-abcdefghijklmnopqrstuvwxyz")


async def test_overlong_tokens_cost_nothing(
    ring: Keyring, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "_digest", lambda token: pytest.fail("hashed an overlong token"))
    assert ring.cached("x" * 513) is None
    with pytest.raises(Unauthenticated):
        await ring.authenticate("x" * 513)
    assert db.transactions == 0


def test_a_name_is_taken_until_its_key_is_revoked(any_ring: Keyring) -> None:
    first = any_ring.create("ada").key
    with pytest.raises(Conflict, match="'ada'"):
        any_ring.create("ada")
    any_ring.revoke("ada")
    second = any_ring.create("ada").key
    assert {key.id: key.is_active for key in any_ring.keys(limit=9)} == {first.id: False, second.id: True}


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "new\nline", "nul\0"])
def test_bad_names_change_nothing(ring: Keyring, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ring.create(name)
    assert caught.value.param == "name"
    assert ring.keys(limit=9) == []


def test_unknown_tenant(ring: Keyring) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        ring.create("ada", tenant="nobody")


@pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute", "concurrency"])
def test_limits_start_at_one(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Limits(**{field: 0})
    assert caught.value.param == field


async def test_revocation_in_this_process_is_immediate(ring: Keyring) -> None:
    _, secret = ring.create("ada")
    await ring.authenticate(secret)
    revoked = ring.revoke("ada")
    assert revoked.revoked_at is not None
    assert ring.cached(secret) is None
    with pytest.raises(Unauthenticated):
        await ring.authenticate(secret)


async def test_revocation_elsewhere_takes_the_cache_time(ring: Keyring, db: Database, ticking: StoppedClock) -> None:
    _, secret = ring.create("ada")
    await ring.authenticate(secret)
    Keyring(db, cache_s=CACHE_S, grace_s=GRACE_S).revoke("ada")
    ticking.now_s += CACHE_S - 0.01
    assert ring.cached(secret)
    ticking.now_s += 0.02
    assert ring.cached(secret) is None
    with pytest.raises(Unauthenticated):
        await ring.authenticate(secret)


def test_revoking_by_id_twice_keeps_the_first_time(any_ring: Keyring) -> None:
    key = any_ring.create("ada").key
    assert any_ring.revoke(key.id) == any_ring.revoke(key.id)


def test_revoking_nothing_names_the_near_ones(ring: Keyring) -> None:
    ring.create("production")
    with pytest.raises(NotFound) as caught:
        ring.revoke("producton")
    assert caught.value.remedy == "Did you mean 'production'?"
    with pytest.raises(NotFound, match="tandem keys list"):
        ring.revoke("zebra")


def test_callers_see_their_own(any_ring: Keyring, database: Database) -> None:
    database.run_sync(
        lambda connection: connection.execute(tenants.insert().values(id="other", name="other", created_at=clock.now()))
    )
    ada, bob = any_ring.create("ada").key, any_ring.create("bob").key
    eve = any_ring.create("ada", tenant="other").key
    admin = principal(ada.id, role=Role.ADMIN)
    assert {key.id for key in any_ring.keys(limit=9)} == {ada.id, bob.id, eve.id}
    assert {key.id for key in any_ring.keys(admin)} == {ada.id, bob.id}
    assert {key.id for key in any_ring.keys(principal(bob.id))} == {bob.id}
    with pytest.raises(NotFound):
        any_ring.revoke(eve.id, principal=admin)
    with pytest.raises(Conflict, match="2 keys"):
        any_ring.revoke("ada")
    assert any_ring.revoke("ada", principal=admin).id == ada.id


def test_five_thousand_keys_are_listed_in_pages(any_ring: Keyring, database: Database) -> None:
    made = [any_ring.create("pattern").key]
    rows = [
        {
            "id": f"key_{number:05d}",
            "tenant_id": "default",
            "name": f"n{number}",
            "digest": f"{number:064d}",
            "prefix": "tk-x…",
            "role": "user",
            "created_at": made[0].created_at,
        }
        for number in range(4999)
    ]
    database.run_sync(lambda connection: connection.execute(keys.insert(), rows))
    seen: list[str] = []
    page = any_ring.keys(limit=500)
    pages = 0
    while page:
        assert len(page) <= 500
        pages += 1
        seen += [key.id for key in page]
        page = any_ring.keys(limit=500, after=seen[-1])
    assert pages == 10
    assert seen == sorted({*(row["id"] for row in rows), made[0].id})


async def test_known_keys_outlive_the_database_and_unknown_ones_are_not_denied(
    ring: Keyring, db: FailingDatabase, ticking: StoppedClock
) -> None:
    _, secret = ring.create("ada")
    _, never_used = ring.create("bob")
    found = await ring.authenticate(secret)
    db.is_down = True
    for _ in range(3):
        ticking.now_s += CACHE_S + 1
        assert await ring.authenticate(secret) == found
        with pytest.raises(Unavailable) as caught:
            await ring.authenticate(never_used)
        assert "tk-" not in str(caught.value)
    ticking.now_s += GRACE_S
    with pytest.raises(Unavailable):
        await ring.authenticate(secret)
    db.is_down = False
    ticking.now_s += 1.5
    assert await ring.authenticate(secret) == found
    assert (await ring.authenticate(never_used)).name == "bob"


async def test_a_damaged_database_denies_nobody(ring: Keyring, db: FailingDatabase, ticking: StoppedClock) -> None:
    _, secret = ring.create("ada")
    db.run_sync(lambda connection: connection.execute(sa.text("DROP TABLE keys")))
    with pytest.raises(Unavailable):
        await ring.authenticate(secret)


async def test_while_it_is_down_the_database_is_asked_once_a_second(
    ring: Keyring, db: FailingDatabase, ticking: StoppedClock
) -> None:
    db.is_down = True
    for number in range(50):
        with pytest.raises(Unavailable):
            await ring.authenticate(f"tk-{number}")
    assert db.transactions == 1
    ticking.now_s += 1.1
    with pytest.raises(Unavailable):
        await ring.authenticate("tk-x")
    assert db.transactions == 2


async def test_one_request_tries_whether_the_database_is_back(
    ring: Keyring, db: FailingDatabase, ticking: StoppedClock
) -> None:
    db.is_down = True
    with pytest.raises(Unavailable):
        await ring.authenticate("tk-x")
    ticking.now_s += 1.1
    db.open.clear()
    tries = [asyncio.create_task(ring.authenticate(f"tk-{number}")) for number in range(20)]
    done, waiting = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
    assert len(waiting) == 1
    assert all(isinstance(task.exception(), Unavailable) for task in done)
    db.open.set()
    await asyncio.wait(waiting)
    assert isinstance(waiting.pop().exception(), Unavailable)


async def test_a_database_that_hangs_is_down(
    ring: Keyring, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Keyring(db, cache_s=0.0, grace_s=GRACE_S)
    _, secret = ring.create("ada")
    found = await ring.authenticate(secret)
    monkeypatch.setattr(keys_module, "_PATIENCE_S", 0.02)
    db.open.clear()
    assert await ring.authenticate(secret) == found
    with pytest.raises(Unavailable):
        await ring.authenticate("tk-unknown")
    db.open.set()


async def test_simultaneous_requests_share_one_query(ring: Keyring, db: FailingDatabase) -> None:
    _, secret = ring.create("ada")
    before = db.transactions
    found = await asyncio.gather(*(ring.authenticate(secret) for _ in range(20)))
    assert len(set(found)) == 1
    assert db.transactions == before + 1


async def test_a_client_that_leaves_takes_nobody_with_it(ring: Keyring, db: FailingDatabase) -> None:
    _, secret = ring.create("ada")
    db.open.clear()
    first = asyncio.create_task(ring.authenticate(secret))
    second = asyncio.create_task(ring.authenticate(secret))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    db.open.set()
    assert (await second).name == "ada"
    assert first.cancelled()


async def test_hammering_with_a_wrong_key_costs_one_query_a_second(
    ring: Keyring, db: FailingDatabase, ticking: StoppedClock
) -> None:
    for _ in range(100):
        with pytest.raises(Unauthenticated):
            await ring.authenticate("tk-wrong")
    assert db.transactions == 1
    ticking.now_s += 1.1
    with pytest.raises(Unauthenticated):
        await ring.authenticate("tk-wrong")
    assert db.transactions == 2


async def test_caches_are_bounded(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_MAX_KNOWN", 3)
    monkeypatch.setattr(keys_module, "_MAX_UNKNOWN", 2)
    secrets = [ring.create(f"n{number}").secret for number in range(5)]
    for secret in secrets:
        await ring.authenticate(secret)
        with pytest.raises(Unauthenticated):
            await ring.authenticate(f"{secret}x")
    assert len(ring._known) == 3
    assert len(ring._unknown) == 2
    assert list(map(bool, map(ring.cached, secrets))) == [False, False, True, True, True]


async def test_two_processes_cannot_make_the_same_name(any_ring: Keyring, database: Database) -> None:
    other = Keyring(database, cache_s=CACHE_S, grace_s=GRACE_S)
    made = await asyncio.gather(
        *(asyncio.to_thread(partial(one.create, "ada")) for one in (any_ring, other)), return_exceptions=True
    )
    assert sorted(isinstance(one, Conflict) for one in made) == [False, True]
