"""The charter: what it takes, whose signature means what, and which changes loosen it."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.kit.signing import Envelope, decode, encode, public_text
from tandem.registry.charter import (
    CHARTER_TYPE,
    Charter,
    Clause,
    Member,
    ModelClass,
    Party,
    Return,
    Spending,
    Where,
    clause_text,
    loosened,
    parse_charter,
)
from tandem.spec import Artifact, Task, Version

KEYS = [public_text(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in range(8)]
change = msgspec.structs.replace


def charter(**changes: Any) -> Charter:
    """Ada and Anna for the lab, Bob for the platform, and a rule for coders."""
    lab = Party(name="lab", members=(Member(name="ada", key=KEYS[0]), Member(name="anna", key=KEYS[1])))
    platform = Party(name="platform", members=(Member(name="bob", key=KEYS[2]),))
    strict = (
        Clause(suite="quality", metric="gain", at_least=0.1, of="low", samples_at_least=10),
        Clause(suite="quality", metric="score", drop_at_most=0.02),
        Clause(suite="safety", metric="errors", at_most=3, rise_at_most=1),
    )
    classes = (
        ModelClass(name="code", versions=("code*",), origins=("run:*",), clauses=strict),
        ModelClass(name="other"),
    )
    where = Where(train=("local", "ray-*"), serve=("local", "azure-*"), regions=("eu-*",))
    whole = Charter(
        name="ours",
        revision=1,
        parties=(lab, platform),
        classes=classes,
        systems=where,
        spending=Spending(usd_per_run=100, usd_per_month=1000),
        returns=(back("lab", 100, 20), back("platform", 300, 1.5)),
    )
    return change(whole, **changes)


def back(party: str, invested_usd: float, cap: float) -> Return:
    return Return(party=party, invested_usd=invested_usd, cap=cap)


def with_clause(place: int, **changes: Any) -> Charter:
    """The charter with one clause of `code` changed."""
    [code, other] = charter().classes
    clauses = list(code.clauses)
    clauses[place] = change(clauses[place], **changes)
    return charter(classes=(change(code, clauses=tuple(clauses)), other))


def with_member(party: int, place: int, **changes: Any) -> Charter:
    parties = list(charter().parties)
    members = list(parties[party].members)
    members[place] = change(members[place], **changes)
    parties[party] = change(parties[party], members=tuple(members))
    return charter(parties=tuple(parties))


def without_clause(place: int) -> Charter:
    [code, other] = charter().classes
    clauses = code.clauses[:place] + code.clauses[place + 1 :]
    return charter(classes=(change(code, clauses=clauses), other))


def with_more(**changes: Any) -> Charter:
    [code, other] = charter().classes
    return charter(classes=(change(code, **changes), other))


TIGHTER: dict[str, Callable[[], Charter]] = {
    "higher least": lambda: with_clause(0, at_least=0.2),
    "lower most": lambda: with_clause(2, at_most=2),
    "smaller drop": lambda: with_clause(1, drop_at_most=0.01),
    "no drop": lambda: with_clause(1, drop_at_most=0),
    "smaller rise": lambda: with_clause(2, rise_at_most=0.5),
    "more samples": lambda: with_clause(0, samples_at_least=11),
    "another bound": lambda: with_clause(0, at_most=0.9),
    "an absolute bound": lambda: with_clause(1, at_least=0.5),
    "a new clause": lambda: with_more(
        clauses=(*charter().classes[0].clauses, Clause(suite="new", metric="m", at_least=1))
    ),
    "fewer systems": lambda: charter(systems=change(charter().systems, serve=("local",))),
    "one of a pattern": lambda: charter(systems=change(charter().systems, serve=("local", "azure-west"))),
    "one region": lambda: charter(systems=change(charter().systems, regions=("eu-1",))),
    "nowhere": lambda: charter(systems=Where(train=(), serve=(), regions=())),
    "less money": lambda: charter(spending=Spending(usd_per_run=50, usd_per_month=1000)),
    "no money": lambda: charter(spending=Spending(usd_per_run=0, usd_per_month=0)),
    "it wants less back": lambda: charter(returns=(back("lab", 100, 10), back("platform", 300, 1.5))),
    "it counts for less": lambda: charter(returns=(back("lab", 50, 20), back("platform", 300, 1.5))),
    "it wants nothing back": lambda: charter(returns=(back("platform", 300, 1.5),)),
    "its own member leaves": lambda: charter(
        parties=(change(charter().parties[0], members=charter().parties[0].members[:1]), charter().parties[1])
    ),
    "its own key is revoked": lambda: charter(revoked=(KEYS[1],)),
    "its own member may less": lambda: with_member(0, 1, rights=("evaluate",)),
}

LOOSER: dict[str, tuple[Callable[[], Charter], str]] = {
    "name": (lambda: charter(name="theirs"), "the name changes"),
    "solo": (lambda: charter(mode="solo"), "one person may hold"),
    "fewer signers": (lambda: charter(release_needs=("lab",)), "no longer need platform"),
    "new party": (
        lambda: charter(parties=(*charter().parties, Party(name="c", members=(Member(name="x", key=KEYS[4]),)))),
        "c becomes a party",
    ),
    "new member": (
        lambda: charter(
            parties=(
                change(
                    charter().parties[0],
                    members=(*charter().parties[0].members, Member(name="eve", key=KEYS[5])),
                ),
                charter().parties[1],
            )
        ),
        "eve may sign for lab",
    ),
    "new key": (lambda: with_member(0, 0, key=KEYS[5]), "ada may sign for lab"),
    "other's key": (lambda: with_member(1, 0, key=KEYS[5]), "bob loses rights of platform"),
    "other's rights": (
        lambda: charter(
            parties=(
                charter().parties[0],
                Party(
                    name="platform",
                    members=(
                        Member(name="bob", key=KEYS[2], rights=("sign",)),
                        Member(name="bo", key=KEYS[5], rights=("amend",)),
                    ),
                ),
            )
        ),
        "bob loses rights",
    ),
    "other's name": (lambda: with_member(1, 0, name="robert"), "bob of platform is called robert"),
    "other's party": (
        lambda: charter(parties=(change(charter().parties[0], name="labs"), charter().parties[1]), returns=()),
        "lab is no party any more",
    ),
    "class gone": (lambda: charter(classes=charter().classes[1:]), "the classes of models"),
    "class order": (lambda: charter(classes=charter().classes[::-1]), "the classes of models"),
    "class renamed": (lambda: with_more(name="coders"), "the classes of models"),
    "class versions": (lambda: with_more(versions=("coder*",)), "other models are of class code"),
    "class origins": (lambda: with_more(origins=("*",)), "other models are of class code"),
    "class tasks": (lambda: with_more(tasks=("generate",)), "other models are of class code"),
    "no clause": (lambda: without_clause(2), "safety errors .* is gone or weaker"),
    "lower least": (lambda: with_clause(0, at_least=0.05), "quality gain .* is gone or weaker"),
    "no least": (lambda: with_clause(0, at_least=None, at_most=5), "quality gain .* is gone or weaker"),
    "higher most": (lambda: with_clause(2, at_most=4), "safety errors .* is gone or weaker"),
    "larger drop": (lambda: with_clause(1, drop_at_most=0.03), "quality score .* is gone or weaker"),
    "larger rise": (lambda: with_clause(2, rise_at_most=2), "safety errors .* is gone or weaker"),
    "fewer samples": (lambda: with_clause(0, samples_at_least=9), "quality gain .* is gone or weaker"),
    "other end": (lambda: with_clause(0, of="high"), "quality gain .* is gone or weaker"),
    "other suite": (lambda: with_clause(0, suite="easy"), "quality gain .* is gone or weaker"),
    "other metric": (lambda: with_clause(0, metric="easy"), "quality gain .* is gone or weaker"),
    "train anywhere": (lambda: charter(systems=change(charter().systems, train=("*",))), "be trained on \\*"),
    "serve elsewhere": (
        lambda: charter(systems=change(charter().systems, serve=("local", "cloud"))),
        "served on cloud",
    ),
    "another pattern": (
        lambda: charter(systems=change(charter().systems, serve=("azure-w*",))),
        "served on azure-w\\*",
    ),
    "another region": (lambda: charter(systems=change(charter().systems, regions=("us-1",))), "served in us-1"),
    "more money a run": (
        lambda: charter(spending=Spending(usd_per_run=1e6, usd_per_month=1000)),
        "a run may cost 1,000,000 USD",
    ),
    "more back": (
        lambda: charter(returns=(back("lab", 100, 20.5), back("platform", 300, 1.5))),
        "lab may get back 20.5 times what it invested",
    ),
    "counts for more": (
        lambda: charter(returns=(back("lab", 1e6, 20), back("platform", 300, 1.5))),
        "lab counts as having invested 1,000,000.00 USD",
    ),
    "more invested for a smaller multiple": (
        lambda: charter(returns=(back("lab", 200, 10), back("platform", 300, 1.5))),
        "lab counts as having invested 200.00 USD",
    ),
    "another gets less": (
        lambda: charter(returns=(back("lab", 100, 20), back("platform", 300, 1))),
        "platform may get back less",
    ),
    "another counts for less": (
        lambda: charter(returns=(back("lab", 100, 20), back("platform", 299, 1.5))),
        "platform may get back less",
    ),
    "another gets nothing": (lambda: charter(returns=(back("lab", 100, 20),)), "platform may get back less"),
    "another gets more": (
        lambda: charter(returns=(back("lab", 100, 20), back("platform", 300, 100))),
        "platform may get back 100 times",
    ),
    "no limit a month": (lambda: charter(spending=Spending(usd_per_run=100)), "a month may cost anything"),
}


@pytest.mark.parametrize("name", TIGHTER)
def test_what_only_tightens(name: str) -> None:
    tighter = TIGHTER[name]()
    assert tighter != charter()
    assert loosened(charter(), tighter, by="lab") == []
    assert loosened(tighter, charter(), by="lab"), "and back it loosens"


@pytest.mark.parametrize("name", LOOSER)
def test_what_loosens(name: str) -> None:
    make, said = LOOSER[name]
    looser = make()
    assert looser != charter()
    reasons = loosened(charter(), looser, by="lab")
    assert any(re.search(said, reason) for reason in reasons), reasons


def test_one_party_takes_nothing_from_another() -> None:
    """What Ada may do with the lab's own keys, she may not with the platform's."""
    fewer = charter(revoked=(KEYS[1],))
    assert loosened(charter(), fewer, by="lab") == []
    assert loosened(charter(), fewer, by="platform") == ["anna of lab is revoked"]
    gone = TIGHTER["its own member leaves"]()
    assert loosened(charter(), gone, by="platform") == ["anna loses rights of lab"]
    assert loosened(fewer, charter(), by="lab") == [f"the revoked key {KEYS[1]} counts again"]


def test_returns_where_there_were_none() -> None:
    """A charter from before there were returns means that all is the mission's."""
    assert charter(returns=()).returns == parse_charter(TEXT, where="a.toml").returns == ()
    reasons = loosened(charter(returns=()), charter(), by="lab")
    assert [reason.split()[0] for reason in reasons] == ["lab", "lab", "platform", "platform"]
    swapped = charter(returns=charter().returns[::-1])
    assert loosened(charter(), swapped, by="lab") == [], "their order means nothing"
    empty = charter(returns=(back("lab", 0, 0),))
    assert loosened(charter(returns=()), empty, by="lab") == loosened(empty, charter(returns=()), by="lab") == []


