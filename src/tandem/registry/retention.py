"""Retention: every referenced byte is there and right, and old bytes that nothing refers to are collected."""

import contextlib
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tandem.kit import clock
from tandem.kit.blobs import Blobs, Held
from tandem.kit.errors import IntegrityError, NotFound
from tandem.registry.runs import Runs
from tandem.registry.sources import Progress
from tandem.registry.versions import Registry
from tandem.spec import Placement, Recipe, Run, RunFolder

_PAGE = 500  # versions read at a time
_ASIDE = ".collected-"  # what a folder is called while it goes: nobody finds half of it
_ABANDONED_S = 3 * 24 * 3600  # a request that old is what a killed process left
_PREPARING_S = 60.0  # after a preparation: longer than it takes to make the run that the data are for
_DIGITS = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = re.compile(r"step-\d{8,}")
_SET_ASIDE = re.compile(r"step-\d{8,}\.(?:tmp|rejected|dropped)-\d+")


class Claims:
    """Who refers to which blob, by digest and in words.

    What only some owners may miss is no fault where it is not here: transcripts stay with whoever measured.
    """

    def __init__(self) -> None:
        self._owners: dict[str, list[str]] = {}
        self._needed: set[str] = set()

    def add(self, digest: str, owner: str, *, needed: bool = True) -> None:
        """Somebody refers to these bytes; `needed` says that they have to be here."""
        self._owners.setdefault(digest, []).append(owner)
        if needed:
            self._needed.add(digest)

    def __contains__(self, digest: str) -> bool:
        return digest in self._owners

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._owners))

    def owners(self, digest: str) -> tuple[str, ...]:
        """Who refers to these bytes."""
        return tuple(self._owners.get(digest, ()))

    def needed(self, digest: str) -> bool:
        """Whether it is a fault if they are not here."""
        return digest in self._needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Referenced bytes that are not what they were; `state` is `damaged` or `missing`."""

    what: str
    state: str
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How a verification went."""

    checked: int
    size: int
    """Bytes that were read."""
    faults: tuple[Fault, ...]
    elsewhere: int = 0
    """Blobs that are referred to and are on another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubbish:
    """Something that nothing refers to: a blob by its digest, or a folder below the home folder."""

    kind: str
    name: str
    size: int
    """Bytes."""


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """What a file of a dataset must hold: 64 hexadecimal digits."""

    sha256: str


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is read here of a dataset's manifest."""

    files: dict[str, _File] = {}


class _Store(msgspec.Struct, frozen=True, kw_only=True):
    """What is read here of the manifest of samples."""

    dataset: str = ""
    tokenizer: str = ""


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What is read here of a checkpoint's manifest."""

    step: int
    evaluation: dict[str, object] = {}


@dataclass(frozen=True, slots=True)
class _Use:
    """A run, and what it was pinned to."""

    run: Run
    recipe: Recipe
    placement: Placement


