"""Retention: referenced bytes are checked and never collected, old bytes that nothing refers to always are."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.kit import clock
from tandem.kit.blobs import Blobs
from tandem.kit.db import Database
from tandem.kit.errors import IntegrityError
from tandem.kit.ids import new_id, sha256_hex
from tandem.registry import Claims, Registry, Retention, Rubbish, Runs, claim_versions
from tandem.spec import Artifact, Happened, Task
from tests.run_folders import DATA, begin_run, recipe, say, write, write_run

HOUR_S = 3600
LIMIT_S = 24 * HOUR_S
TOKENIZER = recipe().tokenizer.sha256


def silent(_step: str, _done: int, _total: int | None) -> None:
    """Report to nobody."""


class Kept:
    """A home with a blob store, and what a test says that others refer to."""

    def __init__(self, home: Path, database: Database) -> None:
        self.home = home
        self.blobs = Blobs(f"file://{home / 'blobs'}")
        self.runs = Runs(database, home)
        self.registry = Registry(database, self.blobs)
        self.claimed: dict[str, str] = {}
        self.retention = Retention(self.blobs, home, self.runs, claims=self.claims)

    def claims(self) -> Claims:
        found = Claims()
        claim_versions(found, self.registry, self.runs)
        for digest, owner in self.claimed.items():
            found.add(digest, owner)
        return found

    def put(self, data: bytes, *, age_s: float = 2 * LIMIT_S) -> str:
        path = self.home / "scratch"
        path.write_bytes(data)
        digest = self.blobs.put(path).digest
        age(self.blobs.local(digest), age_s)
        return digest

    def folder(self, name: str, *, age_s: float = 2 * LIMIT_S, **manifest: object) -> Path:
        write(self.home / name / "manifest.json", manifest)
        age(self.home / name / "manifest.json", age_s)
        age(self.home / name, age_s)
        return self.home / name

    def version(self, data: bytes, name: str = "model") -> str:
        digest = self.put(data)
        artifact = Artifact(digest=digest, size=len(data), format="gguf")
        return self.registry.add(name, task=Task.GENERATE, artifact=artifact, origin="file:x", facts={}).ref

    def collect(self, *, dry_run: bool = False) -> list[Rubbish]:
        return self.retention.collect(older_than_s=LIMIT_S, dry_run=dry_run, progress=silent)


def age(path: Path, seconds: float) -> None:
    then = clock.unix_seconds() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def kept(home: Path, sqlite_database: Database) -> Kept:
    return Kept(home, sqlite_database)


def test_old_bytes_that_nothing_refers_to_go(kept: Kept) -> None:
    old, young, claimed = kept.put(b"old"), kept.put(b"young", age_s=HOUR_S), kept.put(b"claimed")
    ref = kept.version(b"a model")
    kept.claimed[claimed] = "somebody"
    would = kept.collect(dry_run=True)
    assert would == [Rubbish(kind="blob", name=old, size=3)]
    assert kept.blobs.has(old), "a dry run changes nothing"
    assert kept.collect() == would
    assert not kept.blobs.has(old)
    assert all(kept.blobs.has(digest) for digest in (young, claimed))
    assert kept.registry.path(kept.registry.resolve(ref)).read_bytes() == b"a model"
    assert kept.collect() == []


def test_what_somebody_refers_to_meanwhile_stays(kept: Kept) -> None:
    digest = kept.put(b"old")
    real, asked = kept.claims, []

    def claims() -> Claims:
        asked.append(1)
        if len(asked) == 2:
            kept.claimed[digest] = "who came between"
        return real()

    retention = Retention(kept.blobs, kept.home, kept.runs, claims=claims)
    assert retention.collect(older_than_s=LIMIT_S, dry_run=False, progress=silent) == []
    assert kept.blobs.has(digest)


def test_what_somebody_stores_again_meanwhile_stays(kept: Kept) -> None:
    digest = kept.put(b"old")
    real, asked = kept.claims, []

    def claims() -> Claims:
        if not asked:  # before the first look is over; later the store is locked
            asked.append(kept.blobs.put(kept.home / "scratch").digest)
        return real()

    (kept.home / "scratch").write_bytes(b"old")
    listed = list(kept.blobs.digests())
    assert [one.digest for one in listed] == [digest]
    retention = Retention(kept.blobs, kept.home, kept.runs, claims=claims)
    assert retention.collect(older_than_s=LIMIT_S, dry_run=False, progress=silent) == []
    assert kept.blobs.has(digest)


def test_bytes_that_come_back_during_the_last_look_stay(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age is looked at again under the lock."""
    digest = kept.put(b"old")
    real: Callable[..., object] = kept.blobs.exclusive

    def exclusive() -> object:
        age(kept.blobs.local(digest), 0)
        return real()

    monkeypatch.setattr(kept.blobs, "exclusive", exclusive)
    assert kept.collect() == []
    assert kept.blobs.has(digest)


