"""`tandem rollout`, `tandem rollback` and `tandem deploy --development`: what they do, print, and refuse."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tandem.cli.app import app
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tandem.server import House
from tests.history import opened
from tests.serving import pulled, released, tiny_model


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A home in which tiny@1 is deployed as `chat`, tiny@2 is released, and tiny@3 is not."""
    monkeypatch.setenv("TANDEM_HOME", str(settings.home))
    house = opened(settings, migrated_sqlite)
    for number in range(3):
        version = pulled(house, "tiny", tiny_model(settings.home, context_length=512 + 16 * number))
        if number < 2:
            released(house, version)
    run("deploy", "chat", "--model", "tiny@1")
    yield house
    house.db.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def start(*words: str) -> Result:
    return run("rollout", "start", "chat", "--to", "tiny@2", *words)


def test_a_rollout_begins_and_is_shown(house: House) -> None:
    plan = json.loads(start("--canary", "5,25", "--hold", "30", "--least", "9", "--json").stdout)["plan"]
    assert (plan["steps"], plan["hold_s"], plan["least"], plan["mode"]) == ([5, 25, 100], 30, 9, "canary")
    assert run("rollout", "show", "chat", "--quiet").stdout == "5 % tiny@2\n"
    shown = run("rollout", "show", "chat").stdout
    for words in ("tiny@1 -> tiny@2", ">5 %, 25 %, 100 %", "requests", "candidate"):
        assert words in shown
    assert "rollout" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)["deployments"][0]["rollout"] == "5 % tiny@2"
    assert house.rollouts.of("chat").id == run("rollout", "list", "--quiet").stdout.strip()


def test_a_rollout_is_paused_resumed_and_promoted(house: House) -> None:
    start()
    run("rollout", "pause", "chat")
    assert run("rollout", "show", "chat", "--quiet").stdout == "5 % tiny@2, paused\n"
    run("rollout", "resume", "chat")
    assert "is bound to tiny@2" in run("rollout", "promote", "chat").stdout
    assert house.deployments.get("chat").version == "tiny@2"
    assert run("rollback", "chat", "--quiet").stdout == "tiny@1\n"
    assert run("rollback", "chat", "--quiet").stdout == "tiny@2\n"


@pytest.mark.parametrize("words", [("rollback", "chat"), ("rollout", "rollback", "chat")])
def test_a_rollout_is_rolled_back_in_one_command(house: House, words: tuple[str, ...]) -> None:
    start("--shadow")
    assert run("rollout", "show", "chat", "--quiet").stdout == "tiny@2 in the shadow\n"
    assert "serves tiny@1 alone again" in run(*words).stdout
    assert house.rollouts.get("chat").reason == "Rolled back by hand."
    assert run("rollout", "show", "chat", "--quiet").stdout == "rolled back\n"


def test_what_is_refused(house: House) -> None:
    with pytest.raises(Forbidden, match="tiny@3 may not be served.*--development"):
        run("deploy", "other", "--model", "tiny@3")
    with pytest.raises(InvalidRequest, match="There is no engine 'abacus'"):
        run("deploy", "chat", "--model", "tiny@1", "--engine", "abacus")
    assert house.deployments.get("chat").engine != "abacus"
    with pytest.raises(Forbidden, match="tiny@3 may not be served"):
        run("rollout", "start", "chat", "--to", "tiny@3")
    with pytest.raises(Conflict, match="serves tiny@1 already"):
        run("rollout", "start", "chat", "--to", "tiny@1")
    with pytest.raises(InvalidRequest, match="The steps are 'five'"):
        start("--canary", "five")
    with pytest.raises(InvalidRequest, match="A shadow answers no share"):
        start("--shadow", "--canary", "5")
    with pytest.raises(InvalidRequest, match="The steps are 50, 5, 100"):
        start("--canary", "50,5")
    with pytest.raises(NotFound, match="never had another version"):
        run("rollback", "chat")
    with pytest.raises(NotFound, match="No rollout of 'chat'"):
        run("rollout", "pause", "chat")
    assert house.rollouts.rollouts() == []


def test_development_is_for_one_key(house: House) -> None:
    with pytest.raises(InvalidRequest, match="need each other"):
        run("deploy", "mine", "--model", "tiny@3", "--development")
    with pytest.raises(InvalidRequest, match="need each other"):
        run("deploy", "mine", "--model", "tiny@1", "--key", "me")
    with pytest.raises(NotFound, match="no active key 'me'"):
        run("deploy", "mine", "--model", "tiny@3", "--development", "--key", "me")
    key = house.keyring.create("me").key
    assert "for one key alone" in run("deploy", "mine", "--model", "tiny@3", "--development", "--key", "me").stdout
    assert house.deployments.get("mine").owner == key.id
    assert "(develop" in run("status").stdout
