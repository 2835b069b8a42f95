"""`tandem charter`: from the first revision to a change that two machines sign."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tandem.cli.app import app
from tandem.kit.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tandem.kit.signing import new_key, public_text

TIGHTER = ('metric = "edit_similarity"\ndrop_at_most = 0.02', 'metric = "edit_similarity"\ndrop_at_most = 0.01')
LOOSER = ('metric = "edit_similarity"\ndrop_at_most = 0.02', 'metric = "edit_similarity"\ndrop_at_most = 0.5')

Run = Callable[..., Result]


@pytest.fixture
def machine(migrated_sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Run]:
    """Runs commands on a machine of this name; each has a home of its own."""

    def of(name: str) -> Run:
        home = tmp_path / name
        if not home.exists():
            home.mkdir()
            (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())

        def run(*words: str) -> Result:
            monkeypatch.setenv("TANDEM_HOME", str(home))
            return CliRunner().invoke(app, list(words), catch_exceptions=False)

        return run

    return of


@pytest.fixture
def run(machine: Callable[[str], Run]) -> Run:
    return machine("home")


def changed(run: Run, folder: Path, change: tuple[str, str]) -> str:
    """A file with the current charter and one change."""
    text = run("charter", "show", "--toml").stdout
    assert change[0] in text
    path = folder / "changed.toml"
    path.write_text(text.replace(*change))
    return str(path)


def test_solo(run: Run) -> None:
    assert "Revision 1 of the charter holds." in run("charter", "init", "--solo").stdout
    told = json.loads(run("charter", "show", "--json").stdout)
    assert (told["name"], told["revision"], told["mode"], told["needs"]) == ("ours", 1, "solo", ["lab", "platform"])
    assert told["pending"] is None
    assert run("charter", "show", "--quiet").stdout == f"{told['digest']}\n"
    shown = run("charter", "show").stdout
    for words in ("ours, revision 1, solo", "A release needs lab and platform.", "edit_similarity_gain", "run:*"):
        assert words in shown
    keys = re.findall(r'^key = "(.+)"$', told["text"], flags=re.MULTILINE)
    assert len(set(keys)) == 2
    assert all(key in re.sub(r"\s", "", shown) for key in keys), "whole, so that they can be compared"
    with pytest.raises(Conflict, match="There is a charter already"):
        run("charter", "init", "--solo")


def test_a_charter_has_parties(run: Run) -> None:
    with pytest.raises(InvalidRequest, match="A charter has parties"):
        run("charter", "init")
    for wrong in ("lab", "lab=", "=ada", "lab=a b", "lab=ada:ed25519:x"):
        with pytest.raises(InvalidRequest):
            run("charter", "init", "--party", wrong, "--party", "platform=bob")
    with pytest.raises(InvalidRequest, match="has two parties"):
        run("charter", "init", "--party", "lab=ada")


def test_two_parties_on_one_machine(run: Run, tmp_path: Path) -> None:
    run("charter", "init", "--name", "pact", "--party", "lab=ada", "--party", "lab=anna", "--party", "platform=bob")
    path = changed(run, tmp_path, LOOSER)
    checked = run("charter", "check", path).stdout
    assert "It needs the signatures of all parties" in checked
    assert "- code: quality-code edit_similarity at most 0.02 under the release's is gone or weaker" in checked
    assert json.loads(run("charter", "check", path, "--json").stdout)["alone"] == []
    with pytest.raises(InvalidRequest, match="The keys of ada and anna and bob are on this machine"):
        run("charter", "change", path)
    waiting = run("charter", "change", path, "--as", "ada").stdout
    assert "Revision 2 of the charter waits for platform." in waiting
    assert "is gone or weaker" in waiting
    assert json.loads(run("charter", "show", "--json").stdout)["pending"]["missing"] == ["platform"]
    assert "Revision 2 waits for platform." in run("charter", "show").stdout
    assert "waits for platform" in run("charter", "sign", "--as", "anna").stdout
    assert "Revision 2 of the charter holds." in run("charter", "sign", "--as", "bob").stdout
    assert json.loads(run("charter", "show", "--json").stdout)["revision"] == 2
    assert json.loads(run("charter", "show", "--revision", "1", "--json").stdout)["revision"] == 1
    with pytest.raises(NotFound, match="no revision 3"):
        run("charter", "show", "--revision", "3")


def test_a_party_alone_tightens(run: Run, tmp_path: Path) -> None:
    run("charter", "init", "--party", "lab=ada", "--party", "platform=bob")
    path = changed(run, tmp_path, TIGHTER)
    assert "It only tightens: lab or platform may make this change alone." in run("charter", "check", path).stdout
    assert run("charter", "check", path, "--quiet").stdout == "lab\nplatform\n"
    assert "Revision 2 of the charter holds." in run("charter", "change", path, "--as", "bob").stdout


def test_returns_need_both_parties_and_are_shown(run: Run, tmp_path: Path) -> None:
    run("charter", "init", "--party", "lab=ada", "--party", "platform=bob")
    added = '[[returns]]\nparty = "lab"\ninvested_usd = 1_500_000\ncap = 20\n\n[systems]'
    path = changed(run, tmp_path, ("[systems]", added))
    checked = run("charter", "check", path).stdout
    assert "- lab counts as having invested 1,500,000.00 USD" in checked
    assert "- lab may get back 20 times what it invested" in checked
    assert "waits for platform" in run("charter", "change", path, "--as", "ada").stdout
    assert "Revision 2 of the charter holds." in run("charter", "sign", "--as", "bob").stdout
    assert "lab invested 1,500,000.00 USD and gets back at most 20 times that." in run("charter", "show").stdout


def test_a_change_is_dropped(run: Run, tmp_path: Path) -> None:
    run("charter", "init", "--party", "lab=ada", "--party", "platform=bob")
    run("charter", "change", changed(run, tmp_path, LOOSER), "--as", "ada")
    assert "Revision 2 waits no more." in run("charter", "drop").stdout
    for command in ("drop", "sign"):
        with pytest.raises(NotFound, match="No change of the charter waits"):
            run("charter", command)


def test_two_machines(machine: Callable[[str], Run], tmp_path: Path) -> None:
    lab, platform, file = machine("lab"), machine("platform"), str(tmp_path / "charter.json")
    bob = platform("charter", "key", "bob", "--quiet").stdout.strip()
    assert platform("charter", "key", "bob", "--quiet").stdout.strip() == bob
    first = lab("charter", "init", "--party", "lab=ada", "--party", f"platform=bob:{bob}").stdout
    assert "Revision 1 of the charter waits for platform." in first
    assert "waits for platform" in lab("charter", "show").stdout
    with pytest.raises(Conflict, match="waits for signatures already"):
        lab("charter", "init", "--solo")
    lab("charter", "export", file)
    assert "waits for platform" in platform("charter", "import", file).stdout
    assert "holds" in platform("charter", "sign").stdout
    platform("charter", "export", file)
    assert "holds" in lab("charter", "import", file).stdout
    assert "It is all here already." in lab("charter", "import", file).stdout
    assert lab("charter", "show", "--quiet").stdout == platform("charter", "show", "--quiet").stdout


def test_a_stranger_signs_nothing(machine: Callable[[str], Run], run: Run, tmp_path: Path) -> None:
    run("charter", "init", "--party", "lab=ada", "--party", f"platform=bob:{public_text(new_key())}")
    run("charter", "key", "eve")
    with pytest.raises(Forbidden, match="The key of eve on this machine may not amend"):
        run("charter", "sign", "--as", "eve")
    with pytest.raises(NotFound, match="The key of bob is not on this machine"):
        run("charter", "sign", "--as", "bob")


def test_files_that_are_none(run: Run, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no charter yet"):
        run("charter", "show")
    with pytest.raises(NotFound, match="no charter yet"):
        run("charter", "export", str(tmp_path / "x.json"))
    run("charter", "init", "--solo")
    with pytest.raises(InvalidRequest, match=r"Cannot read .*nothing\.toml"):
        run("charter", "check", str(tmp_path / "nothing.toml"))
    path = tmp_path / "wrong.toml"
    path.write_bytes(b"\xff")
    for command in ("check", "change"):
        with pytest.raises(InvalidRequest, match="is no text"):
            run("charter", command, str(path))
    path.write_text('name = "ours"\n')
    with pytest.raises(InvalidRequest, match=r"wrong\.toml is wrong at"):
        run("charter", "change", str(path))
    with pytest.raises(InvalidRequest, match="no bundle"):
        run("charter", "import", str(path))


def test_the_passphrase_is_shown_nowhere(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TANDEM_SIGNING_PASSPHRASE", "open-sesame")
    run("charter", "init", "--solo")
    said = [run("charter", *words).output for words in (("show",), ("show", "--json"), ("key", "lab"))]
    assert "open-sesame" not in "".join(said)
    assert all(b"ENCRYPTED" in path.read_bytes() for path in tmp_path.glob("home/keys/*.pem"))
    monkeypatch.setenv("TANDEM_SIGNING_PASSPHRASE", "wrong")
    path = changed(run, tmp_path, TIGHTER)
    with pytest.raises(InvalidRequest, match="cannot be opened") as caught:
        run("charter", "change", path)
    assert "wrong" not in str(caught.value)
