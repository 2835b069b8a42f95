"""The charter: the rules that the parties agreed on, as `charter.toml` says them, and what a change loosens; pure."""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from tandem.kit.errors import InvalidRequest
from tandem.kit.typed import converted, parse_toml
from tandem.spec.artifact import Version

CHARTER_TYPE = "application/vnd.tandem.charter+toml"

# What does not fit into an envelope could be signed and stored, and then never be read again.
_MOST_CHARACTERS = 500_000

# NOTE: charters live for ever. Fields are only added, at the end of their table, with a default that means the same.

# `\Z`, since `$` would let a line break through at the end.
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
# The last character holds four bits of the key; with any character there, one key could be written as two.
PublicKey = Annotated[str, msgspec.Meta(pattern=r"^ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\Z")]
Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^(sha256:[0-9a-f]{64})?\Z")]
Right = Literal["sign", "evaluate", "amend"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the charter: immutable, and nothing in it is unknown."""


class Member(_Table, frozen=True):
    """A person, or a machine, that signs for its party."""

    name: Name
    """Unlike the others', to be told apart."""
    key: PublicKey
    """As `tandem charter key` says; no two members share one."""
    rights: tuple[Right, ...] = ("sign", "evaluate", "amend")
    """`sign` releases, sign `evaluate`d evidence, `amend` this charter."""


class Party(_Table, frozen=True):
    """One of those who agreed."""

    name: Name
    """Such as lab or platform."""
    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1)]
    """Each may sign for the party; two of them are still one party."""


class Clause(_Table, frozen=True):
    """What the evidence of one suite has to show. Of the bounds at least one is set."""

    suite: Name
    """As `tandem evals list` says."""
    metric: Name
    """One of the suite's numbers."""
    at_least: Number | None = None
    """The least that it may be."""
    at_most: Number | None = None
    """The most that it may be."""
    drop_at_most: Number | None = None
    """How far it may be under the current release's, where more is better."""
    rise_at_most: Number | None = None
    """How far it may be over the current release's, where less is better."""
    of: Literal["value", "low", "high"] = "value"
    """Which end of the interval the absolute bounds look at."""
    samples_at_least: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Cases that the number has to rest on."""

    def __post_init__(self) -> None:
        if self.at_least is self.at_most is self.drop_at_most is self.rise_at_most is None:
            raise ValueError("a clause needs at_least, at_most, drop_at_most or rise_at_most")


class ModelClass(_Table, frozen=True):
    """Models that the same clauses hold for: the first class of the charter that fits a version is the version's."""

    name: Name
    """For verdicts to name it."""
    about: str = ""
    """For people."""
    versions: tuple[str, ...] = ("*",)
    """Patterns of model names, as a shell matches file names."""
    origins: tuple[str, ...] = ("*",)
    """Patterns of where a version comes from: `run:*`, `pypi:*`, `hf:*`, `file:*`."""
    tasks: tuple[str, ...] = ("generate", "embed")
    """What its versions are for."""
    clauses: tuple[Clause, ...] = ()
    """What a version has to show; without any, signatures are enough."""


class Where(_Table, frozen=True):
    """Where models may be trained and served: patterns of system names and regions. One name is exclusivity."""

    train: tuple[str, ...] = ("*",)
    """Systems that train."""
    serve: tuple[str, ...] = ("*",)
    """Systems that serve."""
    regions: tuple[str, ...] = ("*",)
    """Regions in which models are served; the setting `region` says which one a server is in."""


class Spending(_Table, frozen=True):
    """Limits in US dollars; None is no limit."""

    usd_per_run: Annotated[float, msgspec.Meta(ge=0, le=1e15)] | None = None
    """What one training run may cost."""
    usd_per_month: Annotated[float, msgspec.Meta(ge=0, le=1e15)] | None = None
    """What all runs of a month may cost together."""


class Return(_Table, frozen=True):
    """What a party gets back at most of what models earn; one without a table gets nothing, and the rest the mission.

    What is there after all costs is shared by what each invested, until each is at its cap.
    """

    party: Name
    """One of the parties."""
    invested_usd: Annotated[float, msgspec.Meta(ge=0, le=1e15)]
    """What it invested, in US dollars."""
    cap: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    """All that it ever gets back, as a multiple of what it invested."""


