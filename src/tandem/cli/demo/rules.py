"""The demo's charter: the one that a home has, or a solo one whose first class a tiny code model can meet."""

from tandem.cli.context import notes
from tandem.kit.errors import Conflict
from tandem.registry import Revision, first_charter
from tandem.server import House

CODER = "coder"
"""The demo's code model, and the deployment that clients call."""

_PARTIES = ("lab", "platform")
_NAME = "demo"
# Measured over the 300 gaps of quality-code, the lower end of the interval: 0.004 after 20 steps, 0.058 after 160,
# 0.086 after 400.
_AT_LEAST = 0.03
_CLASS = f"""[[classes]]
name = "tiny-code"
about = "The demo's code model: its answers resemble the code that was there, and no release is much worse."
versions = ["{CODER}"]
origins = ["run:*"]

[[classes.clauses]]
suite = "quality-code"
metric = "edit_similarity"
at_least = {_AT_LEAST}
of = "low"

[[classes.clauses]]
suite = "quality-code"
metric = "edit_similarity"
drop_at_most = 0.02

[[classes.clauses]]
suite = "regression"
metric = "failures"
at_most = 0

"""


def agree(house: House) -> Revision:
    """The charter that holds; where there is none, one that one person signs for both parties.

    Raises:
        Conflict: a first charter waits for signatures.
    """
    current = house.charters.chain().current
    if current is not None:
        notes.print(f"This home has a charter, {current.charter.name} revision {current.charter.revision}; it holds.")
        return current
    if house.charters.pending() is not None:
        raise Conflict(
            "A charter waits for signatures in this home.",
            remedy="Sign it with `tandem charter sign`, or drop it: `tandem charter drop`.",
        )
    here = set(house.members.names())
    parties = {
        party: {party: house.members.public(party) if party in here else house.members.make(party)}
        for party in _PARTIES
    }
    head, first, rest = first_charter(_NAME, parties, solo=True).partition("[[classes]]")
    keys = [house.members.key(party) for party in _PARTIES]
    made = house.charters.propose(head + _CLASS + first + rest, keys).revision
    notes.print(
        f"A charter for one person, who holds the keys of {' and '.join(_PARTIES)}; each release will say so.\n"
        f"For {CODER} it asks: edit similarity of {_AT_LEAST} or more on held-out code, no worse than the release by "
        "more than 0.02,\nand no failure that was there before. `tandem charter show` prints all of it."
    )
    return made
