"""What keeps `tandem` from starting is said in a sentence with a remedy, never in a trace, and changes nothing."""

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.program import Home

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def test_a_second_server_of_the_same_home_names_the_first(tandem: Home) -> None:
    with tandem.serving() as server:
        said = tandem.refused("up")
        assert f"process {server.process.pid}" in said
        assert "TANDEM_HOME" in said
        assert tandem.json("status")["url"] == server.url, "the first one is as it was"


def test_a_taken_port_is_named(tandem: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = tandem.refused("up", "--port", str(port))
    assert f"127.0.0.1 port {port}" in said
    assert "--port 0" in said
    assert not tandem.processes()


def test_a_port_that_is_bound_and_not_listened_on_is_refused_too(tandem: Home) -> None:
    """Two servers that start at the same time must not both believe that they have it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        with tandem.serving(port=taken.getsockname()[1]), pytest.raises(OSError, match="in use"):
            taken.listen()


def file_as_home(folder: Path) -> None:
    folder.write_text("a file")


def folder_as_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "tandem.db").mkdir()


def garbage_as_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "tandem.db").write_bytes(bytes(range(256)) * 40)


def broken_settings(folder: Path) -> None:
    folder.mkdir()
    (folder / "tandem.toml").write_text("port = = 8000\n")


def misspelt_setting(folder: Path) -> None:
    folder.mkdir()
    (folder / "tandem.toml").write_text("prot = 8000\n")


def lock_that_is_a_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "up.lock").mkdir()


def journal_that_is_a_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "journal").write_text("a file")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (file_as_home, ("home", "TANDEM_HOME")),
        (folder_as_database, ("tandem.db",)),
        (garbage_as_database, ("tandem.db", "not a database", "move it away")),
        (broken_settings, ("tandem.toml", "line 1", "settings.md")),
        (misspelt_setting, ("prot", "Did you mean 'port'?")),
        (lock_that_is_a_folder, ("up.lock", "Is a directory")),
        (journal_that_is_a_file, ("journal",)),
    ],
)
def test_a_broken_home_is_named(tmp_path: Path, prepare: Callable[[Path], None], words: tuple[str, ...]) -> None:
    home = Home(folder=tmp_path / "home")
    prepare(home.folder)
    said = home.refused("up")
    for word in words:
        assert word in said
    assert said.startswith("Error: ")
    assert len(said.strip().splitlines()) == 2, "the cause, then the remedy"
    assert not home.processes()


@pytest.mark.parametrize("command", ["up", "status"])
def test_a_database_from_the_future_is_refused_unchanged(tandem: Home, command: str) -> None:
    path = tandem.folder / "tandem.db"
    database = sqlite3.connect(path)
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.commit()
    database.close()
    before = path.read_bytes()
    said = tandem.refused(command)
    assert "9999" in said
    assert "newer" in said
    assert path.read_bytes() == before


def test_a_home_that_may_not_be_written_is_refused(tandem: Home) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tandem.folder.chmod(0o500)
    said = tandem.refused("up")
    assert "cannot be written" in said
    assert "TANDEM_HOME" in said


def test_a_home_on_a_read_only_disk_is_refused(tandem: Home, tmp_path: Path) -> None:
    target = tmp_path / "frozen"
    shutil.copytree(tandem.folder, target)
    mount = ["mount", "--bind", str(target), str(target)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a read-only disk")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(target)], check=True)
        said = Home(folder=target).refused("up")
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)
    assert "cannot be written" in said
    assert "TANDEM_HOME" in said


def test_what_a_person_types_is_repeated_as_it_is(tandem: Home) -> None:
    assert "'[/]'" in tandem.refused("models", "show", "[/]")