KINDS = ("version", "parent", "transcripts", "nothing", "removed")


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_any_home_exactly_the_old_and_needless_is_collected(
    home: Path, sqlite_database: Database, things: list[tuple[str, bool]]
) -> None:
    shutil.rmtree(home)
    home.mkdir()
    kept = Kept(home, sqlite_database)
    stay, go = set(), set()
    for number, (kind, is_old) in enumerate(things):
        data = new_id(f"{kind}{number}").encode()
        digest = kept.put(data, age_s=2 * LIMIT_S if is_old else HOUR_S)
        if kind in {"version", "removed"}:
            ref = kept.version(data, new_id("name"))
            age(kept.blobs.local(digest), 2 * LIMIT_S if is_old else HOUR_S)
            if kind == "removed":
                kept.registry.remove(ref)
        elif kind == "parent":
            begin_run(home, new_id("run"), model={"parent": "p", "parent_sha256": digest})
        elif kind == "transcripts":
            kept.claimed[digest] = "evidence"
        needed = kind in {"version", "parent", "transcripts"} or not is_old
        (stay if needed else go).add(digest)
    assert {one.name for one in kept.collect() if one.kind == "blob"} == go
    assert {one.digest for one in kept.blobs.digests()} == stay
    assert not [fault for fault in kept.retention.verify(silent).faults if fault.state == "damaged"]
    kept_versions = kept.registry.versions(limit=500)
    for version in kept_versions:
        kept.registry.remove(version.ref)  # the next example has another home and the same database


def test_all_that_is_referred_to_is_read_again(kept: Kept) -> None:
    whole, damaged, missing = (kept.version(data, data.decode()) for data in (b"whole", b"damaged", b"missing"))
    digests = {ref: kept.registry.resolve(ref).artifact.digest for ref in (whole, damaged, missing)}
    kept.put(b"needless")
    kept.blobs.local(digests[damaged]).write_bytes(b"changed")
    kept.blobs.delete(digests[missing])
    told: list[tuple[int, int | None]] = []
    verified = kept.retention.verify(lambda _step, done, total: told.append((done, total)))
    assert {(fault.what, fault.state, fault.owners) for fault in verified.faults} == {
        (digests[damaged], "damaged", ("version damaged@1",)),
        (digests[missing], "missing", ("version missing@1",)),
    }
    assert (verified.checked, verified.size) == (2, len(b"whole") + len(b"changed"))
    assert told[-1] == (12, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_is_on_another_machine_is_no_fault(kept: Kept) -> None:
    claims = Claims()
    claims.add(f"sha256:{'1' * 64}", "evidence", needed=False)
    verified = Retention(kept.blobs, kept.home, kept.runs, claims=lambda: claims).verify(silent)
    assert (verified.faults, verified.elsewhere, verified.checked) == ((), 1, 0)


def test_a_remote_store_is_read_where_the_bytes_are(kept: Kept, tmp_path: Path) -> None:
    blobs = Blobs(f"memory://{tmp_path.name}-verify", cache=tmp_path / "cache")
    (kept.home / "scratch").write_bytes(b"far away")
    digest = blobs.put(kept.home / "scratch").digest
    kept.claimed[digest] = "somebody"
    retention = Retention(blobs, kept.home, kept.runs, claims=kept.claims)
    assert retention.verify(silent).faults == ()
    blobs._fs.pipe_file(blobs._key(digest), b"tampered")
    assert [fault.state for fault in retention.verify(silent).faults] == ["damaged"]
    blobs.verify(digest)  # the cached copy is still right


def test_datasets_of_runs_are_read_again(kept: Kept) -> None:
    write_run(kept.home)
    folder = kept.home / "datasets" / DATA.removeprefix("sha256:")
    files = {name: {"sha256": sha256_hex(name), "bytes": len(name)} for name in ("train.jsonl", "held_out.jsonl")}
    write(folder / "manifest.json", {"files": files})
    for name in files:
        (folder / name).write_text(name)
    assert kept.retention.verify(silent).faults == ()
    (folder / "train.jsonl").write_text("changed")
    (folder / "held_out.jsonl").unlink()
    faults = {(fault.what.rsplit("/")[-1], fault.state) for fault in kept.retention.verify(silent).faults}
    assert faults == {("train.jsonl", "damaged"), ("held_out.jsonl", "missing")}
    (folder / "manifest.json").write_text("{")
    (fault,) = kept.retention.verify(silent).faults
    assert (fault.state, fault.owners) == ("damaged", ("run run_0001",))


def names(rubbish: list[Rubbish]) -> set[str]:
    return {one.name for one in rubbish}


def test_folders_that_no_run_uses_go(kept: Kept) -> None:
    write_run(kept.home)
    hexes = {key: key * 64 for key in "12345678"}
    used = kept.folder(f"datasets/{DATA.removeprefix('sha256:')}")
    needed = kept.folder(f"tokenizers/{TOKENIZER.removeprefix('sha256:')}")
    old = kept.folder(f"datasets/{hexes['1']}")
    young = kept.folder(f"datasets/{hexes['2']}", age_s=HOUR_S)
    tokenizer = kept.folder(f"tokenizers/{hexes['3']}")
    being_made = kept.folder("datasets/.making-x")
    left = kept.folder("datasets/.collected-" + hexes["4"])
    part = kept.folder("runs/.run_9.part")
    gone = {path.relative_to(kept.home).as_posix() for path in (old, tokenizer, left, part)}
    assert names(kept.collect(dry_run=True)) == gone
    assert old.exists()
    assert names(kept.collect()) == gone
    assert [path.exists() for path in (used, needed, young, being_made)] == [True] * 4
    assert not [path for path in (old, tokenizer, left, part) if path.exists()]
    assert {one.kind for one in kept.collect()} == set()


@pytest.mark.parametrize("over", [True, False])
def test_what_was_unpacked_for_a_run_stays_until_it_is_over(kept: Kept, over: bool) -> None:
    parent = f"sha256:{'9' * 64}"
    folder = begin_run(kept.home, "run_0001", model={"parent": "p", "parent_sha256": parent})
    if over:
        say(folder, Happened.SUCCEEDED, at=1, attempt=1)
    paths = [
        kept.folder(f"parents/{'9' * 64}"),
        kept.folder(f"samples/{'a' * 64}", dataset=DATA, tokenizer=TOKENIZER, side="train"),
    ]
    unused = kept.folder(f"samples/{'b' * 64}", dataset=DATA, tokenizer=f"sha256:{'0' * 64}", side="train")
    kept.collect()
    assert [path.exists() for path in paths] == [not over] * 2
    assert not unused.exists()


def saved(kept: Kept, run_id: str, name: str, loss: float | None = None) -> Path:
    step = int(name[5:13])
    return kept.folder(f"runs/{run_id}/checkpoints/{name}", step=step, evaluation={"loss": loss} if loss else {})


@pytest.mark.parametrize("over", [True, False])
def test_of_a_run_that_is_over_the_newest_checkpoints_and_the_best_stay(kept: Kept, over: bool) -> None:
    folder = begin_run(kept.home)
    placement = msgspec.json.decode(folder.placement.read_bytes())
    write(folder.placement, placement | {"checkpoints": {"keep": 2}})
    if over:
        say(folder, Happened.CANCELLED, at=1, attempt=1)
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: None}
    steps = {step: saved(kept, "run_0001", f"step-{step:08}", loss) for step, loss in losses.items()}
    aside = saved(kept, "run_0001", "step-00000009.rejected-1")
    odd = kept.home / "runs" / "run_0001" / "checkpoints" / "step-00000007"
    odd.mkdir()
    kept.collect()
    there = {step for step, path in steps.items() if path.exists()}
    assert there == ({2, 4, 5} if over else set(losses))
    assert aside.exists() is not over
    assert odd.exists(), "what says nothing of itself is for a person to look at"


