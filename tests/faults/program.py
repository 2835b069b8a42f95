"""The real program for tests: its command line in a home of its own, its server, and all of its processes."""

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tandem.formats.tiny import TinyShape, write_tiny_gguf
from tests.serving import wait_until

TANDEM = Path(sys.executable).with_name("tandem")
# Far above what anything here takes on a busy machine; who reaches it hangs.
PATIENCE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A TANDEM_HOME and the settings that every program started in it gets."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def run(self, *words: str, status: int = 0, user: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; it must leave with `status` and without a trace."""
        done = subprocess.run(
            [TANDEM, *words],
            env=self.environment(),
            user=user,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def refused(self, *words: str, user: int | None = None) -> str:
        """Run a command that must fail; what it says."""
        return self.run(*words, status=1, user=user).stderr

    def json(self, *words: str, status: int = 0) -> Any:
        """The result of a command as JSON."""
        return json.loads(self.run(*words, "--json", status=status).stdout)

    def bare(self, *words: str) -> str:
        """The bare result of a command."""
        return self.run(*words, "--quiet").stdout.strip()

    def release(self, ref: str) -> None:
        """Have a version released, signed for all parties."""
        self.bare("release", "request", ref, "--sign")

    def start(self, *words: str, **settings: object) -> "Server":
        """`tandem up` that may not take connections yet; the caller must close it."""
        return Server(self, settings, *words)

    @contextlib.contextmanager
    def serving(self, **settings: object) -> Iterator["Server"]:
        """`tandem up` until the block ends; then it must end by itself, without a trace, and leave no process."""
        server = self.start(**settings)
        try:
            assert server.url
            yield server
            if server.process.poll() is None:
                assert server.stop() == 0, server.said()
            assert "Traceback" not in server.said(), server.said()
            wait_until(lambda: not self.processes())
        finally:
            server.close()

    def environment(self, settings: Mapping[str, object] | None = None) -> dict[str, str]:
        """The variables of a program in this home."""
        ours = {f"TANDEM_{name.upper()}": str(value) for name, value in {**self.settings, **(settings or {})}.items()}
        plain = {"NO_COLOR": "1", "COLUMNS": "1000", "TANDEM_HOME": str(self.folder), "TANDEM_PORT": "0"}
        # Unbuffered output would hide that a result waits in a buffer.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        return {**inherited, **plain, **ours}

    def processes(self) -> list[int]:
        """All living processes that were started in this home, engines too."""
        mark = f"TANDEM_HOME={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):  # it is gone, or another user's
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def engines(self) -> list[int]:
        """The living engine processes of this home."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if b"llamacpp_child.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def deployment(self, name: str) -> Any:
        """What `tandem status` says of one deployment."""
        return next(found for found in self.json("status")["deployments"] if found["name"] == name)


class Server:
    """A `tandem up` that was started; `url` waits until it takes connections."""

    def __init__(self, home: Home, settings: Mapping[str, object], *words: str) -> None:
        self._log = home.folder.with_name(f"{home.folder.name}.stderr")
        self._url = ""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [TANDEM, *(words or ("up", "--quiet"))],
                env=home.environment(settings),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                process_group=0,
            )

    @property
    def url(self) -> str:
        """The base URL, as soon as it is said."""
        stdout = self.process.stdout
        if not self._url and stdout is not None:
            assert select.select([stdout], [], [], PATIENCE_S)[0], "it says nothing"
            self._url = stdout.readline().strip()
            assert self._url.startswith("http"), f"it said {self._url!r} and {self.said()}"
        return self._url

    def wait_until_ready(self) -> None:
        """Wait until every deployment serves."""
        wait_until(lambda: _status(f"{self.url}/ready") == 200, seconds=PATIENCE_S)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal to the server process alone and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def interrupt_group(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the server and all that it started in its group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def said(self) -> str:
        """Everything on its error stream, and on that of servers before it in this home."""
        return self._log.read_text()

    def close(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


def _status(url: str) -> int:
    place = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(place.netloc, timeout=PATIENCE_S)) as connection:
        connection.request("GET", place.path)
        return connection.getresponse().status


@dataclass(frozen=True, slots=True)
class Prepared:
    """A home with two deployments, to be copied: `quick`, and `slow` with about 100 tokens a second."""

    home: Home
    key: str
    admin_key: str

    def copy(self, folder: Path, **settings: object) -> Home:
        """The same in another folder."""
        shutil.copytree(self.home.folder, folder, dirs_exist_ok=True)
        return Home(folder=folder, settings={name: str(value) for name, value in settings.items()})


@cache
def prepare(base: Path) -> Prepared:
    """Make the home with the commands that a person would use; once for each folder, since it takes seconds."""
    folder = base / "prepared"
    folder.mkdir()
    home = Home(folder=folder / "home")
    models = {
        "quick": write_tiny_gguf(folder / "quick.gguf"),
        "slow": write_tiny_gguf(folder / "slow.gguf", shape=TinyShape(layers=64), context_length=4096),
    }
    home.bare("charter", "init", "--solo")
    for name, path in models.items():
        assert home.bare("models", "pull", f"file:{path}") == f"{name}@1"
        home.release(name)
        assert home.bare("deploy", name, "--threads", "1") == name
    key = home.bare("keys", "create", "--name", "app")
    admin_key = home.bare("keys", "create", "--name", "boss", "--role", "admin")
    return Prepared(home, key, admin_key)
