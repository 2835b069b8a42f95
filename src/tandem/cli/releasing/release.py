"""`tandem release`: ask the gate, look at every clause, sign, refuse, withdraw."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group, RenderableType

from tandem.cli.context import AsJson, Quiet, emit, open_house, table
from tandem.cli.releasing.charter import As, courier, hand_over, read_file
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.registry import Finding, ReleaseState, Signer, Standing, Verdict
from tandem.server import House

app = typer.Typer(help="Releases: what lets a version reach clients.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="A version, such as coder@3, or a model's name for its newest.")]
Which = Annotated[str, typer.Argument(help="A release's digest or its beginning, or a version for its newest release.")]
Reason = Annotated[str, typer.Option(help="Why; it is signed and kept.")]

_PAGE = 200  # releases read at a time
_SHORT = 19  # characters of a digest that tell it apart: `sha256:` and twelve digits


@app.command()
def request(
    ref: Ref,
    sign_it: Annotated[bool, typer.Option("--sign", help="Also sign it with the key that is here.")] = False,
    as_member: As = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Ask for a version's release; the gate says no with every clause that is not met."""
    house = open_house()
    standing = house.releases.request(ref, by=as_member or "command line")
    if sign_it:
        standing = _signed(house, standing, as_member)
    _tell(standing, as_json=as_json, quiet=quiet)