def test_a_returned_share_that_shrinks_needs_whom_it_is_taken_from() -> None:
    less = charter(returns=(back("lab", 100, 20), back("platform", 300, 1)))
    assert loosened(charter(), less, by="platform") == []
    assert loosened(charter(), less, by="lab") == ["platform may get back less"]


def test_solo_becomes_two_parties_alone_and_not_back() -> None:
    solo = charter(mode="solo")
    assert loosened(solo, charter(), by="lab") == []
    assert loosened(charter(), solo, by="lab")


numbers = st.none() | st.floats(-100, 100)
clauses = st.builds(
    Clause,
    suite=st.sampled_from(["a", "b"]),
    metric=st.sampled_from(["m", "n"]),
    at_least=st.floats(-100, 100),
    at_most=numbers,
    drop_at_most=numbers,
    rise_at_most=numbers,
    of=st.sampled_from(["value", "low", "high"]),
    samples_at_least=st.integers(0, 50),
)
patterns = st.lists(st.sampled_from(["*", "local", "ray-*", "ray-1", "azure"]), max_size=3).map(tuple)
charters = st.builds(
    lambda rules, where, run, month, needs, returns: charter(
        classes=(ModelClass(name="all", clauses=tuple(rules)),),
        systems=where,
        spending=Spending(usd_per_run=run, usd_per_month=month),
        release_needs=needs,
        returns=tuple(returns),
    ),
    st.lists(clauses, max_size=4),
    st.builds(Where, train=patterns, serve=patterns, regions=patterns),
    st.none() | st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.sampled_from([(), ("lab",), ("platform",), ("lab", "platform")]),
    st.lists(
        st.builds(back, st.sampled_from(["lab", "platform"]), st.integers(0, 3), st.integers(0, 3)),
        max_size=2,
        unique_by=lambda one: one.party,
    ),
)


