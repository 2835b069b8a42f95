"""`tandem lineage`, `tandem registry`, `tandem models card` and `remove`: what is printed, drawn and freed."""

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tandem.cli.app import app
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.server import House
from tests.accounts.stand_ins import principal
from tests.history import answered, dataset_of, deployed, journaled, opened, released, trained

DIGITS = "0" * 31 + "a"


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("TANDEM_HOME", str(settings.home))
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def told(house: House) -> str:
    """A home in which a released version answered; returns the id that the client saw."""
    version = trained(house)
    released(house, version)
    deployed(house, version)
    answered(house, DIGITS, version.ref, caller=principal())
    return f"chatcmpl-{DIGITS}"


def test_an_answer_is_traced_in_lines(house: House) -> None:
    seen = told(house)
    lines = run("lineage", seen).stdout.splitlines()
    assert lines[0] == f"response {seen}  (ok)"
    assert lines[2] == "came from:"
    assert lines[3] == "└─ answered by deployment code  (pending)"
    words = ("serves release", "releases version coder@1", "made by run", "executes recipe", "learns from dataset")
    places = [next(number for number, line in enumerate(lines) if word in line) for word in words]
    assert places == sorted(places)
    assert any("PSF-2.0" in line for line in lines)


def test_lineage_is_printed_for_programs_and_scripts(house: House) -> None:
    seen = told(house)
    record = json.loads(run("lineage", seen, "--json").stdout)
    keys = run("lineage", seen, "--quiet").stdout.splitlines()
    assert record["start"] == keys[0] == f"response:req_{DIGITS}"
    assert [node["key"] for node in record["nodes"]] == keys
    assert f"dataset:{dataset_of(house).digest}" in keys


def test_lineage_is_drawn(house: House, tmp_path: Path) -> None:
    seen = told(house)
    page, picture = tmp_path / "lineage.html", tmp_path / "lineage.svg"
    result = run("lineage", seen, "--html", str(page), "--svg", str(picture), "--quiet")
    assert str(page) in result.stderr
    drawn = ET.fromstring(picture.read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}g")) == len(result.stdout.splitlines())
    shown = "".join(ET.fromstring(page.read_text().removeprefix("<!DOCTYPE html>\n")).itertext())
    assert "coder@1" in shown
    assert "quality-code" in shown


@pytest.mark.parametrize(("place", "why"), [("/", "Is a directory"), ("missing/page.html", "No such file")])
def test_a_place_that_takes_no_file_is_an_error(house: House, tmp_path: Path, place: str, why: str) -> None:
    trained(house)
    for words in (("lineage", "coder", "--html"), ("models", "card", "coder", "--html")):
        with pytest.raises(InvalidRequest, match=f"Cannot write .*{Path(place).name}: {why}"):
            run(*words, str(tmp_path / place))


def test_what_is_written_goes_through_a_link(house: House, tmp_path: Path) -> None:
    trained(house)
    link, page = tmp_path / "link.html", tmp_path / "page.html"
    page.touch()
    link.symlink_to(page)
    run("lineage", "coder", "--html", str(link))
    assert link.is_symlink()
    assert "coder@1" in page.read_text()


def test_an_answer_of_a_running_gateway_is_traced(house: House) -> None:
    trained(house)
    own = journaled(house.settings.home / "journal", DIGITS, "coder@1", caller=principal())
    assert "version:coder@1" in run("lineage", own, "--quiet").stdout.splitlines()


def test_what_has_no_lineage_is_an_error(house: House) -> None:
    with pytest.raises(NotFound, match="Nothing here is called"):
        run("lineage", "nothing")


def test_a_card_is_printed_and_written(house: House, tmp_path: Path) -> None:
    trained(house, about="A model for <tests> & more.")
    assert run("models", "card", "coder").stdout.startswith("# coder@1\n\nA model for \\<tests\\> \\& more.\n")
    record = json.loads(run("models", "card", "coder", "--json").stdout)
    assert record["ref"] == "coder@1"
    path = tmp_path / "card.html"
    result = run("models", "card", "coder@1", "--html", str(path))
    assert result.stdout == f"{path}\n"
    page = ET.fromstring(path.read_text().removeprefix("<!DOCTYPE html>\n"))
    assert "A model for <tests> & more." in "".join(page.itertext())


def test_a_version_is_removed_when_nobody_needs_it(house: House) -> None:
    version = trained(house)
    deployed(house, version)
    with pytest.raises(Conflict, match="the deployment code has it"):
        run("models", "remove", "coder@1")
    house.deployments.remove("code")
    assert run("models", "remove", "coder@1", "--quiet").stdout == "coder@1\n"
    assert run("models", "list", "--quiet").stdout == ""
    path = house.registry.blobs.local(version.artifact.digest)
    os.utime(path, (1, 1))
    assert json.loads(run("registry", "collect", "--dry-run", "--json").stdout) == [
        {"kind": "blob", "name": version.artifact.digest, "size": version.artifact.size}
    ]
    assert path.exists()
    result = run("registry", "collect")
    assert version.artifact.digest[:19] in result.stdout
    assert "freed" in result.stderr
    assert not path.exists()
    assert "Nothing to collect" in run("registry", "collect").stdout


def test_what_is_young_is_left_alone(house: House) -> None:
    version = trained(house)
    house.registry.remove(version.ref)
    assert run("registry", "collect", "--quiet").stdout == ""
    assert run("registry", "collect", "--older-than", "0s", "--quiet").stdout == f"{version.artifact.digest}\n"


@pytest.mark.parametrize("span", ["", "24", "h", "-1h", "1y", "1h30m", "9999999h"])
def test_a_span_that_is_none(house: House, span: str) -> None:
    with pytest.raises(InvalidRequest, match="older-than"):
        run("registry", "collect", "--older-than", span)


def test_verifying_names_whoever_needs_what_is_damaged(house: House) -> None:
    version = trained(house)
    assert run("registry", "verify", "--quiet").exit_code == 0
    assert "all as it was" in run("registry", "verify").stdout
    house.registry.blobs.local(version.artifact.digest).write_bytes(b"changed")
    result = run("registry", "verify", "--quiet")
    assert result.exit_code == 1
    assert result.stdout == f"damaged\t{version.artifact.digest}\tversion coder@1\n"
    house.registry.blobs.delete(version.artifact.digest)
    (fault,) = json.loads(run("registry", "verify", "--json").stdout)["faults"]
    assert fault == {"what": version.artifact.digest, "state": "missing", "owners": ["version coder@1"]}
