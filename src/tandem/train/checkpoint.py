"""Checkpoints: whole or not there, each byte under a digest, fenced against stale attempts, written behind training."""

import errno
import hashlib
import math
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.formats import BFloat16, SafetensorsFile, write_safetensors
from tandem.formats.safetensors_file import sync_folder
from tandem.kit.errors import IntegrityError, StorageFull
from tandem.kit.lines import write_whole

SPACE_FACTOR = 2.2  # free space that a save wants, in its own sizes: it, the export after it, and the logs
INTERVAL_S = (30.0, 1800.0)  # the least and the most between two saves

_FORMAT = 1
_MANIFEST = "manifest.json"
_FOLDER = re.compile(r"step-(\d{8,})(?:\.(tmp|rejected|dropped)-(\d+))?")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Stale(Exception):
    """A newer attempt has taken the run; this one must not write any more."""


class State(NamedTuple):
    """All that the rest of a run needs besides its recipe and step: tensors by name, whole ones."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was written."""

    sha256: str
    bytes: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of itself. Manifests are kept: fields are only added, at the end, with a default.

    `step` is the number of steps done, `parent` that of the checkpoint before it, `attempt` the fencing number.
    """

    recipe_id: str
    step: int
    tokens: int
    attempt: int
    parent: int | None = None
    environment: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    """What was last measured on held-out data; its "loss" decides which checkpoint is the best."""


class Manifest(Facts, frozen=True, kw_only=True):
    """The facts and the files; a folder with another name than `step-N` is no checkpoint, whatever is in it."""

    files: dict[str, Sealed]
    format: int = _FORMAT

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint whose bytes were compared with their digests. The tensors are on the CPU, and the caller's own."""

    manifest: Manifest
    state: State


class _Found(NamedTuple):
    """A folder in the folder of checkpoints; `fate` is empty for one that is in use."""

    path: Path
    step: int
    fate: str
    attempt: int


def interval_s(cost_s: float, mtbf_s: float) -> float:
    """Young's interval between saves that cost `cost_s`, for a failure each `mtbf_s`; from 30 s to 30 minutes."""
    least, most = INTERVAL_S
    return min(max(math.sqrt(2 * cost_s * mtbf_s), least), most)


def preflight(folder: Path, size: int) -> None:
    """Refuse a checkpoint of `size` bytes where there is not enough room around it.

    Raises:
        StorageFull: less than 2.2 times its size is free.
    """
    free, wanted = shutil.disk_usage(folder).free, math.ceil(SPACE_FACTOR * size)
    if free < wanted:
        raise StorageFull(
            f"The disk of {folder} has {free} bytes free; a checkpoint of {size} bytes wants {wanted}.",
            remedy="Free some space; the last checkpoint is whole.",
        )


def save(
    folder: Path,
    state: State,
    facts: Facts,
    *,
    is_current: Callable[[], bool],
    reached: Callable[[str], None] | None = None,
) -> Manifest:
    """Write a checkpoint, so that it is there as a whole or not at all, whatever stops this when.

    `reached` is told of each stage that is about to begin: model, optimizer, manifest, fence, rename, sync. A
    checkpoint of this step that is there already stays: its bytes follow from the recipe and the step.

    Raises:
        Stale: a newer attempt has the run.
        StorageFull: the disk takes no more; nothing is left of this checkpoint.
    """
    tell = reached or (lambda _stage: None)
    _check_current(is_current, facts)
    final = folder / f"step-{facts.step:08}"
    if final.exists():
        return _read_manifest(final)
    with _temporary(final.with_name(f"{final.name}.tmp-{facts.attempt}"), facts, is_current) as path:
        preflight(folder, sum(tensor.nbytes for part in state for tensor in part.values()))
        for name, tensors in zip(State._fields, state, strict=True):
            tell(name)
            write_safetensors(path / f"{name}.safetensors", {key: _array(value) for key, value in tensors.items()})
        tell("manifest")
        files = {f"{name}.safetensors": _sealed(path / f"{name}.safetensors") for name in State._fields}
        manifest = Manifest(**msgspec.structs.asdict(facts), files=files)
        text = msgspec.json.encode(manifest, enc_hook=str)  # torch's version is more than a str
        write_whole(path / _MANIFEST, msgspec.json.format(text))
        sync_folder(path)
        tell("fence")
        _check_current(is_current, facts)
        tell("rename")
        path.rename(final)
        tell("sync")
        sync_folder(folder)
    return manifest


