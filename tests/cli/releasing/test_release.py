"""`tandem release`: the gate's no, the two signatures, the end, and the way between two machines."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tandem.kit.config import load_settings
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.kit.signing import signed
from tandem.registry import sealed
from tandem.server import House
from tandem.spec import Artifact, Task, Version
from tests.cli.releasing.test_charter import Run, machine
from tests.registry.releases.conftest import proof

__all__ = ["machine"]


@pytest.fixture
def run(machine: Callable[[str], Run]) -> Run:
    """A machine with the keys of both parties."""
    run = machine("home")
    run("charter", "init", "--party", "lab=ada", "--party", "platform=bob")
    return run


def house(home: Path) -> House:
    return House.as_it_is(load_settings({}, home=home))


def made(home: Path, *, origin: str = "run:1", data: str = "a") -> Version:
    """A version that was trained here, or came from elsewhere."""
    opened = house(home)
    artifact = Artifact(digest=f"sha256:{data * 64}", size=10, format="gguf")
    version = opened.registry.add("coder", task=Task.GENERATE, artifact=artifact, origin=origin, facts={})
    opened.db.close()
    return version


def prove(home: Path, version: Version, *, gain: float = 0.2) -> None:
    """Evidence that Ada signs."""
    opened = house(home)
    key = opened.members.key("ada")
    for document in (
        proof(version, "quality-code", edit_similarity_gain=gain, edit_similarity=0.5),
        proof(version, "regression", failures=0),
    ):
        opened.evidence.add(signed(sealed(document), key))
    opened.db.close()


def lines(result: Result) -> str:
    """The words of an output, however wide its columns are."""
    return " ".join(result.stdout.split())


def test_the_gate_says_no(run: Run, tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    with pytest.raises(Conflict) as caught:
        run("release", "request", "coder")
    assert caught.value.message.count("there is no evidence of") == 3
    assert "tandem release review coder@1" in caught.value.remedy
    prove(tmp_path / "home", version, gain=-0.5)
    shown = lines(run("release", "review", "coder"))
    assert "The gate says no." in shown
    assert "compared with nothing" in shown
    assert run("release", "review", "coder", "--quiet").stdout == "not met\n"
    told = json.loads(run("release", "review", "coder", "--json").stdout)
    assert [finding["met"] for finding in told["verdict"]["findings"]] == [False, True, True]
    assert told["verdict"]["findings"][0]["number"] == -0.5
    assert told["release"] is None


def test_two_signatures(run: Run, tmp_path: Path) -> None:
    prove(tmp_path / "home", made(tmp_path / "home"))
    asked = run("release", "request", "coder").stdout
    assert "The release of coder@1 is pending." in asked
    assert "It lacks the signature of lab and platform." in asked
    with pytest.raises(InvalidRequest, match="The keys of ada and bob are on this machine"):
        run("release", "sign", "coder")
    assert "It lacks the signature of platform." in run("release", "sign", "coder", "--as", "ada").stdout
    done = run("release", "sign", "coder@1", "--as", "bob").stdout
    assert "is in force" in done
    assert "Signed by ada of lab, bob of platform." in done
    assert "Next: tandem deploy coder --model coder@1" in done
    assert run("release", "show", "coder", "--quiet").stdout == "in force\n"
    digest = run("release", "list", "--quiet").stdout.strip()
    assert json.loads(run("release", "show", digest[:20], "--json").stdout)["digest"] == digest
    shown = lines(run("release", "review", digest))
    for words in ("The gate says yes.", "is in force.", "requested by command line", "0.2 on 50"):
        assert words in shown


def test_withdrawn_and_refused(run: Run, tmp_path: Path) -> None:
    prove(tmp_path / "home", made(tmp_path / "home"))
    run("release", "request", "coder", "--sign", "--as", "ada")
    assert "bob refused it: too slow" in run("release", "refuse", "coder", "--as", "bob", "--reason", "too slow").stdout
    with pytest.raises(Conflict, match="is refused"):
        run("release", "sign", "coder", "--as", "bob")
    run("release", "request", "coder", "--sign", "--as", "ada")
    run("release", "sign", "coder", "--as", "bob")
    done = run("release", "withdraw", "coder", "--as", "ada", "--reason", "it leaks").stdout
    assert "is withdrawn" in done
    assert "ada withdrew it: it leaks." in done
    rows = json.loads(run("release", "list", "--json").stdout)
    assert [row["state"] for row in rows] == ["withdrawn", "refused"]
    assert [row["state"] for row in json.loads(run("release", "list", "--state", "refused", "--json").stdout)] == [
        "refused"
    ]
    assert run("release", "list", "--state", "pending").stdout == "No releases. Next: tandem release request REF\n"


def test_solo_signs_for_all(machine: Callable[[str], Run], tmp_path: Path) -> None:
    run = machine("home")
    run("charter", "init", "--solo")
    made(tmp_path / "home", origin="file:x.gguf")
    done = run("release", "request", "coder", "--sign").stdout
    assert "is in force" in done
    assert "Signed by lab of lab, platform of platform (solo)." in done
    assert "is withdrawn" in run("release", "withdraw", "coder", "--reason", "x").stdout


def test_two_machines(machine: Callable[[str], Run], tmp_path: Path) -> None:
    lab, platform = machine("lab"), machine("platform")
    charter, file = str(tmp_path / "charter.json"), str(tmp_path / "release.json")
    bob = platform("charter", "key", "bob", "--quiet").stdout.strip()
    lab("charter", "init", "--party", "lab=ada", "--party", f"platform=bob:{bob}")
    lab("charter", "export", charter)
    platform("charter", "import", charter)
    platform("charter", "sign")
    platform("charter", "export", charter)
    lab("charter", "import", charter)
    prove(tmp_path / "lab", made(tmp_path / "lab"))
    lab("release", "request", "coder", "--sign")
    assert "There: tandem release import release.json" in lab("release", "export", "coder", file).stdout
    assert "It lacks the signature of platform." in platform("release", "import", file).stdout
    digest = platform("release", "list", "--quiet").stdout.strip()
    assert "The gate says yes." in platform("release", "review", digest).stdout
    platform("release", "sign", "coder")
    platform("release", "export", "coder", file)
    assert "is in force" in lab("release", "import", file).stdout


def test_what_is_not_there(run: Run, tmp_path: Path) -> None:
    for words in (("show", "coder"), ("sign", "coder@3"), ("request", "coder"), ("review", "coder")):
        with pytest.raises(NotFound):
            run("release", *words)
    with pytest.raises(NotFound):
        run("release", "review", "sha256:" + "0" * 64)
    with pytest.raises(InvalidRequest, match="Cannot read"):
        run("release", "import", str(tmp_path / "nothing.json"))