def test_nothing_is_taken_from_under_a_preparation(kept: Kept) -> None:
    old = kept.folder(f"datasets/{'1' * 64}")
    write(kept.home / "requests" / "prepare_1.json", {})
    assert kept.collect() == []
    (kept.home / "requests" / "prepare_1.json").unlink()
    assert kept.collect() == [], "its run may be on its way"
    age(kept.home / "requests", HOUR_S)
    assert names(kept.collect()) == {old.relative_to(kept.home).as_posix()}


def test_a_run_that_begins_meanwhile_keeps_its_data(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    old = kept.folder(f"datasets/{DATA.removeprefix('sha256:')}")
    real = kept.retention._uses
    begun: list[int] = []

    def uses() -> object:
        if begun:
            begin_run(kept.home)
        begun.append(1)
        return real()

    monkeypatch.setattr(kept.retention, "_uses", uses)
    assert kept.collect() == []
    assert old.exists()


def test_nothing_is_collected_while_nobody_knows_what_a_run_used(kept: Kept) -> None:
    folder = begin_run(kept.home)
    kept.folder(f"datasets/{'1' * 64}")
    folder.recipe.write_text("{")
    for work in (kept.collect, lambda: kept.retention.verify(silent)):
        with pytest.raises(IntegrityError, match="recipe of run_0001"):
            work()
    assert (kept.home / "datasets" / ("1" * 64)).exists()


def test_a_link_out_of_the_home_is_not_followed(kept: Kept, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    write(precious / "file", "mine")
    (kept.home / "datasets").mkdir()
    link = kept.home / "datasets" / ("1" * 64)
    link.symlink_to(precious)
    os.utime(precious, (1, 1))
    os.utime(precious / "file", (1, 1))
    kept.collect()
    assert (precious / "file").exists()
