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

pytestmark = pytest.mark.anyio

CACHE_S = 2.0
GRACE_S = 60.0


@pytest.fixture
def db(database_url: str) -> Iterator[FailingDatabase]:
    opened = FailingDatabase(database_url)
    yield opened
    opened.open.set()
    opened.close()


@pytest.fixture
def keyring(db: FailingDatabase) -> Keyring:
    return Keyring(db, cache_s=CACHE_S, grace_s=GRACE_S)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    stopped = StoppedClock()
    monkeypatch.setattr(clock, "monotonic_seconds", stopped)
    return stopped


async def test_a_new_key_opens_the_door(keyring: Keyring) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=4, concurrency=5)
    key, secret = keyring.create("ada", role=Role.ADMIN, limits=limits)
    assert keyring.cached(secret) is None
    found = await keyring.authenticate(secret)
    assert (found.key_id, found.name, found.tenant) == (key.id, "ada", "default")
    assert (found.role, found.limits) == (Role.ADMIN, limits)
    assert keyring.cached(secret) == found


def test_the_secret_is_nowhere_in_the_database(keyring: Keyring, db: Database) -> None:
    key, secret = keyring.create("ada")
    row = db.run_sync(lambda connection: connection.execute(sa.select(keys)).one())
    assert secret not in str(tuple(row))
    assert row.digest == ids.sha256_hex(secret)
    assert key.prefix == f"{secret[:7]}…"


