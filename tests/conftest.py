"""Fixtures that all tests share: settings in a temporary home, and a migrated database on SQLite and PostgreSQL."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as bounds

from tandem.kit.config import Settings, load_settings
from tandem.kit.db import Database
from tandem.kit.ids import new_id
from tests.postgres import NoServer, running_server

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"

# How long an example takes is a matter of the machine and of its other work, never of what holds. The examples are the
# same ones each time, so that a commit passes or fails for good; --hypothesis-profile=searching looks for others.
bounds.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
bounds.register_profile("same", bounds.get_profile("searching"), derandomize=True)
bounds.load_profile("same")

FreshUrl = Callable[[], AbstractContextManager[str]]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        pytest.skip("the development data folder ../shared is not here")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the program does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests, and no proxy of theirs, reaches a test."""
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    for name in list(os.environ):
        is_setting = name.startswith("TANDEM_") and not name.startswith("TANDEM_TEST_")
        if is_setting or name.lower() in proxies:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data folder; for tests marked `shared` only."""
    return SHARED


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(home: Path) -> Settings:
    """The default settings, in an empty home, on a free port."""
    return load_settings({}, home=home, port=0)


@pytest.fixture
def unused_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables: on SQLite, then on PostgreSQL where a server can be started."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        with _postgres_database(request.getfixturevalue("postgres_url"), "template0") as url:
            yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a migrated database of this test's own: on SQLite, then on PostgreSQL."""
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}")
    with fresh() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of this test's own: on SQLite, then on PostgreSQL where a server can be started."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_database(fresh_sqlite: FreshUrl) -> Iterator[Database]:
    """A migrated SQLite database, for tests of something that does not depend on which database it is."""
    with fresh_sqlite() as url:
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture
def fresh_sqlite(migrated_sqlite: Path, tmp_path: Path) -> FreshUrl:
    """Makes copies of a migrated SQLite file: a copy takes a hundredth of the migrations' time."""

    @contextmanager
    def fresh() -> Iterator[str]:
        path = tmp_path / f"{new_id('db')}.db"
        shutil.copy(migrated_sqlite, path)
        yield f"sqlite:///{path}"

    return fresh


@pytest.fixture
def fresh_postgres(migrated_postgres: str, postgres_url: str) -> FreshUrl:
    """Makes copies of a migrated PostgreSQL database."""
    return lambda: _postgres_database(postgres_url, migrated_postgres)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SQLite file that all tests copy."""
    path = tmp_path_factory.mktemp("migrated") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[str]:
    """The name of the PostgreSQL database that all tests copy."""
    with _postgres_database(postgres_url, "template0") as url:
        _migrate(url)
        yield _database_name(url)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server's URL with a place for the database: `TANDEM_TEST_POSTGRES`, or one of our own."""
    if url := os.environ.get("TANDEM_TEST_POSTGRES"):
        yield url
        return
    try:
        with running_server() as url:
            yield url
    except NoServer as error:
        pytest.skip(str(error))


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


@contextmanager
def _postgres_database(server: str, template: str) -> Iterator[str]:
    name = new_id("test")
    with psycopg.connect(server.format(database="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # both names are ours
        try:
            yield server.format(database=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _database_name(url: str) -> str:
    return url.split("?", 1)[0].rsplit("/", 1)[1]