class Charter(_Table, frozen=True):
    """The whole agreement."""

    name: Name
    """For people; it stays the same."""
    revision: Annotated[int, msgspec.Meta(ge=1)]
    """Counts from 1; `tandem charter change` writes it."""
    parties: Annotated[tuple[Party, ...], msgspec.Meta(min_length=1, max_length=16)]
    """Who agreed."""
    classes: Annotated[tuple[ModelClass, ...], msgspec.Meta(min_length=1, max_length=256)]
    """Which clauses hold for which models; a version that fits none is not released."""
    previous: Digest = ""
    """The digest of the charter that this one changes; `tandem charter change` writes it. The first one has none."""
    mode: Literal["two-party", "solo"] = "two-party"
    """In `solo` mode one person holds the keys of all parties; each release records it."""
    release_needs: tuple[Name, ...] = ()
    """Parties that must sign a release; none named is all of them."""
    systems: Where = Where()
    """Where models may be trained and served."""
    spending: Spending = Spending()
    """What training may cost."""
    revoked: tuple[PublicKey, ...] = ()
    """Keys whose signatures count for nothing any more, wherever they stand."""
    returns: tuple[Return, ...] = ()
    """What the parties get back at most; all else that models earn is the mission's."""

    def __post_init__(self) -> None:
        _refuse_contradictions(self)

    @property
    def needs(self) -> frozenset[str]:
        """The parties that must sign a release."""
        return frozenset(self.release_needs or (party.name for party in self.parties))

    def parties_of(self, keys: frozenset[str], right: Right) -> frozenset[str]:
        """The parties for which these keys may do this; revoked ones do not count."""
        return frozenset(party.name for party, _ in self.able(keys, right))

    def names_of(self, keys: frozenset[str], right: Right) -> tuple[str, ...]:
        """`member of party` for each of these keys that may do this, sorted."""
        return tuple(sorted(f"{member.name} of {party.name}" for party, member in self.able(keys, right)))

    def able(self, keys: frozenset[str], right: Right) -> Iterator[tuple[Party, Member]]:
        """Whose keys these are, as far as they may do this; revoked ones do not count."""
        return (
            (party, member)
            for party in self.parties
            for member in party.members
            if member.key in keys and right in member.rights and member.key not in self.revoked
        )

    def member(self, key: str) -> tuple[Party, Member] | None:
        """Whose key this is."""
        return next(((party, one) for party in self.parties for one in party.members if one.key == key), None)

    def class_of(self, version: Version) -> ModelClass | None:
        """The first class that fits a version."""
        return next((one for one in self.classes if _fits(one, version)), None)

    def allows(self, kind: Literal["train", "serve", "regions"], name: str) -> bool:
        """Whether models may be trained or served on the system, or in the region, of this name."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in getattr(self.systems, kind))


def parse_charter(text: str, *, where: str) -> Charter:
    """A charter from TOML.

    Raises:
        InvalidRequest: it is not one, or too long; the message names `where` and the key.
    """
    if len(text) > _MOST_CHARACTERS:
        raise InvalidRequest(
            f"The charter {where} has {len(text):,} characters; {_MOST_CHARACTERS:,} are the most.",
            remedy="Shorten it: each revision is kept and read again.",
        )
    table = parse_toml(text, what="the charter", where=where)
    return converted(table, Charter, what="the charter", where=where, page="docs/reference/charter.md")


def loosened(old: Charter, new: Charter, *, by: str) -> list[str]:
    """What a change of party `by` loosens, in words; empty if it only tightens, which a party alone may do.

    Whatever is not plainly stricter counts as looser: new members and parties, other patterns, another order of
    classes; and so does what takes from another party.
    """
    return [
        *_identity(old, new),
        *_people(old, new),
        *_others(old, new, by),
        *_rules(old, new),
        *_places(old, new),
        *_returns(old, new, by),
    ]


def _identity(old: Charter, new: Charter) -> Iterator[str]:
    if new.name != old.name:
        yield f"the name changes from {old.name} to {new.name}"
    if new.mode != old.mode and new.mode == "solo":
        yield "one person may hold the keys of all parties"
    if not new.needs >= old.needs:
        yield f"releases no longer need {', '.join(sorted(old.needs - new.needs))}"
    for key in set(old.revoked) - set(new.revoked):
        yield f"the revoked key {key} counts again"


def _people(old: Charter, new: Charter) -> Iterator[str]:
    before = {party.name: {member.key: member for member in party.members} for party in old.parties}
    for party in new.parties:
        if party.name not in before:
            yield f"{party.name} becomes a party"
            continue
        for member in party.members:
            known = before[party.name].get(member.key)
            if known is None:
                yield f"{member.name} may sign for {party.name}"
            elif gained := set(member.rights) - set(known.rights):
                yield f"{member.name} of {party.name} may {' and '.join(sorted(gained))}"
    for name in set(before) - {party.name for party in new.parties}:
        yield f"{name} is no party any more"


def _others(old: Charter, new: Charter, by: str) -> Iterator[str]:
    """What other parties lose."""
    for party in old.parties:
        if party.name == by:
            continue
        for member in party.members:
            known = new.member(member.key)
            if known is None or known[0].name != party.name or set(member.rights) - set(known[1].rights):
                yield f"{member.name} loses rights of {party.name}"
            elif known[1].name != member.name:
                yield f"{member.name} of {party.name} is called {known[1].name}"
            elif member.key in set(new.revoked) - set(old.revoked):
                yield f"{member.name} of {party.name} is revoked"


def _rules(old: Charter, new: Charter) -> Iterator[str]:
    names = [one.name for one in old.classes]
    if [one.name for one in new.classes] != names:
        yield "the classes of models, or their order, change"
        return
    for before, after in zip(old.classes, new.classes, strict=True):
        if (before.versions, before.origins, before.tasks) != (after.versions, after.origins, after.tasks):
            yield f"other models are of class {before.name}"
        for clause in before.clauses:
            if not any(_as_strict(clause, other) for other in after.clauses):
                yield f"{before.name}: {clause_text(clause)} is gone or weaker"


def _as_strict(old: Clause, new: Clause) -> bool:
    """Whether whatever meets the new clause meets the old one."""
    if (new.suite, new.metric) != (old.suite, old.metric) or new.samples_at_least < old.samples_at_least:
        return False
    absolute = (old.at_least, old.at_most) != (None, None)
    return (
        (new.of == old.of or not absolute)
        and _not_under(old.at_least, new.at_least)
        and _not_over(old.at_most, new.at_most)
        and _not_over(old.drop_at_most, new.drop_at_most)
        and _not_over(old.rise_at_most, new.rise_at_most)
    )


def _not_under(old: float | None, new: float | None) -> bool:
    return old is None or (new is not None and new >= old)


def _not_over(old: float | None, new: float | None) -> bool:
    return old is None or (new is not None and new <= old)


def _places(old: Charter, new: Charter) -> Iterator[str]:
    kinds: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "trained on": (old.systems.train, new.systems.train),
        "served on": (old.systems.serve, new.systems.serve),
        "served in": (old.systems.regions, new.systems.regions),
    }
    for what, (before, after) in kinds.items():
        for pattern in after:
            if pattern not in before and not any(_covers(known, pattern) for known in before):
                yield f"models may be {what} {pattern}"
    for what, limit, other in (
        ("a run", old.spending.usd_per_run, new.spending.usd_per_run),
        ("a month", old.spending.usd_per_month, new.spending.usd_per_month),
    ):
        if not _not_over(limit, other):
            yield f"{what} may cost {'anything' if other is None else f'{other:,.0f} USD'}"


def _returns(old: Charter, new: Charter, by: str) -> Iterator[str]:
    """A party alone may want less back, which leaves more to the mission; not more, and nothing of another's."""
    before, after = ({one.party: one for one in charter.returns} for charter in (old, new))
    for party in sorted(before.keys() | after.keys()):
        nothing = Return(party=party, invested_usd=0, cap=0)
        was, now = before.get(party, nothing), after.get(party, nothing)
        if now.invested_usd > was.invested_usd:
            yield f"{party} counts as having invested {now.invested_usd:,.2f} USD"
        if now.cap > was.cap:
            yield f"{party} may get back {now.cap:.10g} times what it invested"
        if party != by and (now.invested_usd < was.invested_usd or now.cap < was.cap):
            yield f"{party} may get back less"


