"""A throw-away PostgreSQL server for one test session, on a Unix socket in a folder of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

# Nothing here outlives the tests, so nothing needs to survive a power cut; this halves the time of each test.
OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=50", "listen_addresses=")


class NoServer(Exception):
    """This machine cannot start a PostgreSQL server; the message says why."""


def server_programs() -> Path:
    """The folder of `initdb` and `postgres`, the newest version first.

    Raises:
        NoServer: PostgreSQL is not installed.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    on_path = shutil.which("initdb")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoServer("PostgreSQL is not installed; `make system-packages` installs it where it may")


@contextmanager
def running_server() -> Iterator[str]:
    """Start a server and yield its SQLAlchemy URL without a database name; stop it and remove its folder.

    Raises:
        NoServer: PostgreSQL is not installed or does not start here.
    """
    programs = server_programs()
    owner = _owner()
    # Short, because a socket's path may have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if owner:
            shutil.chown(folder, owner, owner)
        with _server_process(programs, folder, owner):
            yield f"postgresql://postgres@/{{database}}?host={folder}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner() -> str | None:
    """The server refuses to run as root; then it runs as the user that the system's package made for it."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise NoServer("PostgreSQL does not run as root, and there is no user postgres") from None


@contextmanager
def _server_process(programs: Path, folder: Path, owner: str | None) -> Iterator[None]:
    data = folder / "data"
    as_owner = {"user": owner, "group": owner, "extra_groups": []} if owner else {}
    made = subprocess.run(
        # No locale of this machine: it may name one that is not installed, and it would decide how texts are ordered.
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        **as_owner,
    )
    if made.returncode:
        raise NoServer(f"initdb failed: {made.stderr.strip()[-300:]}")
    options = [word for option in OPTIONS for word in ("-c", option)]
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, *options],
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the tests; they stop the server when they are done
            **as_owner,
        )
    try:
        _wait(server, folder, log)
        yield
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()


def _wait(server: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    deadline = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(f"host={folder} user=postgres dbname=postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise NoServer(f"PostgreSQL does not start: {log.read_text()[-300:]}")
