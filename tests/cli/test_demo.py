"""`tandem demo`: a trained model, an answer through both official clients, and nothing left after Ctrl-C."""

import os
import select
import time
from pathlib import Path

import pytest

from tests.faults.program import PATIENCE_S, Home, Server
from tests.serving import wait_until

pytestmark = [pytest.mark.starter, pytest.mark.timeout(700)]

# Two downloads of about 90 MB each, on a slow line.
DOWNLOAD_S = 600


@pytest.fixture(scope="module")
def starter_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that keeps its downloads: the one that TANDEM_TEST_STARTER_HOME names, or a new one."""
    kept = os.environ.get("TANDEM_TEST_STARTER_HOME")
    return Home(folder=Path(kept) if kept else tmp_path_factory.mktemp("starter") / "home")


def read_until(server: Server, word: str) -> str:
    """What it prints until a word is there."""
    assert server.process.stdout is not None
    text = ""
    stop_s = time.monotonic() + DOWNLOAD_S
    while word not in text:
        assert server.process.poll() is None, text + server.said()
        assert time.monotonic() < stop_s, text + server.said()
        if select.select([server.process.stdout], [], [], 1)[0]:
            text += os.read(server.process.stdout.fileno(), 65536).decode()
    return text


def test_it_asks_both_clients_and_stops_clean(starter_home: Home) -> None:
    server = starter_home.start("demo", "--steps", "3")
    try:
        said = read_until(server, "Ctrl-C stops it.")
        lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
        assert "Paris" in lines["OpenAI"]
        assert "Paris" in lines["AzureOpenAI"]
        assert "384 numbers" in lines["embeddings"]
        assert "fills a gap with" in lines["coder"]
        assert "tk-" in said
        assert f"curl {starter_home.json('status')['url']}" in said
        server.interrupt_group()
        assert server.process.wait(PATIENCE_S) == 0
        assert "no process is left behind" in server.said()
        assert "Traceback" not in server.said()
        wait_until(lambda: not starter_home.processes())
    finally:
        server.close()


def test_ctrl_c_while_it_starts_leaves_nothing(starter_home: Home) -> None:
    server = starter_home.start("demo", "--steps", "3")
    try:
        wait_until(lambda: "[4/5]" in server.said(), seconds=DOWNLOAD_S)
        wait_until(starter_home.engines)
        server.interrupt_group()
        assert server.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in server.said()
        wait_until(lambda: not starter_home.processes())
    finally:
        server.close()
