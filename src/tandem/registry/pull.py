"""Pulling a model: fetch, check, store, register; stopped anywhere, it leaves nothing half-done and goes on."""

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.formats import FOLDER_FILES, convert_folder, facts, plain_words, read_header
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, IntegrityError, StorageFull, UnsupportedFeature
from tandem.kit.ids import sha256_hex
from tandem.registry.sources import Description, Fetched, Hub, Progress, Source, open_source
from tandem.registry.sources.catalogue import CATALOGUE
from tandem.registry.sources.foreign import refuse_content
from tandem.registry.versions import Registry, check_name
from tandem.spec import Artifact, Task, Version


def _silent(_step: str, _done: int, _total: int | None) -> None:
    """Report to nobody."""


async def pull(
    source_text: str,
    *,
    registry: Registry,
    settings: Settings,
    name: str | None = None,
    progress: Progress = _silent,
) -> Version:
    """Fetch the model that `source_text` names and register it; bytes that are already here keep their version.

    What has arrived stays in the home folder's `downloads` until the version is registered, so that a pull that
    was stopped goes on when it is run again.

    Raises:
        InvalidRequest: the source or the name is none.
        NotFound: there is no such model.
        UnsupportedFeature: it is not in a form that Tandem takes, such as a pickle or an unknown architecture.
        IntegrityError: the bytes are not those that were promised, or no model.
        Unavailable: the place does not answer; StorageFull: the disk is full.
        Conflict: another process pulls the same model.
    """
    hub = Hub(url=settings.hub_url, token=settings.hub_token, allow_private=settings.allow_private_upstreams)
    source = open_source(source_text, hub)
    if name is None and source_text in CATALOGUE:
        name = source_text
    if name is not None:
        check_name(name)
    downloads = settings.home / "downloads"
    return await pull_from(source, registry=registry, downloads=downloads, name=name, progress=progress)


async def pull_from(
    source: Source, *, registry: Registry, downloads: Path, name: str | None = None, progress: Progress = _silent
) -> Version:
    """As `pull`, from an opened source, with unfinished bytes in the folder `downloads`."""
    description = await source.describe()
    name = check_name(name or description.name)
    if description.pinned and (known := await asyncio.to_thread(_intact, registry, name, description)):
        return known
    folder = downloads / sha256_hex(description.origin)[:32]
    try:
        with _only_one(folder):
            fetched = await source.fetch(folder, progress=progress)
            version = await asyncio.to_thread(
                _register,
                fetched,
                registry=registry,
                name=name,
                description=description,
                folder=folder,
                progress=progress,
            )
            await asyncio.to_thread(shutil.rmtree, folder)
            return version
    except (IntegrityError, UnsupportedFeature):
        await asyncio.to_thread(shutil.rmtree, folder)  # it would be as wrong the next time
        raise
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StorageFull(
            f"No space left for the model {name}.",
            remedy=f"Free some space and run it again; {downloads} holds what has arrived.",
        ) from error


def _intact(registry: Registry, name: str, description: Description) -> Version | None:
    """The version that an earlier pull made, unless its bytes were damaged since."""
    version = registry.pulled(name, description.origin)
    try:
        if version is not None:
            registry.path(version)
    except IntegrityError:
        return None
    return version


def _register(
    fetched: Fetched, *, registry: Registry, name: str, description: Description, folder: Path, progress: Progress
) -> Version:
    path, ours = fetched.path, fetched.ours
    files: dict[str, str] = {}
    _refuse_foreign(path)
    if path.is_dir():
        files = {name: f"sha256:{_sha256(path / name)}" for name in FOLDER_FILES if (path / name).is_file()}
        progress("convert", 0, None)
        # Named for the source, not for the version: under two names it is one file.
        path, ours = convert_folder(path, folder / "converted.gguf", name=description.name), True
    found = _checked(path)
    task = Task(str(found.pop("task")))
    license_name = plain_words(description.license or str(found["license"] or "") or fetched.license or "")
    stored = registry.blobs.put(path, share=ours, progress=lambda done, total: progress("store", done, total))
    if not ours:
        _checked(registry.blobs.local(stored.digest))  # its owner may have written to it since we looked
    source = {
        "revision": description.revision,
        "archive": fetched.archive,
        "files": files or {fetched.path.name: stored.digest},
    }
    return registry.add(
        name,
        task=task,
        artifact=Artifact(digest=stored.digest, size=stored.size, format="gguf"),
        origin=description.origin,
        facts=found | {"license": license_name or None, "source": source},
    )


def _refuse_foreign(path: Path) -> None:
    """Say what a file is that calls itself a model and is of another format."""
    weights = path / "model.safetensors" if path.is_dir() else path
    if weights.is_file():
        refuse_content(weights)


def _checked(path: Path) -> dict[str, object]:
    """The facts of a GGUF file that holds one whole model.

    Raises:
        IntegrityError: it is damaged, or no GGUF file.
        UnsupportedFeature: it is a part of a model, or something that belongs to one.
    """
    header = read_header(path)
    kind = header.text("general.type") or "model"
    if kind != "model" or not header.tensors:
        raise UnsupportedFeature(
            f"{path.name} holds no model of its own: it is of type {kind[:80]}.", remedy="Pull the model itself."
        )
    if (parts := header.integer("split.count") or 1) > 1:
        raise UnsupportedFeature(
            f"{path.name} is one of {parts} parts of a model.",
            remedy="Join them first: llama-gguf-split --merge FIRST-PART WHOLE.gguf",
        )
    return facts(header)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder against other pulls of the same model; the kernel frees it however this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the folder between our opening and our locking.
            if os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError) as error:
            raise Conflict(
                "Another process pulls the same model.", remedy="Wait for it, then run this again."
            ) from error
        yield
