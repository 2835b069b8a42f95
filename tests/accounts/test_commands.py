"""`tandem keys` and `tandem usage`, for people and for programs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tandem.cli import keys, usage
from tandem.cli.usage import parse_since
from tandem.kit import clock
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tests.accounts.test_usage import add

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(home))


def run(*words: str) -> Result:
    app = typer.Typer()
    app.add_typer(keys.app, name="keys")
    app.command("usage")(usage.usage)
    return CliRunner().invoke(app, list(words))


def done(*words: str) -> str:
    result = run(*words)
    assert result.exception is None, result.exception
    return result.stdout


def test_a_key_is_shown_once() -> None:
    secret = done("keys", "create", "--name", "ada", "--quiet").strip()
    assert secret.startswith("tk-")
    assert len(secret.split()) == 1
    for words in (("list",), ("list", "--json"), ("list", "--quiet")):
        listed = done("keys", *words)
        assert "ada" in listed
        assert secret not in listed


def test_a_key_with_limits_as_json() -> None:
    made = json.loads(
        done(
            *("keys", "create", "--name", "[bold]", "--role", "admin", "--json"),
            *("--rpm", "5", "--tpm", "600", "--concurrency", "2"),
        )
    )
    (listed,) = json.loads(done("keys", "list", "--json"))
    assert made.pop("key").startswith(listed["prefix"][:-1])
    assert made == listed
    assert (listed["name"], listed["role"], listed["revoked_at"]) == ("[bold]", "admin", None)
    assert (listed["requests_per_minute"], listed["tokens_per_minute"], listed["concurrency"]) == (5, 600, 2)
    shown = done("keys", "list")
    assert "[bold]" in shown
    assert "5 rpm, 600 tpm, 2 at once" in " ".join(shown.split())


def test_revoking() -> None:
    done("keys", "create", "--name", "ada")
    assert "is revoked" in done("keys", "revoke", "ada")
    assert done("keys", "list", "--quiet") == ""
    assert "tandem keys create" in done("keys", "list")
    assert done("keys", "list", "--all", "--quiet") == "ada\n"
    assert f"{clock.now():%Y}" in done("keys", "list", "--all").splitlines()[1].rstrip()[-10:]
    assert isinstance(run("keys", "revoke", "ada").exception, NotFound)


def test_mistakes_are_errors_that_the_command_line_prints() -> None:
    done("keys", "create", "--name", "ada")
    assert isinstance(run("keys", "create", "--name", "ada").exception, Conflict)
    assert isinstance(run("keys", "create", "--name", "bob", "--rpm", "0").exception, InvalidRequest)
    assert isinstance(run("usage", "--since", "yesterday").exception, InvalidRequest)
    assert run("keys", "create", "--name", "bob", "--role", "king").exit_code == 2
    assert done("keys", "list", "--quiet") == "ada\n"


def test_usage_by_deployment(home: Path) -> None:
    assert json.loads(done("usage", "--json")) == []
    assert "Nothing was used" in done("usage")
    database = Database(f"sqlite:///{home / 'tandem.db'}")
    add(database, "req_1", deployment="coder", at=clock.now() - timedelta(hours=1))
    add(database, "req_2", deployment="starter", at=clock.now() - timedelta(days=3))
    database.close()
    assert done("usage", "--by", "deployment", "--quiet") == "coder\t1\t0\t10\t1\t100\n"
    rows = json.loads(done("usage", "--by", "deployment", "--since", "7d", "--json"))
    assert [row["group"] for row in rows] == ["coder", "starter"]
    assert rows[0]["completion_tokens"] == 100
    assert "all" in done("usage", "--by", "none")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
        ("999999w", datetime.min.replace(tzinfo=UTC)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T12:00:00+01:00", datetime(2026, 1, 1, 11, tzinfo=UTC)),
    ],
)
def test_since(text: str, moment: datetime) -> None:
    assert parse_since(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "7 d", "7y", "٣d", "2026-13-01"])
def test_since_refuses_what_it_does_not_understand(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_since(text, now=NOW)
    assert caught.value.param == "since"
