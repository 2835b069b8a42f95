"""`tandem doctor`: it finds what is broken, names the remedy, and changes nothing."""

import hashlib
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from tandem.cli.doctor import _processor, look
from tests.faults.program import Home


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder, with a digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def test_an_empty_home_is_fine_and_stays_empty(home: Path) -> None:
    found = Home(folder=home).json("doctor")
    assert {finding["state"] for finding in found} <= {"ok", "warning"}
    assert contents(home) == {}


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "home"
    Home(folder=folder).run("doctor")
    assert not folder.parent.exists()


def test_a_whole_home_is_fine_and_stays_as_it_is(tandem: Home) -> None:
    before = contents(tandem.folder)
    found = {finding["check"]: finding for finding in tandem.json("doctor")}
    assert found["deployments"]["found"] == "2 bound, their files are whole and released"
    assert found["server"]["found"].startswith("not running")
    assert contents(tandem.folder) == before


def test_deployments_from_before_the_gate_are_told_what_they_need(tandem: Home) -> None:
    shutil.rmtree(tandem.folder / "charter")
    found = {finding["check"]: finding for finding in tandem.json("doctor", status=1)}
    assert "may not be served: There is no charter yet." in found["deployments"]["found"]
    assert "tandem charter init --solo" in found["deployments"]["remedy"]
    tandem.bare("charter", "init", "--solo", "--name", "new", "--party", "lab=bob", "--party", "platform=eve")
    found = {finding["check"]: finding for finding in tandem.json("doctor", status=1)}
    assert "tandem release request quick@1" in found["deployments"]["remedy"]
    server = tandem.start("up")
    try:
        assert server.process.stdout is not None
        said = "".join(server.process.stdout.readline() for _ in range(7))
    finally:
        server.stop()
        server.close()
    assert said.count("Not served") == 2
    assert "quick@1 may not be served" in said
    for name in ("quick", "slow"):
        tandem.bare("release", "request", f"{name}@1", "--sign")
    tandem.run("doctor")


def test_a_broken_home_has_remedies_and_exit_status_1(tandem: Home) -> None:
    (tandem.folder / "tandem.db").write_bytes(b"no database" * 1000)
    found = {finding["check"]: finding for finding in tandem.json("doctor", status=1)}
    assert found["database"]["state"] == "broken"
    assert "move it away" in found["database"]["remedy"]
    bare = tandem.run("doctor", "--quiet", status=1).stdout
    assert "database: Restore it from a copy" in bare
    people = tandem.run("doctor", status=1).stdout
    assert "broken" in people
    assert "move it away" in people


def test_a_wrong_setting_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "tandem.toml").write_text("prot = 1\n")
    monkeypatch.setenv("TANDEM_HOME", str(home))
    found = look()[-1]
    assert (found.check, found.state, found.remedy) == ("settings", "broken", "Did you mean 'port'?")


def test_a_file_in_the_place_of_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    found = {finding.check: finding for finding in look()}
    assert found["home"].state == "broken"
    assert "TANDEM_HOME" in found["home"].remedy


def test_a_taken_port_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(home))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("TANDEM_PORT", str(taken.getsockname()[1]))
        found = {finding.check: finding for finding in look()}
    assert found["server"].state == "warning"
    assert "--port" in found["server"].remedy


@pytest.mark.parametrize("host", ["::1", "nobody.invalid", ".."])
def test_any_host_can_be_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(home))
    monkeypatch.setenv("TANDEM_HOST", host)
    monkeypatch.setenv("TANDEM_PORT", "0")
    assert {finding.check: finding for finding in look()}["server"].state in {"ok", "warning"}


def test_a_missing_engine_is_a_warning_with_the_command_to_install_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(home))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    found = {finding.check: finding for finding in look()}["llama.cpp engine"]
    assert found.state == "warning"
    assert found.remedy.startswith("pip install ")


@pytest.mark.parametrize(("version", "state", "words"), [("0001", "ok", "older"), ("9999", "broken", "9999")])
def test_a_database_of_another_version_is_named_and_left_alone(
    tandem: Home, monkeypatch: pytest.MonkeyPatch, version: str, state: str, words: str
) -> None:
    path = tandem.folder / "tandem.db"
    database = sqlite3.connect(path)
    database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    database.commit()
    database.close()
    before = path.read_bytes()
    monkeypatch.setenv("TANDEM_HOME", str(tandem.folder))
    found = {finding.check: finding for finding in look()}
    assert found["database"].state == state
    assert words in found["database"].found
    assert "deployments" not in found
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("missing", "state", "found", "remedy"),
    [
        ("torch", "ok", "not set up", "pip install 'torch==2.13.0' && pip install 'tandem-platform[train]'"),
        ("tokenizers", "warning", "needs tokenizers", "pip install 'tandem-platform[train]'"),
        ("", "ok", "torch 2.13.0; ", ""),
    ],
)
def test_what_trains_is_looked_at(
    home: Path, monkeypatch: pytest.MonkeyPatch, missing: str, state: str, found: str, remedy: str
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(home))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else name)
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "2.13.0")
    finding = {finding.check: finding for finding in look()}["training"]
    assert finding.state == state
    assert found in finding.found
    assert finding.remedy.endswith(remedy)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 sse", "AVX2, no bf16: recipes in bf16 are computed in fp32"),
        ("avx2 avx512f avx512_bf16 amx_bf16", "AVX-512, bf16 with amx_bf16"),
        ("avx2 avx512f avx512_bf16", "AVX-512, bf16 with avx512_bf16"),
        ("sse", "no AVX2, which is slow, no bf16: recipes in bf16 are computed in fp32"),
    ],
)
def test_a_processor_is_read(tmp_path: Path, flags: str, expected: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t: none\n\nprocessor\t: 1\nflags\t: other\n")
    assert _processor(path) == expected


def test_an_arm_processor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert _processor(path) == "NEON, bf16 with bf16"


def test_a_processor_that_says_nothing_is_not_known(tmp_path: Path) -> None:
    assert "not known" in _processor(tmp_path / "nothing")