class Retention:
    """What of the home folder is kept. Its methods block.

    `claims` says who refers to which blob; it is asked again right before something goes.
    """

    def __init__(self, blobs: Blobs, home: Path, runs: Runs, *, claims: Callable[[], Claims]) -> None:
        self._blobs = blobs
        self._home = home
        self._runs = runs
        self._claims = claims

    def verify(self, progress: Progress) -> Verified:
        """Read again all that is referred to, blobs and datasets, and compare.

        Raises:
            IntegrityError: a run's recipe cannot be read, so nobody knows what is referred to.
        """
        claims = self._claims()
        here = {digest: held.size for digest in claims if (held := self._blobs.held(digest)) is not None}
        lost = [digest for digest in claims if digest not in here and claims.needed(digest)]
        faults = [Fault(what=digest, state="missing", owners=claims.owners(digest)) for digest in lost]
        read, total = 0, sum(here.values())
        for digest, size in here.items():
            try:
                self._blobs.verify(digest, progress=_beyond(progress, read, total), at_source=True)
            except (NotFound, IntegrityError) as error:
                state = "missing" if isinstance(error, NotFound) else "damaged"
                faults.append(Fault(what=digest, state=state, owners=claims.owners(digest)))
            read += size
        datasets = self._verify_datasets(faults, progress)
        away = sum(digest not in here for digest in claims) - len(lost)
        return Verified(checked=len(here) + datasets, size=read, faults=tuple(faults), elsewhere=away)

    def collect(self, *, older_than_s: float, dry_run: bool, progress: Progress) -> list[Rubbish]:
        """Delete what nothing refers to and what is older than that; returns it. Nothing younger is touched, so that
        what a pull or a run has just stored, and not registered yet, stays.

        Raises:
            IntegrityError: a run's recipe cannot be read, so nobody knows what is referred to.
        """
        latest_s = clock.unix_milliseconds() / 1000 - older_than_s
        return [
            *self._collect_blobs(latest_s, dry_run=dry_run, progress=progress),
            *self._collect_folders(latest_s, dry_run=dry_run, progress=progress),
        ]

    def _collect_blobs(self, latest_s: float, *, dry_run: bool, progress: Progress) -> list[Rubbish]:
        claims = self._claims()
        listed = [held for held in self._blobs.digests() if held.digest not in claims and held.arrived_s <= latest_s]
        if dry_run or not listed:
            return [_blob(held) for held in listed]
        gone = []
        with self._blobs.exclusive():  # what somebody stores again now is young afterwards
            claims = self._claims()
            for number, held in enumerate(listed, start=1):
                progress("blobs", number, len(listed))
                now = self._blobs.held(held.digest)
                if held.digest not in claims and now is not None and now.arrived_s <= latest_s:
                    self._blobs.delete(held.digest)
                    gone.append(_blob(held))
        return gone

    def _collect_folders(self, latest_s: float, *, dry_run: bool, progress: Progress) -> list[Rubbish]:
        if self._preparing():
            return []
        found = [path for path in self._needless(self._uses()) if _ours(path) and _newest_s(path) <= latest_s]
        rubbish = [(path, self._rubbish(path)) for path in found]
        if dry_run or not found:
            return [one for _, one in rubbish]
        needless = set(self._needless(self._uses()))  # a run may have begun meanwhile
        if self._preparing():
            return []
        gone = [(path, one) for path, one in rubbish if path in needless]
        for number, (path, _) in enumerate(gone, start=1):
            _remove(path)
            progress("folders", number, len(gone))
        return [one for _, one in gone]

    def _uses(self) -> list[_Use]:
        return [
            _Use(self._runs.read(one), _recipe(self._runs, one), self._runs.placement(one)) for one in self._runs.ids()
        ]

    def _preparing(self) -> bool:
        """Whether data is being prepared for a run that is not there yet, or was until a moment ago."""
        requests = self._home / "requests"
        if not requests.is_dir():
            return False
        now_s = clock.unix_seconds()
        waiting = any(path.stat().st_mtime > now_s - _ABANDONED_S for path in requests.glob("*.json"))
        return waiting or requests.stat().st_mtime > now_s - _PREPARING_S

    def _needless(self, uses: Sequence[_Use]) -> Iterator[Path]:
        """Folders of the home that no run needs any more."""
        going = [use for use in uses if not use.run.state.over]
        data = {one.sha256 for use in uses for one in use.recipe.data}
        yield from self._unless(data, "datasets")
        yield from self._unless({use.recipe.tokenizer.sha256 for use in uses}, "tokenizers")
        # What follows was unpacked from the above, and is made again for whoever trains with it.
        yield from self._unless({use.recipe.model.parent_sha256 for use in going}, "parents")
        pairs = {(one.sha256, use.recipe.tokenizer.sha256) for use in going for one in use.recipe.data}
        yield from (path for path in _shelf(self._home / "samples") if _store(path) not in pairs)
        yield from self._home.glob("runs/.run_*.part")
        yield from self._home.glob(f"*/{_ASIDE}*")
        for use in uses:
            if use.run.state.over:
                yield from _checkpoints(self._runs.folder(use.run.run_id), keep=use.placement.checkpoints.keep)

    def _unless(self, digests: set[str], shelf: str) -> Iterator[Path]:
        for path in _shelf(self._home / shelf):
            if f"sha256:{path.name}" not in digests:
                yield path

    def _rubbish(self, path: Path) -> Rubbish:
        name = path.relative_to(self._home)
        kind = "checkpoint" if "checkpoints" in name.parts else name.parts[0].rstrip("s")
        return Rubbish(kind=kind, name=name.as_posix(), size=sum(state.st_size for state in _files(path)))

    def _verify_datasets(self, faults: list[Fault], progress: Progress) -> int:
        """Check the datasets that are here, file by file; one that was made on another machine is no fault."""
        owners: dict[str, list[str]] = {}
        for run_id in self._runs.ids():
            for data in _recipe(self._runs, run_id).data:
                owners.setdefault(data.sha256.removeprefix("sha256:"), []).append(f"run {run_id}")
        shelf = [path for path in _shelf(self._home / "datasets") if path.name in owners]
        for number, path in enumerate(shelf, start=1):
            for name, state in _manifest_faults(path):
                what = (path.relative_to(self._home) / name).as_posix()
                faults.append(Fault(what=what, state=state, owners=tuple(owners[path.name])))
            progress("datasets", number, len(shelf))
        return len(shelf)