@app.command()
def review(which: Which, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show every clause with what was found: of a release, or of a version as the gate would see it now."""
    house = open_house()
    if which.startswith("sha256:"):
        standing: Standing | None = house.releases.find(which)
        verdict = standing.release.verdict if standing is not None else None
    else:
        verdict = house.releases.review(which)
        standing = _newest(house, verdict.version)
    assert verdict is not None, "each way has one"
    value = {"verdict": msgspec.to_builtins(verdict), "release": _fields(standing) if standing is not None else None}
    bare = "met" if verdict.met else "not met"
    emit(value, as_json=as_json, quiet=quiet, bare=bare, shown=_drawn(verdict, standing))


@app.command()
def sign(which: Which, as_member: As = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Sign a release; in solo mode for all parties whose keys are here."""
    house = open_house()
    _tell(_signed(house, house.releases.find(which), as_member), as_json=as_json, quiet=quiet)


@app.command()
def refuse(which: Which, reason: Reason, as_member: As = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Refuse a release that waits for signatures, for good."""
    house = open_house()
    found = house.releases.find(which)
    done = house.releases.refuse(found.digest, reason=reason, signer=_one(house, as_member))
    _tell(done, as_json=as_json, quiet=quiet)


@app.command()
def withdraw(which: Which, reason: Reason, as_member: As = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Withdraw a release, for good; any party may do it alone, and a server stops the version within seconds."""
    house = open_house()
    found = house.releases.find(which)
    done = house.releases.withdraw(found.digest, reason=reason, signer=_one(house, as_member))
    _tell(done, as_json=as_json, quiet=quiet)


@app.command("list")
def list_command(
    state: Annotated[ReleaseState | None, typer.Option(help="Only those of this state.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the releases, the newest first."""
    releases = open_house().releases
    found: list[Standing] = []
    while page := releases.page(limit=_PAGE, after=found[-1].digest if found else None, state=state):
        found += page
    rows = [
        (
            one.release.version,
            one.state.value,
            ", ".join(one.signed_by),
            _moment(one.release.requested_at),
            one.digest[:_SHORT],
            one.why,
        )
        for one in found
    ]
    emit(
        [_fields(one) for one in found],
        as_json=as_json,
        quiet=quiet,
        bare=[one.digest for one in found],
        shown=table(
            ("version", "state", "signed by", "requested", "release", "why"),
            rows,
            empty="No releases. Next: tandem release request REF",
        ),
    )


@app.command()
def show(which: Which, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show one release: its document, its signatures and its clauses."""
    standing = open_house().releases.find(which)
    drawn = _drawn(standing.release.verdict, standing)
    emit(_fields(standing), as_json=as_json, quiet=quiet, bare=standing.state.value, shown=drawn)


@app.command("export")
def export_command(
    which: Which,
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a release with its evidence for another party's machine."""
    house = open_house()
    data = courier(house).pack(house.releases.find(which).digest)
    hand_over(file, data, what="release", as_json=as_json, quiet=quiet)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A file that `tandem release export` wrote.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take a release, its evidence and its signatures from another party's machine; each is checked."""
    _tell(courier(open_house()).unpack(read_file(file)), as_json=as_json, quiet=quiet)


def _signed(house: House, standing: Standing, as_member: str | None) -> Standing:
    signers = house.members.signers(house.charters.current().charter, "sign", name=as_member)
    return house.releases.sign(standing.digest, [one.key for one in signers])


def _one(house: House, as_member: str | None) -> Signer:
    """Who decides; in solo mode the first of the keys that are here, since any party may."""
    return house.members.signers(house.charters.current().charter, "sign", name=as_member)[0]


def _newest(house: House, ref: str) -> Standing | None:
    try:
        return house.releases.find(ref)
    except (NotFound, InvalidRequest):
        return None


def _tell(standing: Standing, *, as_json: bool, quiet: bool) -> None:
    release = standing.release
    lines = [f"The release of {release.version} is {standing.state}.  {standing.digest[:_SHORT]}"]
    if standing.signed_by:
        lines.append(f"Signed by {', '.join(standing.signed_by)}{' (solo)' if release.mode == 'solo' else ''}.")
    if standing.decision is not None:
        lines.append(f"{standing.why}.")  # it begins with a name, which may be written small
    elif standing.why:
        lines.append(f"{standing.why[:1].upper()}{standing.why[1:]}.")
    if standing.state is ReleaseState.PENDING:
        lines.append(f"Next: tandem release sign {release.version}")
    if standing.state is ReleaseState.IN_FORCE:
        lines.append(f"Next: tandem deploy {release.as_version().name} --model {release.version}")
    emit(_fields(standing), as_json=as_json, quiet=quiet, bare=standing.digest, shown="\n".join(lines))


def _drawn(verdict: Verdict, standing: Standing | None) -> RenderableType:
    compared = verdict.compared_with or "nothing: there is no other release yet"
    head = [
        f"{verdict.version}  {verdict.digest}",
        f"Class {verdict.model_class or 'none'} of the charter {verdict.charter[:_SHORT]}; compared with {compared}.",
        f"The gate says {'yes' if verdict.met else 'no'}.",
    ]
    if standing is not None:
        head.append(
            f"Release {standing.digest[:_SHORT]} is {standing.state}{f': {standing.why}' * bool(standing.why)}."
        )
        head.append(f"From {standing.release.origin}, requested by {standing.release.requested_by}.")
        head += [f"It is an adapter, to be served with the base {standing.release.base}."] * bool(standing.release.base)
        head += [f"Signed by {', '.join(standing.signed_by)}."] * bool(standing.signed_by)
    rows = [
        ("yes" if one.met else "no", one.clause, _number(one), _interval(one), one.why, one.evidence[:_SHORT])
        for one in verdict.findings
    ]
    headings = ("met", "clause", "found", "95 %", "why", "evidence")
    return Group("\n".join(head), "", table(headings, rows, empty="This class has no clauses."))


def _number(finding: Finding) -> str:
    if finding.number is None:
        return ""
    return f"{finding.number:.4g} on {finding.samples}" if finding.samples else f"{finding.number:.4g}"


def _interval(finding: Finding) -> str:
    if finding.low is None or finding.high is None or finding.low == finding.high:
        return ""
    return f"{finding.low:.4g} to {finding.high:.4g}"


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"


def _fields(standing: Standing) -> dict[str, Any]:
    return {
        "digest": standing.digest,
        "state": standing.state.value,
        "why": standing.why,
        "signed_by": list(standing.signed_by),
        "missing": sorted(standing.missing),
        "decision": msgspec.to_builtins(standing.decision),
        "release": msgspec.to_builtins(standing.release),
    }