@pytest.mark.parametrize("token", ["", "x", "tk-abcdefghijklmnopqrstuvwxyz", "é" * 30, "\x00" * 30, "x" * 513])
async def test_unknown_tokens_are_refused_without_being_repeated(keyring: Keyring, token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await keyring.authenticate(token)
    assert not token[6:] or token[6:] not in str(caught.value)
    assert caught.value.remedy


async def test_the_message_shows_which_key_it_was(keyring: Keyring) -> None:
    with pytest.raises(Unauthenticated, match=r"^Incorrect API key provided: tk-ab\*\*\*\."):
        await keyring.authenticate("tk-abcdefghijklmnopqrstuvwxyz")


async def test_overlong_tokens_cost_nothing(
    keyring: Keyring, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "_digest", lambda token: pytest.fail("hashed an overlong token"))
    assert keyring.cached("x" * 513) is None
    with pytest.raises(Unauthenticated):
        await keyring.authenticate("x" * 513)
    assert db.transactions == 0


def test_a_name_is_taken_until_its_key_is_revoked(keyring: Keyring) -> None:
    first = keyring.create("ada").key
    with pytest.raises(Conflict, match="'ada'"):
        keyring.create("ada")
    keyring.revoke("ada")
    second = keyring.create("ada").key
    assert [key.id for key in keyring.keys()] == [first.id, second.id]
    assert [key.is_active for key in keyring.keys()] == [False, True]


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "new\nline", "nul\0"])
def test_bad_names_change_nothing(keyring: Keyring, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keyring.create(name)
    assert caught.value.param == "name"
    assert keyring.keys() == []


def test_unknown_tenant(keyring: Keyring) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        keyring.create("ada", tenant="nobody")


@pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute", "concurrency"])
def test_limits_start_at_one(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Limits(**{field: 0})
    assert caught.value.param == field


async def test_revocation_in_this_process_is_immediate(keyring: Keyring) -> None:
    _, secret = keyring.create("ada")
    await keyring.authenticate(secret)
    revoked = keyring.revoke("ada")
    assert revoked.revoked_at is not None
    assert keyring.cached(secret) is None
    with pytest.raises(Unauthenticated):
        await keyring.authenticate(secret)


async def test_revocation_elsewhere_takes_the_cache_time(keyring: Keyring, db: Database, ticking: StoppedClock) -> None:
    _, secret = keyring.create("ada")
    await keyring.authenticate(secret)
    Keyring(db, cache_s=CACHE_S, grace_s=GRACE_S).revoke("ada")
    ticking.now_s += CACHE_S - 0.01
    assert keyring.cached(secret)
    ticking.now_s += 0.02
    assert keyring.cached(secret) is None
    with pytest.raises(Unauthenticated):
        await keyring.authenticate(secret)


def test_revoking_by_id_twice_keeps_the_first_time(keyring: Keyring) -> None:
    key = keyring.create("ada").key
    assert keyring.revoke(key.id) == keyring.revoke(key.id)


def test_revoking_nothing_names_the_near_ones(keyring: Keyring) -> None:
    keyring.create("production")
    with pytest.raises(NotFound) as caught:
        keyring.revoke("producton")
    assert caught.value.remedy == "Did you mean 'production'?"
    with pytest.raises(NotFound, match="tandem keys list"):
        keyring.revoke("zebra")


def test_callers_see_their_own(keyring: Keyring, db: Database) -> None:
    db.run_sync(
        lambda connection: connection.execute(tenants.insert().values(id="other", name="other", created_at=clock.now()))
    )
    ada, bob = keyring.create("ada").key, keyring.create("bob").key
    eve = keyring.create("ada", tenant="other").key
    admin = principal(ada.id, role=Role.ADMIN)
    assert [key.id for key in keyring.keys()] == [ada.id, bob.id, eve.id]
    assert [key.id for key in keyring.keys(admin)] == [ada.id, bob.id]
    assert [key.id for key in keyring.keys(principal(bob.id))] == [bob.id]
    with pytest.raises(NotFound):
        keyring.revoke(eve.id, principal=admin)
    with pytest.raises(Conflict, match="2 keys"):
        keyring.revoke("ada")
    assert keyring.revoke("ada", principal=admin).id == ada.id


def test_five_thousand_keys_are_listed_in_pages(keyring: Keyring, db: FailingDatabase) -> None:
    made = [keyring.create("pattern").key]
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
    db.run_sync(lambda connection: connection.execute(keys.insert(), rows))
    seen: list[str] = []
    page = keyring.keys(limit=500)
    pages = 0
    while page:
        assert len(page) <= 500
        pages += 1
        seen += [key.id for key in page]
        page = keyring.keys(limit=500, after=seen[-1])
    assert pages == 10
    assert seen == sorted({*(row["id"] for row in rows), made[0].id})


async def test_known_keys_outlive_the_database_and_unknown_ones_are_not_denied(
    keyring: Keyring, db: FailingDatabase, ticking: StoppedClock
) -> None:
    _, secret = keyring.create("ada")
    _, never_used = keyring.create("bob")
    found = await keyring.authenticate(secret)
    db.is_down = True
    for _ in range(3):
        ticking.now_s += CACHE_S + 1
        assert await keyring.authenticate(secret) == found
        with pytest.raises(Unavailable) as caught:
            await keyring.authenticate(never_used)
        assert "tk-" not in str(caught.value)
    ticking.now_s += GRACE_S
    with pytest.raises(Unavailable):
        await keyring.authenticate(secret)
    db.is_down = False
    ticking.now_s += 1.5
    assert await keyring.authenticate(secret) == found
    assert (await keyring.authenticate(never_used)).name == "bob"


async def test_a_damaged_database_denies_nobody(keyring: Keyring, db: FailingDatabase, ticking: StoppedClock) -> None:
    _, secret = keyring.create("ada")
    db.run_sync(lambda connection: connection.execute(sa.text("DROP TABLE keys")))
    with pytest.raises(Unavailable):
        await keyring.authenticate(secret)


async def test_while_it_is_down_the_database_is_asked_once_a_second(
    keyring: Keyring, db: FailingDatabase, ticking: StoppedClock
) -> None:
    db.is_down = True
    for number in range(50):
        with pytest.raises(Unavailable):
            await keyring.authenticate(f"tk-{number}")
    assert db.transactions == 1
    ticking.now_s += 1.1
    with pytest.raises(Unavailable):
        await keyring.authenticate("tk-x")
    assert db.transactions == 2


async def test_a_database_that_hangs_is_down(
    keyring: Keyring, db: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = Keyring(db, cache_s=0.0, grace_s=GRACE_S)
    _, secret = keyring.create("ada")
    found = await keyring.authenticate(secret)
    monkeypatch.setattr(keys_module, "_PATIENCE_S", 0.02)
    db.open.clear()
    assert await keyring.authenticate(secret) == found
    with pytest.raises(Unavailable):
        await keyring.authenticate("tk-unknown")
    db.open.set()


async def test_simultaneous_requests_share_one_query(keyring: Keyring, db: FailingDatabase) -> None:
    _, secret = keyring.create("ada")
    before = db.transactions
    found = await asyncio.gather(*(keyring.authenticate(secret) for _ in range(20)))
    assert len(set(found)) == 1
    assert db.transactions == before + 1


async def test_a_client_that_leaves_takes_nobody_with_it(keyring: Keyring, db: FailingDatabase) -> None:
    _, secret = keyring.create("ada")
    db.open.clear()
    first = asyncio.create_task(keyring.authenticate(secret))
    second = asyncio.create_task(keyring.authenticate(secret))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    db.open.set()
    assert (await second).name == "ada"
    assert first.cancelled()


async def test_hammering_with_a_wrong_key_costs_one_query_a_second(
    keyring: Keyring, db: FailingDatabase, ticking: StoppedClock
) -> None:
    for _ in range(100):
        with pytest.raises(Unauthenticated):
            await keyring.authenticate("tk-wrong")
    assert db.transactions == 1
    ticking.now_s += 1.1
    with pytest.raises(Unauthenticated):
        await keyring.authenticate("tk-wrong")
    assert db.transactions == 2


async def test_caches_are_bounded(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_MAX_KNOWN", 3)
    monkeypatch.setattr(keys_module, "_MAX_UNKNOWN", 2)
    secrets = [keyring.create(f"n{number}").secret for number in range(5)]
    for secret in secrets:
        await keyring.authenticate(secret)
        with pytest.raises(Unauthenticated):
            await keyring.authenticate(f"{secret}x")
    assert len(keyring._known) == 3
    assert len(keyring._unknown) == 2
    assert list(map(bool, map(keyring.cached, secrets))) == [False, False, True, True, True]


async def test_two_processes_cannot_make_the_same_name(keyring: Keyring, db: Database) -> None:
    other = Keyring(db, cache_s=CACHE_S, grace_s=GRACE_S)
    made = await asyncio.gather(
        *(asyncio.to_thread(partial(ring.create, "ada")) for ring in (keyring, other)), return_exceptions=True
    )
    assert sorted(isinstance(one, Conflict) for one in made) == [False, True]