def paid_back(one: Charter) -> dict[str, tuple[float, float]]:
    """What counts of the returns: a party without an entry is one with nothing."""
    nothing = dict.fromkeys(("lab", "platform"), (0.0, 0.0))
    return nothing | {entry.party: (entry.invested_usd, entry.cap) for entry in one.returns}


@given(charters, st.sampled_from(["lab", "platform"]))
def test_no_change_loosens_nothing(one: Charter, party: str) -> None:
    assert loosened(one, one, by=party) == []
    assert loosened(one, change(one, revision=2, previous="sha256:" + "0" * 64), by=party) == []


@given(charters, charters)
def test_of_two_that_differ_one_way_loosens(one: Charter, other: Charter) -> None:
    """Were it not so, a party alone could leave its charter and come back to another."""
    if not loosened(one, other, by="lab") and not loosened(other, one, by="lab"):
        for name in ("local", "ray-1", "ray-2", "azure", "elsewhere"):
            assert one.allows("serve", name) == other.allows("serve", name)
        assert (one.spending, one.needs) == (other.spending, other.needs)
        assert paid_back(one) == paid_back(other)


@given(charters, charters, st.sampled_from(["local", "ray-1", "ray-2", "azure", "elsewhere"]))
def test_what_tightens_allows_nothing_new(one: Charter, other: Charter, system: str) -> None:
    if not loosened(one, other, by="lab"):
        for kind in ("train", "serve", "regions"):
            assert one.allows(kind, system) or not other.allows(kind, system)
        assert one.needs <= other.needs
        before, after = paid_back(one), paid_back(other)
        assert after["platform"] == before["platform"]
        assert all(now <= was for now, was in zip(after["lab"], before["lab"], strict=True))