def _covers(wide: str, narrow: str) -> bool:
    """Whether a pattern holds all that another one does; known only of plain names and of `*`."""
    return wide == "*" or (not any(sign in narrow for sign in "*?[") and fnmatch.fnmatchcase(narrow, wide))


def clause_text(clause: Clause) -> str:
    """A clause in words."""
    end = {"value": "", "low": " (lower end)", "high": " (upper end)"}[clause.of]
    bounds = [
        f"{end} at least {clause.at_least:.10g}".strip() if clause.at_least is not None else "",
        f"{end} at most {clause.at_most:.10g}".strip() if clause.at_most is not None else "",
        f"at most {clause.drop_at_most:.10g} under the release's" if clause.drop_at_most is not None else "",
        f"at most {clause.rise_at_most:.10g} over the release's" if clause.rise_at_most is not None else "",
        f"on {clause.samples_at_least} cases or more" if clause.samples_at_least else "",
    ]
    return f"{clause.suite} {clause.metric} {', '.join(bound for bound in bounds if bound)}"


def _fits(one: ModelClass, version: Version) -> bool:
    return (
        version.task.value in one.tasks
        and any(fnmatch.fnmatchcase(version.name, pattern) for pattern in one.versions)
        and any(fnmatch.fnmatchcase(version.origin, pattern) for pattern in one.origins)
    )


def _refuse_contradictions(charter: Charter) -> None:
    """Raises ValueError, which msgspec makes an error with its place."""
    parties = [party.name for party in charter.parties]
    keys = [member.key for party in charter.parties for member in party.members]
    _refuse_twice("party", parties)
    _refuse_twice("member", [member.name for party in charter.parties for member in party.members])
    _refuse_twice("class", [one.name for one in charter.classes])
    _refuse_twice("key", keys)
    _refuse_twice("return of", [one.party for one in charter.returns])
    if unknown := set(charter.release_needs) - set(parties):
        raise ValueError(f"release_needs names {', '.join(sorted(unknown))}, which is no party")
    if unknown := {one.party for one in charter.returns} - set(parties):
        raise ValueError(f"returns name {', '.join(sorted(unknown))}, which is no party")
    for party in charter.parties:
        for right in ("sign", "amend"):
            if right == "sign" and party.name not in charter.needs:
                continue
            if not any(right in one.rights and one.key not in charter.revoked for one in party.members):
                raise ValueError(f"nobody of {party.name} may {right}")
    if charter.mode == "two-party" and len(parties) < 2:
        raise ValueError('a two-party charter has two parties; write mode = "solo" for one')


def _refuse_twice(what: str, names: list[Any]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the {what} {name} is there twice")
