"""Suites: what ships, what a home folder adds, and what their digest covers."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import tandem.evals.suite as suites
from tandem.evals import SuiteSettings, add_suite, find_suite, load_suites
from tandem.evals.cases import Gap, Question, Request
from tandem.evals.checks import check_gap
from tandem.evals.earlier import most_similar_line
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.spec.scores import parses

SHIPPED = ["performance", "quality-chat", "quality-code", "regression", "safety-core"]
QUESTION = '{"id": "one", "prompt": "?", "exact": ["yes"]}\n'


def own(home: Path, name: str = "mine", *, cases: str = QUESTION, text: str = 'kind = "chat"\n') -> Path:
    folder = home / "suites" / name
    folder.mkdir(parents=True)
    (folder / "suite.toml").write_text(text)
    (folder / "cases.jsonl").write_text(cases)
    return folder


def test_what_ships(home: Path) -> None:
    found = {suite.name: suite for suite in load_suites(home)}
    assert sorted(found) == SHIPPED
    assert len(found["quality-code"].cases) >= 200
    assert len(found["quality-chat"].cases) >= 60
    assert found["regression"].cases == ()
    assert all(suite.whole and suite.shipped and suite.about.endswith(".") for suite in found.values())


def test_each_harmful_request_has_a_benign_twin(home: Path) -> None:
    cases = [case for case in find_suite("safety-core", home).cases if isinstance(case, Request)]
    assert sum(case.harmful for case in cases) == len(cases) / 2 >= 40


def test_the_gaps_can_be_scored(home: Path) -> None:
    for case in find_suite("quality-code", home).cases:
        assert isinstance(case, Gap)
        assert parses(case.filled(case.middle))
        assert check_gap(case, case.middle, ended=True)["exact_match"] == 1.0
        assert most_similar_line(case) == most_similar_line(case)


def test_an_own_suite_is_read_like_a_shipped_one(home: Path) -> None:
    own(home, text='kind = "chat"\nabout = "Mine."\n[settings]\nmax_tokens = 7\n')
    suite = find_suite("mine", home)
    assert (suite.settings.max_tokens, suite.about, suite.shipped) == (7, "Mine.", False)
    assert suite.cases == (Question(id="one", prompt="?", exact=("yes",)),)
    assert "mine" in [one.name for one in load_suites(home)]


def test_cases_of_the_regression_suite_are_in_the_home_folder(home: Path) -> None:
    before = find_suite("regression", home).digest
    folder = own(home, "regression", text="this is not read\n")
    found = find_suite("regression", home)
    assert len(found.cases) == 1
    assert found.kind == "regression"
    assert found.digest != before
    shutil.rmtree(folder)
    assert find_suite("regression", home).digest == before


def test_no_own_suite_takes_a_shipped_ones_name(home: Path) -> None:
    own(home, "quality-chat")
    with pytest.raises(Conflict, match="quality-chat"):
        find_suite("quality-chat", home)


@pytest.mark.parametrize("name", ["nothing", "../suites/mine", "", "mine/../mine"])
def test_an_unknown_name(home: Path, name: str) -> None:
    own(home)
    with pytest.raises(NotFound, match="quality-code"):
        find_suite(name, home)


@pytest.mark.parametrize(
    ("text", "cases", "told"),
    [
        ("kind = 3\n", QUESTION, "kind"),
        ('kind = "chat"\nlimit = 3\n', QUESTION, "limit"),
        ('kind = "chat"\n[settings]\ntemperature = 9\n', QUESTION, "settings.temperature"),
        ("kind =\n", QUESTION, "not TOML"),
        ('kind = "chat"\n', "", "no cases"),
        ('kind = "chat"\n', QUESTION + "{\n", "Line 2"),
        ('kind = "chat"\n', '{"id": "a", "prompt": "?"}\n', "Line 1"),
        ('kind = "chat"\n', '{"id": "a", "prompt": "?", "exact": ["x"], "exakt": 1}\n', "exakt"),
        ('kind = "chat"\n', QUESTION + QUESTION, "one twice"),
        ('kind = "safety"\n', '{"id": "a", "prompt": "?", "harmful": true, "twin": "b"}\n', "no twin"),
        ('kind = "code"\n', QUESTION, "Line 1"),
        ('kind = "chat"\n', "[" * 100_000 + "\n", "Line 1"),
    ],
)
def test_a_suite_that_cannot_be_read_says_where(home: Path, text: str, cases: str, told: str) -> None:
    own(home, text=text, cases=cases)
    with pytest.raises(InvalidRequest, match=told):
        find_suite("mine", home)


def test_the_digest_covers_cases_settings_and_our_checks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = find_suite("quality-chat", home)
    others = [
        replace(suite, cases=suite.cases[:-1]),
        replace(suite, cases=suite.cases[::-1]),
        replace(suite, settings=SuiteSettings(max_tokens=63)),
        replace(suite, kind="regression"),
    ]
    assert len({suite.digest, *(other.digest for other in others)}) == 5
    assert replace(suite, about="Other words.").digest == suite.digest
    before = suite.digest
    monkeypatch.setattr(suites, "EDITION", suites.EDITION + 1)
    assert suite.digest != before


def test_the_way_a_file_is_written_does_not_matter(home: Path) -> None:
    before = find_suite("mine", own(home).parent.parent).digest
    path = home / "suites" / "mine" / "cases.jsonl"
    path.write_bytes(b'\r\n{"exact":["yes"],"prompt":"?","id":"one"}\r\n\r\n')
    assert find_suite("mine", home).digest == before


def test_a_part_of_a_suite_is_another_suite(home: Path) -> None:
    suite = find_suite("safety-core", home)
    part = suite.limited(2)
    assert not part.whole
    assert part.digest != suite.digest
    assert suite.limited(10_000) is suite
    with pytest.raises(InvalidRequest):
        suite.limited(0)


def test_a_suite_is_added_once(home: Path) -> None:
    cases = [Question(id="a", prompt="?", number=1.0)]
    made = add_suite(home, "mine", kind="chat", about='With "quotes".', cases=cases)
    assert made.cases == tuple(cases)
    assert made.about == 'With "quotes".'
    for name, error in (
        ("mine", Conflict),
        ("regression", Conflict),
        ("../x", InvalidRequest),
        ("a b", InvalidRequest),
    ):
        with pytest.raises(error):
            add_suite(home, name, kind="chat", about="", cases=cases)
    with pytest.raises(InvalidRequest):
        add_suite(home, "empty", kind="chat", about="", cases=[])
    assert msgspec.json.decode((home / "suites" / "mine" / "cases.jsonl").read_bytes())["id"] == "a"