@pytest.mark.parametrize("party", ["lab", "platform"])
@given(charters, charters, charters)
def test_tightening_twice_is_tightening(party: str, one: Charter, two: Charter, three: Charter) -> None:
    if not loosened(one, two, by=party) and not loosened(two, three, by=party):
        assert not loosened(one, three, by=party)


def test_whose_signatures_count() -> None:
    one = with_member(0, 1, rights=("evaluate",))
    assert one.parties_of(frozenset({KEYS[0], KEYS[2]}), "sign") == {"lab", "platform"}
    assert one.parties_of(frozenset({KEYS[1]}), "sign") == frozenset()
    assert one.parties_of(frozenset({KEYS[1]}), "evaluate") == {"lab"}
    assert one.parties_of(frozenset({KEYS[0], KEYS[1]}), "evaluate") == {"lab"}, "two members are one party"
    assert charter(revoked=(KEYS[1],)).parties_of(frozenset({KEYS[1]}), "sign") == frozenset()
    assert one.parties_of(frozenset({KEYS[7], "nonsense"}), "sign") == frozenset()
    found = one.member(KEYS[2])
    assert found is not None
    assert (found[0].name, found[1].name) == ("platform", "bob")
    assert one.member(KEYS[7]) is None


@pytest.mark.parametrize(
    ("name", "origin", "task", "expected"),
    [
        ("coder", "run:1", Task.GENERATE, "code"),
        ("coder", "file:x", Task.GENERATE, "other"),
        ("chat", "run:1", Task.GENERATE, "other"),
        ("Coder", "run:1", Task.GENERATE, "other"),
        ("code", "run:1", Task.EMBED, "code"),
    ],
)
def test_the_first_class_that_fits(name: str, origin: str, task: Task, expected: str) -> None:
    artifact = Artifact(digest="sha256:" + "0" * 64, size=1, format="gguf")
    version = Version(name=name, number=1, task=task, artifact=artifact, origin=origin)
    found = charter().class_of(version)
    assert found is not None
    assert found.name == expected
    assert charter(classes=charter().classes[:1]).class_of(change_name(version)) is None


