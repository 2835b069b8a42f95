"""`tandem charter`: the rules that the parties agreed on, the keys of their members, and changes that they sign."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from tandem.cli.context import AsJson, Quiet, emit, open_house, save, table
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.kit.signing import check_public
from tandem.registry import (
    Amendment,
    Charter,
    Courier,
    Revision,
    check_name,
    clause_text,
    first_charter,
    loosened,
    parse_charter,
    succeeding,
)
from tandem.server import House

app = typer.Typer(help="The charter: what a release needs, who signs, and how that changes.", no_args_is_help=True)

As = Annotated[str | None, typer.Option("--as", help="The member whose key signs, if several are here.")]
File = Annotated[Path, typer.Argument(help="A charter as TOML, such as `tandem charter show --toml` prints.")]

_PARTIES = ("lab", "platform")


@app.command()
def init(
    solo: Annotated[bool, typer.Option("--solo", help="One person holds the keys of all parties.")] = False,
    name: Annotated[str, typer.Option(help="The charter's name.")] = "ours",
    party: Annotated[
        list[str] | None,
        typer.Option(help="PARTY=MEMBER or PARTY=MEMBER:ed25519:..., once for each member.", show_default="both"),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write revision 1. Keys that are missing are made here; a member elsewhere is named with the public key."""
    house = open_house()
    _refuse_second(house)
    if not solo and not party:
        raise InvalidRequest(
            "A charter has parties.", remedy="Give --party lab=ada --party platform=bob, or --solo for one person."
        )
    parties = _parties(house, party or [f"{one}={one}" for one in _PARTIES])
    text = first_charter(check_name(name), parties, solo=solo)
    here = set(house.members.names())
    mine = [member for members in parties.values() for member in members if member in here]
    keys = [house.members.key(member) for member in dict.fromkeys(mine)]
    _tell(house.charters.propose(text, keys), as_json=as_json, quiet=quiet)


