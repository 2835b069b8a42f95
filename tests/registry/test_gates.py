"""The gate: each kind of clause at its edge, evidence that does not count, and what a verdict covers."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.ids import sha256_hex
from tandem.kit.signing import public_text
from tandem.registry.charter import Charter, Clause, Member, ModelClass, Party, clause_text
from tandem.registry.gates import Finding, Verdict, covers, judge
from tandem.spec import Artifact, Evidence, Metric, Task, Version, canonical_document

MINE, THEIRS = f"sha256:{1:064}", f"sha256:{2:064}"
EDITION, OTHER_EDITION = f"sha256:{3:064}", f"sha256:{4:064}"
RULES = f"sha256:{5:064}"


def version(number: int = 2, digest: str = MINE, **changes: Any) -> Version:
    values = {"name": "coder", "task": Task.GENERATE, "origin": "run:1", **changes}
    return Version(number=number, artifact=Artifact(digest=digest, size=1, format="gguf"), **values)


def rules(*clauses: Clause, **changes: Any) -> Charter:
    keys = [public_text(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in range(2)]
    parties = tuple(
        Party(name=name, members=(Member(name=name, key=key),))
        for name, key in zip(("lab", "platform"), keys, strict=True)
    )
    classes = (ModelClass(name="code", versions=("coder",), clauses=clauses),)
    return Charter(name="ours", revision=1, parties=parties, classes=classes, **changes)


def proof(value: float = 0.5, *, low: float | None = None, high: float | None = None, **changes: Any) -> Evidence:
    samples = changes.pop("samples", 100)
    metric = Metric(
        name="score",
        value=value,
        low=value if low is None else low,
        high=value if high is None else high,
        samples=samples,
    )
    values = {
        "version": "coder@2",
        "digest": MINE,
        "suite": "quality",
        "suite_digest": EDITION,
        "metrics": (metric,),
        "answered": samples,
        "filtered": 0,
        "failed": 0,
        "transcripts": f"sha256:{6:064}",
        **changes,
    }
    return Evidence(**values)


def filed(*found: Evidence) -> Mapping[str, Evidence]:
    return {f"sha256:{sha256_hex(canonical_document(one))}": one for one in found}


def verdict(clause: Clause, *found: Evidence, current: Evidence | None = None, released: bool | None = None) -> Verdict:
    """The verdict on coder@2 with this evidence, next to coder@1 where there is evidence on it."""
    released = current is not None if released is None else released
    return judge(
        version(),
        filed(*found),
        rules(clause),
        charter_digest=RULES,
        current=version(1, THEIRS) if released else None,
        current_evidence=filed(current) if current is not None else None,
    )


def clause(**bounds: Any) -> Clause:
    return Clause(suite="quality", metric="score", **bounds)


LEAST = clause(at_least=0.5)
DROP = clause(drop_at_most=0.02)


def only(one: Verdict) -> Finding:
    [finding] = one.findings
    return finding


@pytest.mark.parametrize(
    ("one", "found", "met"),
    [
        (LEAST, proof(0.5), True),
        (LEAST, proof(0.4999), False),
        (LEAST, proof(0.5, low=0.1), True),
        (clause(at_least=0.5, of="low"), proof(0.9, low=0.5), True),
        (clause(at_least=0.5, of="low"), proof(0.9, low=0.49), False),
        (clause(at_least=0.5, of="high"), proof(0.1, high=0.5), True),
        (clause(at_most=0.5), proof(0.5), True),
        (clause(at_most=0.5), proof(0.51), False),
        (clause(at_most=0.5, of="high"), proof(0.1, high=0.51), False),
        (clause(at_most=0), proof(0), True),
        (clause(at_most=0), proof(1), False),
        (clause(at_least=0.2, at_most=0.8), proof(0.5), True),
        (clause(at_least=0.2, at_most=0.8), proof(0.1), False),
        (clause(at_least=0.2, at_most=0.8), proof(0.9), False),
        (clause(at_least=0.5, samples_at_least=100), proof(0.5, samples=100), True),
        (clause(at_least=0.5, samples_at_least=101), proof(0.9, samples=100), False),
        (clause(at_least=-1), proof(-0.5), True),
    ],
)
def test_absolute_bounds(one: Clause, found: Evidence, met: bool) -> None:
    said = verdict(one, found)
    assert (said.met, only(said).met) == (met, met)
    assert said.reasons == ([] if met else [f"{clause_text(one)}: {only(said).why}"])
    [digest] = filed(found)
    assert (only(said).evidence, only(said).suite_digest) == (digest, EDITION)
    assert (only(said).number, only(said).samples) == (found.metrics[0].value, found.metrics[0].samples)
    assert (only(said).low, only(said).high) == (found.metrics[0].low, found.metrics[0].high)


@pytest.mark.parametrize(
    ("one", "value", "release", "met"),
    [
        (DROP, 0.85, 0.87, True),  # 0.87 - 0.85 is a little more than 0.02
        (DROP, 0.8499, 0.87, False),
        (DROP, 0.9, 0.1, True),
        (clause(drop_at_most=0), 0.5, 0.5, True),
        (clause(drop_at_most=0), 0.49, 0.5, False),
        (clause(rise_at_most=0.1), 0.4, 0.3, True),
        (clause(rise_at_most=0.1), 0.41, 0.3, False),
        (clause(rise_at_most=0.1), 0.0, 0.3, True),
        (clause(at_least=0.6, drop_at_most=0.5), 0.5, 0.9, False),
        (clause(at_least=0.4, drop_at_most=0.1), 0.5, 0.9, False),
        (clause(at_least=0.4, drop_at_most=0.5), 0.5, 0.9, True),
    ],
)
def test_bounds_from_the_release(one: Clause, value: float, release: float, met: bool) -> None:
    said = verdict(one, proof(value), current=proof(release, version="coder@1", digest=THEIRS))
    assert said.met is met
    assert (only(said).release_number, said.compared_with) == (release, "coder@1")
    assert f"the release's {release:.4g}" in only(said).why


def test_without_a_release_nothing_is_worse() -> None:
    said = verdict(DROP, proof(0.0))
    assert (said.met, said.compared_with, only(said).release_number) == (True, "", None)
    assert "no release to compare with yet" in only(said).why
    assert not verdict(clause(at_least=0.5, drop_at_most=1), proof(0.0)).met, "what is absolute holds all the same"


@pytest.mark.parametrize(
    ("current", "why"),
    [
        (None, "the current release has no evidence of quality"),
        (proof(0.1, digest=THEIRS, suite="other"), "the current release has no evidence of quality"),
        (proof(0.1, digest=MINE), "the current release has no evidence of quality"),
        (proof(0.1, digest=THEIRS, suite_digest=OTHER_EDITION), "another edition of quality"),
        (proof(0.1, digest=THEIRS, metrics=()), "the current release's evidence has no score"),
    ],
)
def test_a_release_that_cannot_be_compared_with(current: Evidence | None, why: str) -> None:
    said = verdict(DROP, proof(0.9), current=current, released=True)
    assert not said.met
    assert why in only(said).why
    assert verdict(LEAST, proof(0.9), current=current, released=True).met, "no clause compares"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ((), "there is no evidence of quality"),
        ((proof(0.9, digest=THEIRS),), "there is no evidence of quality"),
        ((proof(0.9, suite="qualities"),), "there is no evidence of quality"),
        ((proof(0.9, metrics=()),), "quality did not measure score"),
    ],
)
def test_evidence_that_is_missing(found: tuple[Evidence, ...], why: str) -> None:
    said = verdict(LEAST, *found)
    assert not said.met
    assert why in only(said).why
    assert only(said).number is None


def test_the_newest_evidence_holds() -> None:
    old, new = proof(0.9, measured_at=1), proof(0.1, measured_at=2)
    assert not verdict(LEAST, old, new).met
    assert not verdict(LEAST, new, old).met
    foreign = proof(0.9, measured_at=3, digest=THEIRS)
    assert not verdict(LEAST, new, foreign).met


def test_every_clause_is_told() -> None:
    three = [LEAST, clause(at_most=0.1), Clause(suite="safety", metric="errors", at_most=0)]
    said = judge(version(), filed(proof(0.7)), rules(*three), charter_digest=RULES)
    assert [finding.clause for finding in said.findings] == [clause_text(one) for one in three]
    assert [finding.met for finding in said.findings] == [True, False, False]
    assert [reason.partition(": ")[0] for reason in said.reasons] == [clause_text(one) for one in three[1:]]
    assert (said.version, said.digest, said.charter, said.model_class) == ("coder@2", MINE, RULES, "code")


def test_a_version_without_a_class_is_refused() -> None:
    said = judge(version(name="chat"), filed(proof(1)), rules(), charter_digest=RULES)
    assert (said.met, said.model_class) == (False, "")
    assert "none fits chat@2 from run:1" in said.reasons[0]


def test_a_class_without_clauses_lets_everything_through() -> None:
    said = judge(version(), {}, rules(), charter_digest=RULES)
    assert (said.met, said.findings) == (True, ())
    assert covers(said, rules())


def test_a_verdict_covers_the_clauses_that_it_speaks_of() -> None:
    said = verdict(LEAST, proof(0.9))
    assert covers(said, rules(LEAST))
    assert not covers(said, rules(LEAST, DROP)), "a clause that it does not know"
    assert not covers(said, rules(clause(at_least=0.6))), "another threshold"
    assert covers(said, rules()), "a charter that asks for less"
    assert not covers(msgspec.structs.replace(said, model_class="other"), rules(LEAST))
    assert not covers(msgspec.structs.replace(said, met=False), rules(LEAST))
    unmet = msgspec.structs.replace(only(said), met=False)
    assert not covers(msgspec.structs.replace(said, findings=(unmet,)), rules(LEAST))
    assert not covers(msgspec.structs.replace(said, findings=()), rules(LEAST))


values = st.floats(-10, 10)


@given(values, values, values, st.sampled_from(["value", "low", "high"]))
def test_a_stricter_bound_lets_less_through(one: float, other: float, value: float, end: str) -> None:
    found = proof(value, low=value - 1, high=value + 1)
    low, high = sorted((one, other))
    if verdict(clause(at_least=high, of=end), found).met:
        assert verdict(clause(at_least=low, of=end), found).met
    if verdict(clause(at_most=low, of=end), found).met:
        assert verdict(clause(at_most=high, of=end), found).met


@given(values, values, st.floats(0, 5))
def test_drop_and_rise_mirror_each_other(value: float, release: float, allowed: float) -> None:
    dropped = verdict(
        clause(drop_at_most=allowed), proof(value), current=proof(release, digest=THEIRS, version="coder@1")
    )
    risen = verdict(
        clause(rise_at_most=allowed), proof(-value), current=proof(-release, digest=THEIRS, version="coder@1")
    )
    assert dropped.met == risen.met
    assert dropped.met or release - value > allowed
