"""The charter to begin with: the parties and their members' keys, followed by clauses that suit the shipped suites."""

from collections.abc import Mapping
from pathlib import Path

from tandem.kit.signing import check_public
from tandem.registry.charter import parse_charter
from tandem.registry.versions import check_name

_DEFAULT = Path(__file__).with_name("default.toml")


def first_charter(name: str, parties: Mapping[str, Mapping[str, str]], *, solo: bool) -> str:
    """The text of revision 1; `parties` has the public keys of each party's members by their names.

    Raises:
        InvalidRequest: a name or a key cannot be one, or a key is there twice.
    """
    lines = [f'name = "{check_name(name)}"', "revision = 1", f'mode = "{"solo" if solo else "two-party"}"']
    for party, members in parties.items():
        lines += ["", "[[parties]]", f'name = "{check_name(party)}"']
        for member, key in members.items():
            lines += ["", "[[parties.members]]", f'name = "{check_name(member)}"', f'key = "{check_public(key)}"']
    text = "\n".join(lines) + "\n\n" + _DEFAULT.read_text(encoding="utf-8")
    parse_charter(text, where="to begin with")
    return text