@app.command("key")
def key_command(
    name: Annotated[str, typer.Argument(help="The member's name.")], as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Make a member's key, or show the public half of the one that is here; the private one stays in this home."""
    members = open_house().members
    known = name in members.names()
    public = members.public(name) if known else members.make(name)
    shown = f"{public}\nThis is public: the charter names it. The private half is keys/{name}.pem in the home folder."
    emit({"name": name, "key": public, "made": not known}, as_json=as_json, quiet=quiet, bare=public, shown=shown)


@app.command()
def show(
    revision: Annotated[int | None, typer.Option(help="Which one. Default: the one that holds now.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print its text, to be changed.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show the charter: parties, members, clauses, places, and the change that waits."""
    house = open_house()
    waiting = house.charters.pending()
    current = house.charters.chain().current
    if revision is None and current is None and waiting is not None:
        found = waiting.revision
    else:
        found = house.charters.current() if revision is None else house.charters.revision(revision)
    if toml:
        emit(found.text, as_json=as_json, quiet=True, bare=found.text.rstrip("\n"), shown="")
        return
    fields = {**_fields(found), "pending": _amendment_fields(waiting) if waiting is not None else None}
    emit(fields, as_json=as_json, quiet=quiet, bare=found.digest, shown=_drawn(house, found, waiting))


@app.command("check")
def check_command(file: File, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Read a changed charter and say what it loosens; changes nothing."""
    house = open_house()
    current = house.charters.chain().current
    charter = parse_charter(succeeding(_read(file), current), where=str(file))
    before = current.charter if current is not None else None
    loose = {one.name: loosened(before, charter, by=one.name) for one in before.parties} if before is not None else {}
    alone = sorted(name for name, reasons in loose.items() if not reasons)
    lines = [f"{file} is a charter; it would be revision {charter.revision}."]
    if alone:
        lines.append(f"It only tightens: {' or '.join(alone)} may make this change alone.")
    elif loose:
        reasons = set().union(*loose.values())
        lines += ["It needs the signatures of all parties, since it loosens:", *(f"- {one}" for one in sorted(reasons))]
    value = {"revision": charter.revision, "loosens": loose, "alone": alone}
    emit(value, as_json=as_json, quiet=quiet, bare=alone, shown="\n".join(lines))


@app.command()
def change(file: File, as_member: As = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Propose a changed charter and sign it; what only tightens holds at once, all else waits for the other parties."""
    house = open_house()
    current = house.charters.current()
    text = succeeding(_read(file), current)
    parse_charter(text, where=str(file))
    signers = house.members.signers(current.charter, "amend", name=as_member)
    _tell(house.charters.propose(text, [one.key for one in signers]), as_json=as_json, quiet=quiet)


@app.command()
def sign(as_member: As = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Sign the change that waits."""
    house = open_house()
    waiting = house.charters.pending()
    if waiting is None:
        raise NotFound("No change of the charter waits.", remedy="`tandem charter change FILE` proposes one.")
    current = house.charters.chain().current
    judges = current.charter if current is not None else waiting.revision.charter
    signers = house.members.signers(judges, "amend", name=as_member)
    _tell(house.charters.sign([one.key for one in signers]), as_json=as_json, quiet=quiet)


@app.command()
def drop(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Give up the change that waits."""
    dropped = open_house().charters.drop()
    digest = dropped.revision.digest
    shown = f"Revision {dropped.revision.charter.revision} waits no more."
    emit({"digest": digest, "dropped": True}, as_json=as_json, quiet=quiet, bare=digest, shown=shown)


@app.command("export")
def export_command(
    file: Annotated[Path, typer.Argument(help="The file to write.")], as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Write the charter, and the change that waits, for another party's machine."""
    house = open_house()
    hand_over(file, courier(house).pack_charter(), what="charter", as_json=as_json, quiet=quiet)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A file that `tandem charter export` wrote.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take the charter's revisions and signatures from another party's machine."""
    house = open_house()
    amendment = courier(house).unpack_charter(read_file(file))
    if amendment is None:
        current = house.charters.current()
        emit(_fields(current), as_json=as_json, quiet=quiet, bare=current.digest, shown="It is all here already.")
        return
    _tell(amendment, as_json=as_json, quiet=quiet)


def courier(house: House) -> Courier:
    """What packs and unpacks the documents of a house."""
    return Courier(house.charters, house.evidence, house.releases)


def hand_over(path: Path, data: bytes, *, what: str, as_json: bool, quiet: bool) -> None:
    """Write a file for another party's machine, and say what takes it there."""
    save(path, data)
    shown = f"{path} holds the {what}. There: tandem {what} import {path.name}"
    emit({"file": str(path), "bytes": len(data)}, as_json=as_json, quiet=quiet, bare=str(path), shown=shown)


def read_file(path: Path) -> bytes:
    """The bytes of a file that somebody named.

    Raises:
        InvalidRequest: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"Cannot read {path}: {error.strerror}.", remedy="Check the path.") from error


def _read(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The charter {path} is no text: {error}.", remedy="Save it as UTF-8.") from error


def _refuse_second(house: House) -> None:
    if house.charters.chain().current is not None:
        raise Conflict("There is a charter already.", remedy="`tandem charter change FILE` changes it.")
    if house.charters.pending() is not None:
        raise Conflict("A charter waits for signatures already.", remedy="Sign it, or drop it: `tandem charter drop`.")


def _parties(house: House, said: Sequence[str]) -> dict[str, dict[str, str]]:
    """The public keys of each party's members; keys of members without one are made."""
    wanted: dict[str, dict[str, str]] = {}
    for text in said:
        party, equals, rest = text.partition("=")
        member, _, key = rest.partition(":")
        if not equals:
            raise InvalidRequest(f"{text[:80]!r} names no member.", remedy="Write it like lab=ada.", param="party")
        wanted.setdefault(check_name(party), {})[check_name(member)] = check_public(key) if key else ""
    here = set(house.members.names())
    for members in wanted.values():
        for member, key in members.items():
            if not key:
                members[member] = house.members.public(member) if member in here else house.members.make(member)
                here.add(member)
    return wanted


def _tell(amendment: Amendment, *, as_json: bool, quiet: bool) -> None:
    number = amendment.revision.charter.revision
    lines = [f"Revision {number} of the charter holds."]
    if not amendment.holds:
        lines = [f"Revision {number} of the charter waits for {' and '.join(sorted(amendment.missing))}."]
        if amendment.loosens:
            lines += ["It loosens:", *(f"- {one}" for one in amendment.loosens)]
        lines.append("Next: `tandem charter sign`, there after `tandem charter export` here and `import` there.")
    digest = amendment.revision.digest
    emit(_amendment_fields(amendment), as_json=as_json, quiet=quiet, bare=digest, shown="\n".join(lines))


def _amendment_fields(amendment: Amendment) -> dict[str, Any]:
    return {
        **_fields(amendment.revision),
        "holds": amendment.holds,
        "missing": sorted(amendment.missing),
        "loosens": list(amendment.loosens),
    }


def _fields(revision: Revision) -> dict[str, Any]:
    charter = revision.charter
    return {
        "name": charter.name,
        "revision": charter.revision,
        "digest": revision.digest,
        "mode": charter.mode,
        "needs": sorted(charter.needs),
        "text": revision.text,
    }


def _drawn(house: House, revision: Revision, waiting: Amendment | None) -> RenderableType:
    charter = revision.charter
    chain = house.charters.chain().revisions
    head = [f"{charter.name}, revision {charter.revision}, {charter.mode}  {revision.digest}"]
    head += [f"A release needs {' and '.join(sorted(charter.needs))}.", _places(charter)]
    head += [
        f"{one.party} invested {one.invested_usd:,.2f} USD and gets back at most {one.cap:g} times that."
        for one in charter.returns
    ]
    if waiting is not None:
        head.append(f"Revision {waiting.revision.charter.revision} waits for {' and '.join(sorted(waiting.missing))}.")
    members = [
        (
            party.name,
            one.name,
            ", ".join(one.rights),
            Text(one.key, overflow="fold"),
            "revoked" if one.key in charter.revoked else "",
        )
        for party in charter.parties
        for one in party.members
    ]
    clauses = [
        (one.name, ", ".join(one.versions), ", ".join(one.origins), clause_text(clause) if clause else "nothing")
        for one in charter.classes
        for clause in one.clauses or (None,)
    ]
    known = [(one.charter.revision, Text(one.digest, overflow="fold")) for one in chain]
    return Group(
        "\n".join([*head, ""]),
        table(("party", "member", "may", "key", ""), members, empty=""),
        "",
        table(("class", "versions", "origins", "a release shows"), clauses, empty=""),
        "",
        table(("revision", "digest"), known, empty="No revision holds yet."),
    )


def _places(charter: Charter) -> str:
    where = charter.systems
    return (
        f"Trained on {', '.join(where.train) or 'nothing'}; served on {', '.join(where.serve) or 'nothing'} "
        f"in {', '.join(where.regions) or 'no region'}."
    )
