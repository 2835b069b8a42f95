"""The gate: from a version, its evidence and the charter to a verdict that lists every clause; pure."""

from collections.abc import Iterator, Mapping

import msgspec

from tandem.registry.charter import Charter, Clause, ModelClass, clause_text
from tandem.spec.artifact import Artifact, Version
from tandem.spec.evidence import Evidence, Metric

# NOTE: verdicts are part of signed releases and live for ever. Fields are only added, at the end, with a default.


_ROUNDING = 1e-9  # 0.87 - 0.85 is a little more than 0.02


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One clause, the number that was found for it, and whether that is enough."""

    clause: str
    """The clause in words, its threshold included."""
    suite: str
    metric: str
    met: bool
    why: str
    """The comparison in words, or what is missing."""
    number: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    release_number: float | None = None
    """The current release's, where the clause compares with it."""
    evidence: str = ""
    """The digest of the evidence."""
    suite_digest: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says of a version. It is met if each of the findings is."""

    version: str
    digest: str
    charter: str
    """The digest of the charter that was applied."""
    model_class: str
    met: bool
    findings: tuple[Finding, ...]
    compared_with: str = ""
    """The current release, name@number."""

    @property
    def reasons(self) -> list[str]:
        """Why not, one line for each clause that is not met."""
        return [f"{finding.clause}: {finding.why}" for finding in self.findings if not finding.met]


def judge(
    version: Version,
    evidence: Mapping[str, Evidence],
    charter: Charter,
    *,
    charter_digest: str,
    current: Version | None = None,
    current_evidence: Mapping[str, Evidence] | None = None,
) -> Verdict:
    """The verdict on a version, from evidence whose signatures were checked, by digest.

    Evidence on other bytes than the version's, or on its adapter with another base, counts for nothing; of several on
    one suite the newest holds. A clause that compares with the current release is met where there is none yet, and not
    where the release was measured by another edition of the suite.
    """
    one = charter.class_of(version)
    held = newest(evidence, version.artifact)
    other = newest(current_evidence or {}, current.artifact) if current is not None else None
    findings = tuple(_findings(one, held, other))
    if one is None:
        findings = (_no_class(version),)
    return Verdict(
        version=version.ref,
        digest=version.artifact.digest,
        charter=charter_digest,
        model_class=one.name if one is not None else "",
        met=all(finding.met for finding in findings),
        findings=findings,
        compared_with=current.ref if current is not None else "",
    )


def covers(verdict: Verdict, charter: Charter) -> bool:
    """Whether a verdict says of each clause of its class that it is met, whoever wrote it."""
    one = next((one for one in charter.classes if one.name == verdict.model_class), None)
    if one is None or not verdict.met or not all(finding.met for finding in verdict.findings):
        return False
    return {clause_text(clause) for clause in one.clauses} <= {finding.clause for finding in verdict.findings}


Held = Mapping[str, tuple[str, Evidence]]
"""By suite: the digest of the newest evidence, and the evidence."""


def newest(evidence: Mapping[str, Evidence], artifact: Artifact) -> Held:
    """The evidence on these bytes, with their base, that counts, of each suite the newest."""
    found: dict[str, tuple[str, Evidence]] = {}
    for own, one in sorted(evidence.items(), key=lambda item: (item[1].measured_at, item[0])):
        if (one.digest, one.base or "") == (artifact.digest, artifact.base):
            found[one.suite] = (own, one)
    return found


def _findings(one: ModelClass | None, held: Held, current: Held | None) -> Iterator[Finding]:
    for clause in one.clauses if one is not None else ():
        yield _finding(clause, held.get(clause.suite), current)


def _finding(clause: Clause, held: tuple[str, Evidence] | None, current: Held | None) -> Finding:
    blank = Finding(clause=clause_text(clause), suite=clause.suite, metric=clause.metric, met=False, why="")
    if held is None:
        why = f"there is no evidence of {clause.suite}: `tandem evaluate` makes it"
        return msgspec.structs.replace(blank, why=why)
    digest, evidence = held
    blank = msgspec.structs.replace(blank, evidence=digest, suite_digest=evidence.suite_digest)
    metric = evidence.metric(clause.metric)
    if metric is None:
        return msgspec.structs.replace(blank, why=f"{clause.suite} did not measure {clause.metric}")
    blank = msgspec.structs.replace(
        blank, number=metric.value, low=metric.low, high=metric.high, samples=metric.samples
    )
    if metric.samples < clause.samples_at_least:
        return msgspec.structs.replace(blank, why=f"it rests on {metric.samples} cases")
    return _compared(clause, metric, blank, current)


def _compared(clause: Clause, metric: Metric, blank: Finding, current: Held | None) -> Finding:
    number = {"value": metric.value, "low": metric.low, "high": metric.high}[clause.of]
    said = []
    met = True
    for bound, enough, sign in (
        (clause.at_least, clause.at_least is None or number >= clause.at_least, "under"),
        (clause.at_most, clause.at_most is None or number <= clause.at_most, "over"),
    ):
        if bound is not None:
            met = met and enough
            said.append(f"{number:.4g} is {'not ' if enough else ''}{sign} {bound:g}")
    if clause.drop_at_most is None and clause.rise_at_most is None:
        return msgspec.structs.replace(blank, met=met, why="; ".join(said))
    if current is None:
        said.append("there is no release to compare with yet")
        return msgspec.structs.replace(blank, met=met, why="; ".join(said))
    release, missing = _release_metric(clause, blank.suite_digest, current)
    if release is None:
        return msgspec.structs.replace(blank, met=False, why="; ".join([*said, missing]))
    for allowed, worse, sign in (
        (clause.drop_at_most, release.value - metric.value, "under"),
        (clause.rise_at_most, metric.value - release.value, "over"),
    ):
        if allowed is not None:
            met = met and worse <= allowed + _ROUNDING
            by = f"{worse:.4g}" if worse > 0 else "not"
            said.append(f"{metric.value:.4g} is {by} {sign} the release's {release.value:.4g}")
    return msgspec.structs.replace(blank, met=met, why="; ".join(said), release_number=release.value)


def _release_metric(clause: Clause, suite_digest: str, current: Held) -> tuple[Metric | None, str]:
    """The current release's number, or why there is none to compare with."""
    if clause.suite not in current:
        return None, f"the current release has no evidence of {clause.suite}: evaluate it too"
    _, evidence = current[clause.suite]
    if evidence.suite_digest != suite_digest:
        return None, f"the current release was measured by another edition of {clause.suite}: evaluate it again"
    metric = evidence.metric(clause.metric)
    return metric, f"the current release's evidence has no {clause.metric}"


def _no_class(version: Version) -> Finding:
    return Finding(
        clause="a class of the charter fits",
        suite="",
        metric="",
        met=False,
        why=f"none fits {version.ref} from {version.origin}: add one to the charter",
    )