def claim_versions(claims: Claims, registry: Registry, runs: Runs) -> None:
    """Add the blobs that versions are, and those that versions and runs began from.

    Raises:
        IntegrityError: a run's recipe cannot be read, so nobody knows what it began from.
    """
    after: str | None = None
    while page := registry.versions(limit=_PAGE, after=after):
        for version in page:
            claims.add(version.artifact.digest, f"version {version.ref}")
            if version.artifact.base:
                claims.add(version.artifact.base, f"version {version.ref}, whose base it is")
                if version.whole:
                    claims.add(version.whole, f"version {version.ref}, which is merged in it", needed=False)
            if parent := str(version.facts.get("parent") or ""):
                claims.add(parent, f"version {version.ref}, whose parent it is", needed=False)
        after = page[-1].ref
    for run_id in runs.ids():
        if parent := _recipe(runs, run_id).model.parent_sha256:
            claims.add(parent, f"run {run_id}, whose parent it is", needed=False)


def _recipe(runs: Runs, run_id: str) -> Recipe:
    """The recipe of a run.

    Raises:
        IntegrityError: it cannot be read.
    """
    try:
        return runs.recipe(run_id)
    except (msgspec.DecodeError, OSError) as error:
        raise IntegrityError(
            f"The recipe of {run_id} cannot be read: {error}.",
            remedy="Nothing is collected while nobody knows what it used. Restore the file from a copy.",
        ) from error


def _beyond(progress: Progress, read: int, total: int) -> Callable[[int, int | None], None]:
    """Progress within one blob as progress of all."""
    return lambda done, _size: progress("hash", read + done, total)


def _blob(held: Held) -> Rubbish:
    return Rubbish(kind="blob", name=held.digest, size=held.size)


def _shelf(shelf: Path) -> list[Path]:
    """The folders on a shelf that are named by their content; what is being made there is not among them."""
    return sorted(path for path in shelf.glob("*") if _DIGITS.fullmatch(path.name)) if shelf.is_dir() else []


def _store(path: Path) -> tuple[str, str]:
    """The dataset and the tokenizer that samples were made with."""
    try:
        store = msgspec.json.decode((path / "manifest.json").read_bytes(), type=_Store)
    except (OSError, msgspec.DecodeError):
        return ("", "")
    return (_prefixed(store.dataset), _prefixed(store.tokenizer))


def _prefixed(digest: str) -> str:
    return digest if digest.startswith("sha256:") else f"sha256:{digest}"


def _checkpoints(folder: RunFolder, *, keep: int) -> Iterator[Path]:
    """Of a run that is over, the checkpoints besides the newest ones and the best one, and what was set aside."""
    steps: dict[int, Path] = {}
    losses: dict[int, float] = {}
    for path in sorted(folder.checkpoints.glob("step-*")):
        if _SET_ASIDE.fullmatch(path.name):
            yield path
        elif _CHECKPOINT.fullmatch(path.name) and (saved := _saved(path)) is not None:
            steps[saved.step] = path
            if isinstance(loss := saved.evaluation.get("loss"), float) and math.isfinite(loss):
                losses[saved.step] = loss
    stay = set(sorted(steps, reverse=True)[:keep])
    if losses:
        stay.add(min(losses, key=lambda step: (losses[step], -step)))
    yield from (path for step, path in steps.items() if step not in stay)


def _saved(path: Path) -> _Saved | None:
    """What a checkpoint says of itself; one that says nothing stays for somebody to look at."""
    try:
        return msgspec.json.decode((path / "manifest.json").read_bytes(), type=_Saved)
    except (OSError, msgspec.DecodeError):
        return None


def _manifest_faults(path: Path) -> Iterator[tuple[str, str]]:
    """The files of a folder that are not what its manifest says, and what is wrong with each."""
    try:
        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=_Manifest)
    except FileNotFoundError:
        yield "manifest.json", "missing"
        return
    except msgspec.DecodeError:
        yield "manifest.json", "damaged"
        return
    for name, facts in manifest.files.items():
        try:
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts.sha256:
                    yield name, "damaged"
        except FileNotFoundError:
            yield name, "missing"


def _files(path: Path) -> Iterator[os.stat_result]:
    """The states of all files below a folder; of those that go meanwhile nothing."""
    for one in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if one.is_file():
                yield one.stat()


def _ours(path: Path) -> bool:
    """Whether it is a folder of its own: what a link leads to is for whoever made the link."""
    return path.is_dir() and not path.is_symlink()


def _newest_s(path: Path) -> float:
    """When a folder was last written to, anywhere in it; for ever from now where it is gone."""
    try:
        return max([path.stat().st_mtime, *(state.st_mtime for state in _files(path))])
    except FileNotFoundError:
        return math.inf


def _remove(path: Path) -> None:
    """Delete a folder, which is there as a whole or not at all, whatever stops this when."""
    aside = path if path.name.startswith(_ASIDE) else path.with_name(f"{_ASIDE}{path.name}")
    if path != aside:
        path.rename(aside)
    shutil.rmtree(aside)