@contextmanager
def _temporary(path: Path, facts: Facts, is_current: Callable[[], bool]) -> Iterator[Path]:
    """A folder for what is not finished; what still has this name afterwards is gone."""
    try:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        yield path
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"No space left to write {path}.", remedy="Free some space; the last checkpoint is whole."
            ) from error
        _check_current(is_current, facts)  # a newer attempt removes what an older one was writing
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _check_current(is_current: Callable[[], bool], facts: Facts) -> None:
    if not is_current():
        raise Stale(f"attempt {facts.attempt} has lost the run to a newer one before step {facts.step} was saved")


def latest(
    folder: Path,
    *,
    recipe_id: str,
    attempt: int,
    on_rejected: Callable[[int, str], None],
    drop_newest: bool = False,
) -> Loaded | None:
    """The newest checkpoint that is what its manifest says, or None where none was ever written.

    Only the first worker of the newest attempt may ask; the others `load` the step that it found. What dead attempts
    left unfinished is removed. Each checkpoint that is rejected is told to `on_rejected` (step, reason) and set
    aside, once an older one is found that holds. `drop_newest` sets aside the newest good one of earlier attempts
    too, once for this attempt, however often it asks.

    Raises:
        IntegrityError: there are checkpoints, and none can be used. A run never begins again by itself.
    """
    found = _listed(folder)
    for one in found:
        if one.fate == "tmp" and one.attempt <= attempt:
            shutil.rmtree(one.path, ignore_errors=True)
    drop = drop_newest and not any(one.fate == "dropped" and one.attempt == attempt for one in found)
    broken = sum(one.fate == "rejected" for one in found)
    rejected: list[tuple[_Found, str]] = []
    for one in sorted(_in_use(found), key=lambda one: -one.step):
        try:
            loaded = load(folder, one.step, recipe_id=recipe_id)
        except IntegrityError as error:
            on_rejected(one.step, error.message)
            rejected.append((one, error.message))
            continue
        for bad, _ in rejected:
            _set_aside(bad, "rejected", attempt)
        if not drop or loaded.manifest.attempt >= attempt:
            return loaded
        _set_aside(one, "dropped", attempt)
        broken, rejected, drop = broken + len(rejected), [], False
    if rejected or broken:
        raise IntegrityError(
            f"None of the checkpoints in {folder} can be used: {rejected[0][1] if rejected else 'all were rejected'}",
            remedy="Put back a copy of that folder, or start a new run.",
        )
    return None


def load(folder: Path, step: int, *, recipe_id: str) -> Loaded:
    """A checkpoint by its step, every byte compared with its digest.

    Raises:
        IntegrityError: it is not there, not whole, not what was written, or of another recipe.
    """
    path = folder / f"step-{step:08}"
    manifest = _read_manifest(path)
    if manifest.recipe_id != recipe_id:
        raise _unusable(path, f"it is of the recipe {manifest.recipe_id}")
    for name, file in manifest.files.items():
        _check_file(path, name, file)
    parts = [_tensors(SafetensorsFile(path / f"{name}.safetensors")) for name in State._fields]
    return Loaded(manifest=manifest, state=State(*parts))


