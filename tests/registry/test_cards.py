"""Model cards: what is written as Markdown and HTML, and the limits that follow from what is known."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.blobs import Blobs
from tandem.kit.db import Database
from tandem.registry import Card, Datasets, Registry, Runs, describe
from tandem.registry.lineage.card import Bullets, Facts, Grid, Paragraph, Section, _plain
from tandem.spec import Artifact, Task
from tests.history import HOSTILE

DIGEST = f"sha256:{'7' * 64}"


def card_of(database: Database, home: Path, **facts: object) -> Card:
    """The card of an imported model of which its file says this."""
    registry = Registry(database, Blobs(f"file://{home / 'blobs'}"))
    task = Task(str(facts.pop("task", "generate")))
    artifact = Artifact(digest=DIGEST, size=1_000_000, format="gguf")
    version = registry.add("model", task=task, artifact=artifact, origin="pypi:thing==1", facts=facts)
    return describe(version, registry=registry, runs=Runs(database, home), datasets=Datasets(database, home))


def limits(card: Card) -> str:
    (section,) = [section for section in card.sections if section.title == "Limits"]
    (bullets,) = section.blocks
    assert isinstance(bullets, Bullets)
    return "\n".join(bullets.items)


@pytest.mark.parametrize(
    ("facts", "said", "not_said"),
    [
        ({"parameters": 1_000_000}, "1.0 million weights it is very small", "it is small:"),
        ({"parameters": 135_000_000}, "135.0 million weights it is small", "very small"),
        ({"parameters": 7_000_000_000}, "as fluently as what is right", "small"),
        ({"context_length": 2048}, "at most 2,048 tokens, prompt and answer together", "no context"),
        ({"chat_template": False}, "no chat template", "small"),
        ({"chat_template": True}, "What it was trained on is not recorded", "no chat template"),
        ({"license": "mit"}, "ask its origin, pypi:thing==1", "state no licence"),
        ({}, "state no licence", "licence of"),
        ({}, "no evidence of safety-core", "has been measured"),
        ({"task": "embed", "context_length": 512}, "at most 512 tokens.", "no evidence of"),
    ],
)
def test_limits_follow_from_what_is_known(
    sqlite_database: Database, home: Path, facts: dict[str, object], said: str, not_said: str
) -> None:
    told = limits(card_of(sqlite_database, home, **facts))
    assert said in told
    assert not_said not in told


def test_an_imported_model_has_no_run_to_tell_of(sqlite_database: Database, home: Path) -> None:
    card = card_of(sqlite_database, home, license="mit")
    assert [section.title for section in card.sections] == ["At a glance", "Evidence", "Releases", "Limits"]
    assert card.summary == "A model that writes text, from pypi:thing==1."
    assert "| licence | mit |" in card.markdown()


def hostile_card() -> Card:
    blocks = (
        Paragraph(HOSTILE),
        Bullets([HOSTILE, "- nested", "1. one"]),
        Facts([(HOSTILE, HOSTILE)]),
        Grid((HOSTILE, "b"), [(HOSTILE, "|")]),
    )
    return Card(HOSTILE, HOSTILE, [Section(HOSTILE, blocks)])


def test_html_is_text_and_well_formed() -> None:
    page = hostile_card().html()
    tree = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert "<script" not in page
    assert not [one for one in tree.iter() if one.tag.endswith(("}script", "}a", "}img"))]
    assert "".join(tree.itertext()).count("alert") == 10


def test_markdown_is_text() -> None:
    text = hostile_card().markdown()
    assert "<script" not in text.replace("\\<script", "")
    assert "\n- \\- nested\n- 1\\. one\n" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = {line.replace("\\|", "").count("|") for line in lines}
    assert cells == {3}, "a bar in a cell is none"


@given(st.text())
def test_text_stays_in_its_line_with_its_marks_escaped(text: str) -> None:
    shown = _plain(text)
    assert "\n" not in shown
    plain = shown.replace("\\\\", "")
    for mark in "`*_[]<>|~&":
        assert plain.count(mark) == plain.count(f"\\{mark}")


def test_a_card_of_another_version_is_another(sqlite_database: Database, home: Path) -> None:
    card = card_of(sqlite_database, home)
    assert card.title == "model@1"
    assert isinstance(card.sections[0].blocks[0], Facts)
    assert ("digest", DIGEST) in card.sections[0].blocks[0].rows
