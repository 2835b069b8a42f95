"""Every command: its help, its result for programs and for scripts, and its exit status."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import tandem
from docs.generate import command_names
from tandem.cli.app import app
from tandem.cli.deploy import running_server
from tandem.kit.config import Settings
from tests.faults.program import Home, Prepared

COMMANDS = sorted(command_names(get_command(app), "tandem"))
_GROUPED = ["charter", "evals", "flows", "keys", "models", "registry", "release", "rollout", "runs"]
GROUPS = {"tandem", *(f"tandem {name}" for name in _GROUPED)}

# What changes nothing: the words, and what `--quiet` prints of the prepared home.
LOOKING = {
    "status": "quick not running\nslow not running\n",
    "usage": "",
    "models list": "quick@1\nslow@1\n",
    "models show quick": "quick@1\n",
    "runs list": "",
    "keys list": "app\nboss\n",
    "version": f"{tandem.__version__}\n",
    "doctor": "",
}


@pytest.mark.parametrize("words", LOOKING)
def test_a_command_that_looks_has_three_forms(prepared: Prepared, words: str) -> None:
    told, typed, bare = (prepared.home.run(*words.split(), *form).stdout for form in ((), ("--json",), ("--quiet",)))
    assert told.strip()
    assert isinstance(json.loads(typed), list | dict)
    assert bare == LOOKING[words]


def test_commands_that_change_something_answer_in_json(tandem: Home) -> None:
    bound = tandem.json("deploy", "more", "--model", "quick@1", "--context", "256")
    assert (bound["name"], bound["version"], bound["options"]["context_tokens"]) == ("more", "quick@1", 256)
    assert tandem.json("undeploy", "more") == {"name": "more", "removed": True}
    made = tandem.json("keys", "create", "--name", "third", "--rpm", "5")
    assert made["key"].startswith("tk-")
    assert made["requests_per_minute"] == 5
    revoked = tandem.json("keys", "revoke", "third")
    assert revoked["id"] == made["id"]
    assert revoked["revoked_at"]


def test_a_pull_answers_in_json(tandem: Home, prepared: Prepared) -> None:
    again = tandem.json("models", "pull", f"file:{prepared.home.folder.parent / 'quick.gguf'}")
    assert again["ref"] == "quick@1", "the same bytes are the same version"


def test_up_says_its_url_in_json(tandem: Home) -> None:
    server = tandem.start("up", "--json")
    try:
        assert server.process.stdout is not None
        lines = [server.process.stdout.readline() for _ in range(3)]
        assert json.loads("".join(lines))["url"].startswith("http://127.0.0.1:")
        assert server.stop() == 0
    finally:
        server.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_is_for(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split()[1:], "--help"])
    assert result.exit_code == 0
    assert f"Usage: {command}" in result.stdout.replace("Usage: root", "Usage: tandem")
    if command not in GROUPS | {"tandem demo", "tandem flows work"}:
        assert "--json" in result.stdout
        assert "--quiet" in result.stdout


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("nonsense", 2),
        ("up --port many", 2),
        ("keys create", 2),
        ("deploy", 2),
        ("up --port 70000", 1),
        ("usage --since yesterday --json", 1),
        ("models show nothing --json", 1),
    ],
)
def test_exit_status_and_streams_of_a_failure(prepared: Prepared, words: str, status: int) -> None:
    done = prepared.home.run(*words.split(), status=status)
    assert done.stdout == "", "a program that reads the result reads nothing"
    assert "Error: " in done.stderr


def test_a_server_that_was_killed_is_not_reported_as_running(tandem: Home) -> None:
    server = tandem.start()
    try:
        server.wait_until_ready()
        assert {found["state"] for found in tandem.json("status")["deployments"]} == {"ready"}
    finally:
        server.close()
    assert (tandem.folder / "server.json").exists(), "it could not clean up"
    status = tandem.json("status")
    assert status["url"] is None
    assert {found["state"] for found in status["deployments"]} == {"pending"}
    assert tandem.json("deploy", "quick", "--context", "256")["state"] == "pending", "and is not waited for"


@contextmanager
def somebody_else() -> Iterator[str]:
    """Another program that answers everything with 200."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answering) as other:
        thread = Thread(target=other.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{other.server_port}"
        finally:
            other.shutdown()
            thread.join()


def noted(settings: Settings, url: str, pid: int) -> Path:
    path = settings.home / "server.json"
    path.write_text(json.dumps({"url": url, "pid": pid}))
    return path


def test_another_program_on_the_port_of_a_killed_server_is_not_taken_for_it(settings: Settings) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with somebody_else() as url:
        noted(settings, url, gone.pid)
        assert running_server(settings) is None
        noted(settings, url, 1)
        assert running_server(settings) == url


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 7}', '{"url": "http://127.0.0.1:1", "pid": "x"}', "null"])
def test_a_torn_note_means_that_no_server_runs(settings: Settings, text: str) -> None:
    (settings.home / "server.json").write_text(text)
    assert running_server(settings) is None