def _check_file(path: Path, name: str, sealed: Sealed) -> None:
    try:
        size = (path / name).stat().st_size
        if size != sealed.bytes:  # known without reading it
            raise _unusable(path, f"{name} has {size} bytes, not {sealed.bytes}")
        if _sealed(path / name).sha256 != sealed.sha256:
            raise _unusable(path, f"the bytes of {name} are not those that were written")
    except OSError as error:
        raise _unusable(path, f"{name} cannot be read: {error.strerror}") from error


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((path / _MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        raise _unusable(path, f"its manifest cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unusable(path, f"its manifest is broken: {error}") from error
    if manifest.format != _FORMAT:
        raise _unusable(path, f"its format is {manifest.format}, and only {_FORMAT} is known")
    if set(manifest.files) != {f"{name}.safetensors" for name in State._fields}:
        raise _unusable(path, f"its manifest names the files {sorted(manifest.files)}")
    if path.name != f"step-{manifest.step:08}":
        raise _unusable(path, f"its manifest is of step {manifest.step}")
    return manifest


def _sealed(path: Path) -> Sealed:
    with path.open("rb") as file:
        return Sealed(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def _unusable(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(f"The checkpoint {path} cannot be used: {cause}.", remedy="The one before it is used.")


def _listed(folder: Path) -> list[_Found]:
    paths = folder.iterdir() if folder.exists() else ()
    named = ((path, _FOLDER.fullmatch(path.name)) for path in paths)
    return [_Found(path, int(name[1]), name[2] or "", int(name[3] or 0)) for path, name in named if name]


def _in_use(found: Iterable[_Found]) -> list[_Found]:
    return [one for one in found if not one.fate]


def _set_aside(one: _Found, fate: str, attempt: int) -> None:
    aside = one.path.with_name(f"{one.path.name}.{fate}-{attempt}")
    shutil.rmtree(aside, ignore_errors=True)
    one.path.rename(aside)


def kept(checkpoints: Iterable[Facts], keep: int) -> set[int]:
    """The steps of the checkpoints that stay: the newest `keep`, the parent of the newest, and the best.

    The newest has not been read back yet, and its parent is what a run falls back on. The final one is the newest of
    a run that is over. The best has the least finite loss, the later one of equals.
    """
    by_step = {one.step: one for one in checkpoints}
    newest = sorted(by_step, reverse=True)[:keep]
    stay = {*newest, *(by_step[step].parent for step in newest[:1])}
    losses = {step: one.evaluation.get("loss") for step, one in by_step.items()}
    measured = [(loss, -step) for step, loss in losses.items() if isinstance(loss, float) and math.isfinite(loss)]
    if measured:
        stay.add(-min(measured)[1])
    return {step for step in by_step if step in stay}


def prune(folder: Path, keep: int, attempt: int) -> None:
    """Delete the checkpoints that need not stay, and those that were set aside; none is ever half there.

    One whose manifest cannot be read counts for nothing and stays: the next attempt will tell of it.
    """
    readable: dict[int, Manifest] = {}
    found = _listed(folder)
    for one in _in_use(found):
        try:
            readable[one.step] = _read_manifest(one.path)
        except IntegrityError:
            continue
    stay = kept(readable.values(), keep)
    for one in _in_use(found):
        if one.step in readable and one.step not in stay:
            _set_aside(one, "dropped", attempt)
    for one in _listed(folder):
        if one.fate in {"dropped", "rejected"}:
            shutil.rmtree(one.path, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that is on the disk; training stood still for `copy_s` of its `seconds`."""

    step: int
    bytes: int
    seconds: float
    copy_s: float


class Saver:
    """Writes checkpoints behind training, one at a time, and keeps few of them; `parent` is the step resumed from.

    What became of one is told once, by the next `save`, `poll` or `wait`: the `Saved`, or the exception.
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_current: Callable[[], bool],
        keep: int,
        parent: int | None = None,
        reached: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._is_current = is_current
        self._keep = keep
        self._parent = parent
        self._reached = reached
        self._writing: Future[Saved] | None = None

    @property
    def busy(self) -> bool:
        """Whether one is being written; `save` would wait for it."""
        return self._writing is not None and not self._writing.done()

    def save(self, state: State, facts: Facts) -> Saved | None:
        """Begin to save a copy of the state, once what is being written is there; returns what became of that.

        Raises:
            Stale: a newer attempt has the run; told of the one before, so nothing new is begun.
            StorageFull: the one before found no space; nothing new is begun.
        """
        before = self.wait()
        began = time.perf_counter()
        copy = State(*({name: _copied(tensor) for name, tensor in part.items()} for part in state))
        copy_s = time.perf_counter() - began
        pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing = pool.submit(self._write, copy, msgspec.structs.replace(facts, parent=self._parent), copy_s)
        pool.shutdown(wait=False)  # its one thread ends with its one task
        return before

    def poll(self) -> Saved | None:
        """What became of the last one, if that is known and was not told yet; raises as `wait` does."""
        return None if self.busy else self.wait()

    def wait(self) -> Saved | None:
        """The same, once it is known.

        Raises:
            Stale: a newer attempt has the run.
            StorageFull: the disk takes no more; the checkpoints before are whole.
        """
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def _write(self, state: State, facts: Facts, copy_s: float) -> Saved:
        began = time.perf_counter()
        manifest = save(self._folder, state, facts, is_current=self._is_current, reached=self._reached)
        prune(self._folder, self._keep, facts.attempt)
        self._parent = facts.step
        seconds = copy_s + time.perf_counter() - began
        return Saved(step=facts.step, bytes=manifest.bytes, seconds=seconds, copy_s=copy_s)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _array(tensor: Tensor) -> NDArray[Any] | BFloat16:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return BFloat16(tensor.view(torch.uint16).numpy())
    return tensor.numpy()


def _tensors(file: SafetensorsFile) -> dict[str, Tensor]:
    made = {}
    for name, entry in file.entries.items():
        tensor = torch.from_numpy(np.array(file.array(name)))  # an own copy: the file may be deleted
        made[name] = tensor.view(torch.bfloat16) if entry.dtype == "BF16" else tensor
    return made
