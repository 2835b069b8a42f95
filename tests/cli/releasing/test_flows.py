"""`tandem flows`: what it begins, shows, ends and retries, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tandem.cli.app import app
from tandem.flows import executor_role
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.server import House
from tests.history import opened
from tests.serving import pulled, released, tiny_model

RECIPE = Path(__file__).parent.parent.parent.parent / "recipes" / "code-fim-tiny.toml"


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A home in which tiny@1 is released, and tiny@2 is not."""
    monkeypatch.setenv("TANDEM_HOME", str(settings.home))
    house = opened(settings, migrated_sqlite)
    released(house, pulled(house, "tiny", tiny_model(settings.home)))
    pulled(house, "tiny", tiny_model(settings.home, context_length=528))
    yield house
    house.flows.close()
    house.db.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def begun(*words: str) -> str:
    """The id of a flow that is left to others."""
    return run("flows", "start", *words, "--detach", "--quiet").stdout.strip()


def test_a_flow_without_a_server_is_executed_by_the_command(house: House) -> None:
    done = run("flows", "start", "deploy", "tiny@1", "--name", "chat", "--parallel", "2")
    assert done.exit_code == 0
    assert "deploy: succeeded" in done.stdout
    deployment = house.deployments.get("chat")
    assert (deployment.version, deployment.options.parallel) == ("tiny@1", 2)


def test_a_flow_that_waits_says_for_whom_and_what_is_next(house: House) -> None:
    waiting = run("flows", "start", "release", "tiny@2")
    assert waiting.exit_code == 0, "to wait is no failure"
    [flow] = json.loads(run("flows", "list", "--json").stdout)
    assert (flow["state"], flow["why"]) == ("waiting", "waits for a signature of tests")
    assert f"Next: tandem release sign tiny@2, then tandem flows follow {flow['id']}" in waiting.stdout
    listed = run("flows", "list").stdout
    for words in (flow["id"][:21], "release", "waiting", "signatures"):
        assert words in listed
    assert run("flows", "list", "--state", "waiting", "--quiet").stdout == f"{flow['id']}\n"
    assert run("flows", "list", "--state", "failed").stdout.startswith("No flows.")
    run("release", "sign", "tiny@2")
    assert "release: succeeded" in run("flows", "follow", flow["id"][:20]).stdout
    shown = json.loads(run("flows", "show", flow["id"], "--json").stdout)
    assert [(step["name"], step["state"]) for step in shown["steps"]] == [("request", "done"), ("signatures", "done")]
    assert shown["facts"]["version"] == "tiny@2"


def test_a_flow_that_is_left_is_cancelled_and_retried(house: House) -> None:
    flow = begun("deploy", "tiny@1", "--name", "chat")
    assert run("flows", "show", flow, "--quiet").stdout == "queued\n"
    assert f"{flow} is cancelled." in run("flows", "cancel", flow).stdout
    with pytest.raises(Conflict, match="is cancelled"):
        run("flows", "cancel", flow)
    again = run("flows", "retry", flow, "--json")
    assert (json.loads(again.stdout)["state"], json.loads(again.stdout)["tries"]) == ("succeeded", 2)
    with pytest.raises(Conflict, match="is succeeded"):
        run("flows", "retry", flow)


def test_a_flow_that_fails_says_why(house: House) -> None:
    failed = run("flows", "start", "deploy", "tiny@2", "--name", "chat")
    assert failed.exit_code == 1
    assert "may not be served" in failed.stdout
    assert "Next: tandem flows retry" in failed.stdout


def test_a_command_leaves_the_flow_to_the_executor_that_is_there(house: House) -> None:
    with executor_role(house.settings):
        flow = begun("release", "tiny@1")
        assert json.loads(run("flows", "show", flow, "--json").stdout)["why"] == "begins soon"


def test_a_recipe_is_read_with_its_changes(house: House) -> None:
    words = ("--name", "code", "--set", "budget.steps=7", "--workers", "2", "--canary", "5,50", "--hold", "9")
    order = json.loads(run("flows", "show", begun("ship", str(RECIPE), *words), "--json").stdout)["order"]
    assert order["recipe"]["budget"] == {"steps": 7}
    assert order["placement"]["workers"] == 2
    assert (order["plan"]["steps"], order["plan"]["hold_s"]) == ([5, 50, 100], 9)
    assert "options" not in order


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fly", "tiny"), "no story 'fly'"),
        (("release", "tiny", "--name", "chat"), "release has no use for name"),
        (("ship", "tiny"), "ship needs name"),
        (("deploy", "tiny", "-n", "chat", "--canary", "a,b"), "The steps are 'a,b'"),
        (("deploy", "tiny", "-n", "chat", "--engine", "abacus"), "There is no engine 'abacus'"),
        (("train", "missing.toml"), "Cannot read the recipe"),
    ],
)
def test_what_cannot_be_meant_is_refused(house: House, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        run("flows", "start", *words)
    with pytest.raises(NotFound, match="no flow 'flow_1'"):
        run("flows", "show", "flow_1")