def change_name(version: Version) -> Version:
    return Version(name="nothing", number=1, task=version.task, artifact=version.artifact, origin=version.origin)


TEXT = f"""
name = "ours"
revision = 1
[[parties]]
name = "lab"
[[parties.members]]
name = "ada"
key = "{KEYS[0]}"
[[parties]]
name = "platform"
[[parties.members]]
name = "bob"
key = "{KEYS[1]}"
[[classes]]
name = "all"
[[classes.clauses]]
suite = "s"
metric = "m"
at_least = 1
"""


RETURN = '[[returns]]\nparty = "lab"\ninvested_usd = 5\n'


def test_a_charter_is_read() -> None:
    found = parse_charter(TEXT, where="a.toml")
    assert [party.name for party in found.parties] == ["lab", "platform"]
    assert found.needs == {"lab", "platform"}
    assert found.classes[0].clauses[0].at_least == 1.0
    assert found.allows("serve", "anything")
    assert parse_charter(f"{TEXT}\n{RETURN}cap = 1.5", where="a.toml").returns == (back("lab", 5, 1.5),)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "ours"', "", "missing required field `name`"),
        ('name = "ours"', 'name = "our charter"', "name"),
        ('name = "ours"', 'name = "ours\\n"', "name"),
        ("revision = 1", "revision = 0", "revision"),
        ("revision = 1", 'revision = 1\nprevious = "sha256:1"', "previous"),
        ("revision = 1", "revision = 1\nrevison = 2", "revison"),
        ("revision = 1", 'revision = 1\nrelease_needs = ["ops"]', "release_needs names ops, which is no party"),
        ('name = "platform"', 'name = "lab"', "the party lab is there twice"),
        (KEYS[1], KEYS[0], "is there twice"),
        ('name = "bob"', 'name = "ada"', "the member ada is there twice"),
        (KEYS[1], KEYS[1][:-2] + "B=", "key"),
        (KEYS[1], KEYS[1] + "\\n", "key"),
        (KEYS[1], "ed25519:AAAA", "key"),
        ("revision = 1", f'revision = 1\nrevoked = ["{KEYS[0]}"]', "nobody of lab may sign"),
        (f'key = "{KEYS[0]}"', f'key = "{KEYS[0]}"\nrights = ["amend"]', "nobody of lab may sign"),
        (f'key = "{KEYS[0]}"', f'key = "{KEYS[0]}"\nrights = ["sign"]', "nobody of lab may amend"),
        (f'key = "{KEYS[0]}"', f'key = "{KEYS[0]}"\nrights = ["rule"]', "rights"),
        ("at_least = 1", "", "a clause needs at_least"),
        ("at_least = 1", "at_least = nan", "at_least"),
        ("at_least = 1", "at_least = inf", "at_least"),
        ("at_least = 1", "at_least = 1\nsamples_at_least = -1", "samples_at_least"),
        ("at_least = 1", 'at_least = 1\n[[classes]]\nname = "all"', "the class all is there twice"),
        ("revision = 1", 'revision = 1\nmode = "both"', "mode"),
        ("revision = 1", "revision = 1\n[spending]\nusd_per_run = -1", "usd_per_run"),
        ("at_least = 1", f"at_least = 1\n{RETURN}cap = -1", "cap"),
        ("at_least = 1", f"at_least = 1\n{RETURN}cap = inf", "cap"),
        ("at_least = 1", f"at_least = 1\n{RETURN}", "missing required field `cap`"),
        ("at_least = 1", f"at_least = 1\n{RETURN}cap = 1\n{RETURN}cap = 2", "the return of lab is there twice"),
        ("at_least = 1", f"at_least = 1\n{RETURN}cap = 1".replace("lab", "ops"), "returns name ops, which is no party"),
    ],
)
def test_what_is_no_charter(old: str, new: str, said: str) -> None:
    assert TEXT.count(old) >= 1
    place = TEXT.rindex(old) if old.startswith("ed25519") else TEXT.index(old)
    with pytest.raises(InvalidRequest, match=r"The charter a\.toml is wrong at") as caught:
        parse_charter(TEXT[:place] + new + TEXT[place + len(old) :], where="a.toml")
    assert said in caught.value.message
    assert "docs/reference/charter.md" in caught.value.remedy


