"""The database, the same on SQLite and PostgreSQL: transactions, migrations, and what a full or missing disk does."""

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tandem.kit import db
from tandem.kit.db import Database, migrations_folder, upsert_ignore
from tandem.kit.errors import ConfigError, IntegrityError, InvalidRequest, MissingPrerequisite, StorageFull, Unavailable

notes = sa.Table(
    "notes", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text, nullable=False)
)


@pytest.fixture
def plain(empty_database_url: str) -> Iterator[Database]:
    """A database with the one table `notes`."""
    database = Database(empty_database_url)
    database.run_sync(notes.metadata.create_all)
    yield database
    database.close()


def _write(text: str, *, number: int | None = None) -> sa.Insert:
    return notes.insert().values(text=text) if number is None else notes.insert().values(id=number, text=text)


def _texts(database: Database) -> list[str]:
    return database.run_sync(lambda connection: list(connection.scalars(sa.select(notes.c.text).order_by(notes.c.id))))


def test_a_transaction_commits(plain: Database) -> None:
    with plain.transaction() as connection:
        connection.execute(_write("kept"))
    assert _texts(plain) == ["kept"]


def test_a_transaction_rolls_back_whole_on_any_exception(plain: Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(_write("one"))
        connection.execute(_write("two"))
        raise KeyError("not ours")

    with pytest.raises(KeyError):
        plain.run_sync(work)
    assert _texts(plain) == []


def test_a_broken_constraint_is_the_callers_and_rolls_back(plain: Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(_write("first", number=1))
        connection.execute(_write("second", number=1))

    with pytest.raises(sa.exc.IntegrityError):
        plain.run_sync(work)
    assert _texts(plain) == []


@pytest.mark.postgres
def test_a_value_that_the_database_cannot_hold_is_the_askers(postgres_url: str) -> None:
    """PostgreSQL knows no NUL in texts; a client's cursor may hold one."""
    database = Database(postgres_url.format(database="postgres"))
    with pytest.raises(InvalidRequest, match=r"takes no such value: .*NUL"):
        database.run_sync(lambda connection: connection.scalar(sa.select(sa.literal("a\0b"))))
    assert database.run_sync(lambda connection: connection.scalar(sa.select(sa.literal("ab")))) == "ab"
    database.close()


def test_upsert_ignore_leaves_the_old_row(plain: Database) -> None:
    def work(connection: sa.Connection) -> None:
        for text in ("first", "second"):
            connection.execute(upsert_ignore(connection, notes).values(id=1, text=text))

    plain.run_sync(work)
    assert _texts(plain) == ["first"]


@pytest.mark.anyio
async def test_run_works_on_another_thread(plain: Database) -> None:
    def work(connection: sa.Connection) -> int:
        connection.execute(_write("from a thread"))
        return threading.get_ident()

    assert await plain.run(work) != threading.get_ident()
    assert _texts(plain) == ["from a thread"]


@pytest.mark.anyio
async def test_writers_wait_for_each_other(plain: Database) -> None:
    await asyncio.gather(*(plain.run(lambda connection, n=n: connection.execute(_write(str(n)))) for n in range(40)))
    assert sorted(_texts(plain), key=int) == [str(n) for n in range(40)]


@pytest.mark.anyio
async def test_reading_then_writing_loses_no_update(plain: Database) -> None:
    """Two transactions that read first and write then must not fail, nor build on a stale row."""
    plain.run_sync(lambda connection: connection.execute(_write("0", number=1)))

    def add_one(connection: sa.Connection) -> None:
        row = sa.select(notes.c.text).where(notes.c.id == 1).with_for_update()
        count = int(connection.execute(row).scalar_one())
        connection.execute(notes.update().where(notes.c.id == 1).values(text=str(count + 1)))

    await asyncio.gather(*(plain.run(add_one) for _ in range(20)))
    assert _texts(plain) == ["20"]


def test_migrations_build_every_table_and_twice_is_once(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    database.migrate()
    first = database.run_sync(_schema)
    database.migrate()
    assert database.run_sync(_schema) == first
    declared = {table.name for table in db.metadata.sorted_tables}
    assert declared <= first.keys() - {"alembic_version"}
    database.close()


@pytest.mark.anyio
async def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    databases = [Database(empty_database_url) for _ in range(4)]
    await asyncio.gather(*(asyncio.to_thread(database.migrate) for database in databases))
    for database in databases:
        database.close()


def _schema(connection: sa.Connection) -> dict[str, list[str]]:
    inspector = sa.inspect(connection)
    return {
        name: [str(column["name"]) for column in inspector.get_columns(name)] for name in inspector.get_table_names()
    }


def test_a_database_of_a_newer_tandem_is_refused_and_left_alone(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    database.run_sync(
        lambda connection: (
            connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")),
            connection.execute(sa.text("INSERT INTO alembic_version VALUES ('9999')")),
        )
    )
    with pytest.raises(ConfigError, match="migration 9999.*Install the Tandem that wrote it"):
        database.migrate()
    assert database.run_sync(_schema) == {"alembic_version": ["version_num"]}
    database.close()


def test_a_failing_migration_changes_nothing(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(migrations_folder(), folder, ignore=shutil.ignore_patterns("versions", "__pycache__"))
    (folder / "versions").mkdir()
    for revision, parent, body in (
        ("0001", None, "op.execute('CREATE TABLE a (x INTEGER)')"),
        ("0002", "0001", "1 / 0"),
    ):
        (folder / "versions" / f"{revision}.py").write_text(
            f"from alembic import op\nrevision = {revision!r}\ndown_revision = {parent!r}\ndef upgrade():\n    {body}\n"
        )
    monkeypatch.setattr(db, "migrations_folder", lambda: folder)
    database = Database(empty_database_url)
    with pytest.raises(ZeroDivisionError):
        database.migrate()
    assert "a" not in database.run_sync(_schema)
    database.close()


def test_the_folder_of_the_embedded_database_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new/folder/tandem.db")
    database.migrate()
    database.close()
    assert (tmp_path / "new" / "folder" / "tandem.db").exists()


def test_the_embedded_database_survives_a_crash_and_keeps_its_references(sqlite_database: Database) -> None:
    def pragma(name: str) -> object:
        return sqlite_database.run_sync(lambda connection: connection.execute(sa.text(f"PRAGMA {name}")).scalar())

    assert pragma("journal_mode") == "wal"
    assert pragma("foreign_keys") == 1
    assert pragma("busy_timeout") == 10_000


def test_a_full_database_says_so_and_keeps_what_it_had(tmp_path: Path) -> None:
    """SQLite's own bound on its pages fails as a full disk does, without one."""
    database = Database(f"sqlite:///{tmp_path / 'full.db'}")
    database.run_sync(notes.metadata.create_all)
    database.run_sync(lambda connection: connection.execute(_write("kept")))

    def too_much(connection: sa.Connection) -> None:
        connection.execute(sa.text("PRAGMA max_page_count=4"))
        connection.execute(_write("x" * 1_000_000))

    with pytest.raises(StorageFull, match="Free some space"):
        database.run_sync(too_much)
    assert _texts(database) == ["kept"]
    database.close()


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 2 MB; only root can mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault
def test_a_full_disk_says_so_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk") as disk:
        database = Database(f"sqlite:///{disk / 'tandem.db'}")
        database.run_sync(notes.metadata.create_all)
        database.run_sync(lambda connection: connection.execute(_write("kept")))
        ballast = disk / "ballast"
        free = os.statvfs(disk)
        ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 64 * 1024))
        with pytest.raises(StorageFull):
            database.run_sync(lambda connection: connection.execute(_write("x" * 1_000_000)))
        assert _texts(database) == ["kept"]
        ballast.unlink()
        database.run_sync(lambda connection: connection.execute(_write("again")))
        assert _texts(database) == ["kept", "again"]
        database.close()


def test_a_database_that_is_down_is_unavailable(unused_port: int) -> None:
    database = Database(f"postgresql://nobody@127.0.0.1:{unused_port}/none")
    with pytest.raises(Unavailable, match=r"does not answer: connection.*\?\. `tandem doctor`"):
        database.run_sync(lambda connection: connection.execute(sa.text("SELECT 1")))
    database.close()


def test_a_message_about_the_database_holds_no_password(unused_port: int) -> None:
    database = Database(f"postgresql://nobody:open-sesame@127.0.0.1:{unused_port}/none")
    with pytest.raises(Unavailable) as caught:
        database.migrate()
    assert "open-sesame" not in str(caught.value)
    database.close()


@pytest.mark.postgres
def test_a_lost_connection_is_unavailable_and_the_next_one_works(postgres_url: str) -> None:
    database = Database(postgres_url.format(database="postgres"))

    def lose_it(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(Unavailable):
        database.run_sync(lose_it)
    assert database.run_sync(lambda connection: connection.execute(sa.text("SELECT 1")).scalar()) == 1
    database.close()


def test_an_embedded_database_whose_folder_is_missing_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/missing/tandem.db")
    with pytest.raises(Unavailable):
        database.run_sync(lambda connection: connection.execute(sa.text("SELECT 1")))
    database.close()


def test_a_locked_embedded_database_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.05)
    url = f"sqlite:///{tmp_path / 'locked.db'}"
    holder, other = Database(url), Database(url)
    holder.run_sync(notes.metadata.create_all)
    with holder.transaction() as connection:
        connection.execute(_write("held"))
        with pytest.raises(Unavailable, match="locked"):
            other.run_sync(lambda connection: connection.execute(_write("too late")))
    holder.close()
    other.close()


def test_a_file_that_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "tandem.db"
    path.write_text("This is a letter, and no database at all.\n" * 100)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(IntegrityError, match=r"tandem\.db is damaged: file is not a database\. Restore"):
        database.migrate()
    database.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = Database(f"sqlite:///{tmp_path}/file/tandem.db")
    with pytest.raises(ConfigError, match=r"/file cannot be made: .*`home`"):
        database.migrate()


@pytest.mark.parametrize("url", ["martian://host/db", "mysql+nodriver://host/db", "not a url"])
def test_an_unknown_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="database_url"):
        Database(url)


def test_a_missing_driver_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(db.sa, "create_engine", missing)
    with pytest.raises(MissingPrerequisite, match=r"pip install 'tandem-platform\[postgres\]'"):
        Database("postgresql://host/db")
