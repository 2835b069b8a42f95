"""`tandem demo`: the whole loop, answers through both official clients, and nothing left after Ctrl-C."""

import codecs
import os
import select
import time
from pathlib import Path

import pytest

from tandem.evals import add_suite, find_suite
from tandem.kit.config import load_settings
from tandem.registry import first_charter
from tandem.server import House
from tests.faults.program import PATIENCE_S, Home, Server
from tests.serving import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.starter, pytest.mark.timeout(700)]

# Two downloads of about 90 MB each, on a slow line.
DOWNLOAD_S = 600
# What three models of a few steps can meet, asked of four gaps.
RULES = """[[classes]]
name = "tiny-code"
versions = ["coder"]

[[classes.clauses]]
suite = "few"
metric = "edit_similarity"
drop_at_most = 1

"""


@pytest.fixture(scope="module")
def starter_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that keeps its downloads: the one that TANDEM_TEST_STARTER_HOME names, or a new one."""
    kept = os.environ.get("TANDEM_TEST_STARTER_HOME")
    home = Home(folder=Path(kept) if kept else tmp_path_factory.mktemp("starter") / "home")
    house = House.open(load_settings({}, home=home.folder))
    if house.charters.chain().current is None:
        add_suite(home.folder, "few", kind="code", about="", cases=find_suite("quality-code", home.folder).cases[:4])
        public = house.members.make("ada")
        head, first, rest = first_charter("tests", {"tests": {"ada": public}}, solo=True).partition("[[classes]]")
        house.charters.propose(head + RULES + first + rest, [house.members.key("ada")])
    house.db.close()
    return home


def read_until(server: Server, word: str) -> str:
    """What it prints until a word is there."""
    assert server.process.stdout is not None
    text, decoder = "", codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
    stop_s = time.monotonic() + DOWNLOAD_S
    while word not in text:
        assert server.process.poll() is None, text + server.said()
        assert time.monotonic() < stop_s, text + server.said()
        if select.select([server.process.stdout], [], [], 1)[0]:
            text += decoder.decode(os.read(server.process.stdout.fileno(), 65536))
    return text


def test_it_goes_through_the_loop_and_stops_clean(starter_home: Home) -> None:
    server = starter_home.start("demo", "--steps", "6")
    try:
        said = read_until(server, "Ctrl-C stops it.")
        lines = {line.split("  ")[1]: line for line in said.splitlines() if line.startswith("  ")}
        for client in ("OpenAI", "AzureOpenAI"):
            assert "Paris" in lines[f"starter, {client}"]
            assert "fills a gap with" in lines[f"coder, {client}"]
        assert "384 numbers" in lines["encoder"]
        assert "came from:\n└─ answered by deployment coder" in said
        assert "learns from dataset" in said
        assert "tk-" in said
        assert f"curl {starter_home.json('status')['url']}" in said
        assert "This home has a charter, tests revision 1; it holds." in server.said()
        assert "The gate lets it through: coder@3" in server.said()
        assert "Signed by ada of tests; one person holds all keys" in server.said()
        assert "coder@3 is what it serves now" in server.said()
        assert "none failed" in server.said()
        assert starter_home.deployment("coder")["version"] == "coder@3"
        assert b"<svg" in (starter_home.folder / "demo-lineage.html").read_bytes()
        server.interrupt_group()
        assert server.process.wait(PATIENCE_S) == 0
        assert "no process is left behind" in server.said()
        assert "Traceback" not in server.said()
        wait_until(lambda: not starter_home.processes())
    finally:
        server.close()


def test_run_again_it_does_nothing_twice_and_ctrl_c_leaves_nothing(starter_home: Home) -> None:
    known = starter_home.json("models", "list")
    server = starter_home.start("demo", "--steps", "6")
    try:
        before = len(server.said())
        wait_until(lambda: "[6/8]" in server.said()[before:], seconds=DOWNLOAD_S)
        wait_until(starter_home.engines)
        server.interrupt_group()
        assert server.process.wait(PATIENCE_S) == 0
        said = server.said()[before:]
        assert [f"coder@{number} is released already" in said for number in (1, 2, 3)] == [True] * 3
        assert "Clients call it `coder`; now that is coder@3." in said
        assert "Traceback" not in said
        wait_until(lambda: not starter_home.processes())
        assert starter_home.json("models", "list") == known
        assert starter_home.deployment("coder")["version"] == "coder@3"
    finally:
        server.close()