def test_a_charter_that_no_envelope_could_hold_is_refused() -> None:
    """It would be signed and stored, and be larger than what is read back."""
    with pytest.raises(InvalidRequest, match="500,000 are the most"):
        parse_charter(TEXT + "#" * 500_000, where="a.toml")
    envelope = Envelope(payload_type=CHARTER_TYPE, payload=("é" * 500_000).encode())
    assert decode(encode(envelope), what="The longest") == envelope


def test_two_parties_are_two() -> None:
    one = TEXT[: TEXT.rindex("[[parties]]")] + TEXT[TEXT.index("[[classes]]") :]
    with pytest.raises(InvalidRequest, match="has two parties"):
        parse_charter(one, where="a.toml")
    assert parse_charter(one.replace("revision = 1", 'revision = 1\nmode = "solo"'), where="a.toml").mode == "solo"


@pytest.mark.parametrize(
    ("clause", "text"),
    [
        (Clause(suite="s", metric="m", at_least=0.1234567), "s m at least 0.1234567"),
        (Clause(suite="s", metric="m", at_least=0, of="low"), "s m (lower end) at least 0"),
        (Clause(suite="s", metric="m", at_most=1e6, of="high"), "s m (upper end) at most 1000000"),
        (Clause(suite="s", metric="m", drop_at_most=0.02), "s m at most 0.02 under the release's"),
        (
            Clause(suite="s", metric="m", rise_at_most=1, samples_at_least=20),
            "s m at most 1 over the release's, on 20 cases or more",
        ),
        (Clause(suite="s", metric="m", at_least=1, at_most=2), "s m at least 1, at most 2"),
    ],
)
def test_a_clause_in_words(clause: Clause, text: str) -> None:
    assert clause_text(clause) == text
