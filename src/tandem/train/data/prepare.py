"""`prepare`: everything that a recipe names, made ready in the home folder, and the recipe pinned to its digests."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tandem.formats import folder_from_gguf
from tandem.kit import clock
from tandem.kit.errors import IntegrityError, InvalidRequest, NotFound, TandemError
from tandem.spec import Data, Recipe, parse_recipe
from tandem.train.data.dataset import Dataset, Progress, make_dataset, open_dataset
from tandem.train.data.folders import (
    MANIFEST,
    FileFacts,
    file_facts,
    folder_facts,
    hex_of,
    read_manifest,
    shelve,
    staging,
    verify,
)
from tandem.train.data.samples import make_store, open_samples, open_store
from tandem.train.data.text import Text, text_digest
from tandem.train.data.tokenizer import make_tokenizer

FORMATS: Mapping[str, frozenset[str]] = {
    "lm": frozenset({"text", "code"}),
    "fim": frozenset({"text", "code"}),
    "sft": frozenset({"chat", "questions"}),
    "dpo": frozenset({"preference"}),
}
"""What each objective learns from; an objective of another package checks that itself."""

_SHOWN = 10  # bad records in the summary
_TELL_EVERY_S = 0.2


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What `prepare_main` is asked for, as JSON. `parent_digest` is that of the GGUF file `parent_gguf`."""

    recipe: dict[str, Any]
    home: str
    parent_gguf: str | None = None
    parent_digest: str = ""


class _ParentManifest(msgspec.Struct, frozen=True, kw_only=True):
    files: dict[str, FileFacts]


def prepare(recipe: Recipe, *, home: Path, parent_gguf: Path | None, progress: Progress) -> Recipe:
    """Make data sets, the tokenizer or the parent's folder, and samples; what is there already is used.

    Returns the recipe with the digest of everything that the result depends on, and the licences that were found.

    Raises:
        InvalidRequest: the objective cannot learn from a format, a source is unusable, or something is pinned to
            another digest than what is there.
        NotFound, MissingPrerequisite, Unavailable, StorageFull, IntegrityError, UnsupportedFeature: as they say.
    """
    check_formats(recipe)
    recipe, parent = _with_parent(recipe, home=home, gguf=parent_gguf, progress=progress)
    datasets = [_dataset(data, recipe, home=home, progress=progress) for data in recipe.data]
    if parent is not None:
        digest = _checked_parent_tokenizer(recipe, parent)
    else:
        parent, digest = make_tokenizer(recipe.tokenizer, datasets, home=home, progress=progress)
    pinned = msgspec.structs.replace(
        recipe,
        data=tuple(_pinned(data, dataset) for data, dataset in zip(recipe.data, datasets, strict=True)),
        tokenizer=msgspec.structs.replace(recipe.tokenizer, sha256=digest),
    )
    text = Text(parent)
    for dataset in datasets:
        for side in ("train", "held_out"):
            make_store(pinned, dataset, side, home=home, text=text, progress=progress)
    if not len(open_samples(home, pinned, "train")):
        raise InvalidRequest(
            "No record is left to train on.", remedy="The summary of each data set says why; add records.", param="data"
        )
    return pinned


def check_formats(recipe: Recipe) -> None:
    """Refuse data that the recipe's objective cannot learn from.

    Raises:
        InvalidRequest: the message names the entry.
    """
    known = FORMATS.get(recipe.objective.name)
    for place, data in enumerate(recipe.data):
        if known is not None and data.format not in known:
            raise InvalidRequest(
                f"The objective {recipe.objective.name!r} cannot learn from data.{place}, whose format is "
                f"{data.format!r}.",
                remedy=f"It learns from {' and '.join(sorted(known))}.",
                param=f"data.{place}.format",
            )


def open_parent(home: Path, recipe: Recipe) -> Path:
    """The Hugging Face folder of a pinned recipe's parent, with every file checked.

    Raises:
        NotFound: it has not been prepared.
        IntegrityError: a file of it has changed.
    """
    folder = home / "parents" / hex_of(recipe.model.parent_sha256)
    verify(folder, read_manifest(folder, _ParentManifest).files)
    return folder


def summary(recipe: Recipe, home: Path) -> dict[str, Any]:
    """What was prepared for a pinned recipe, for a person: counts, what was put aside and why, sizes, licences."""
    samples = {side: open_samples(home, recipe, side) for side in ("train", "held_out")}
    return {
        "data": [_data_summary(recipe, data, home) for data in recipe.data],
        "tokenizer": recipe.tokenizer.sha256,
        **{
            side: {"samples": len(held), "tokens": held.tokens, "bytes": held.bytes, "longest": held.longest}
            for side, held in samples.items()
        },
        "epoch_steps": math.ceil(len(samples["train"]) / recipe.batch.samples),
    }


def prepare_main(request_path: Path) -> int:
    """Do what a request file asks, telling of it in JSON lines on standard output; returns the exit status.

    Lines are {"step", "done", "total"}; the last one is {"pinned", "summary"}, or {"error"} with status 1.
    """
    try:
        request = msgspec.json.decode(request_path.read_bytes(), type=_Request)
        recipe = _with_digest(parse_recipe(request.recipe, where=str(request_path)), request.parent_digest)
        home = Path(request.home)
        gguf = Path(request.parent_gguf) if request.parent_gguf else None
        pinned = prepare(recipe, home=home, parent_gguf=gguf, progress=_Teller())
        _say({"pinned": pinned, "summary": summary(pinned, home)})
    except TandemError as error:
        _say({"error": {"message": error.message, "remedy": error.remedy, "code": error.code}})
        return 1
    except (OSError, msgspec.DecodeError) as error:
        _say({"error": {"message": f"{error}.", "remedy": "Check the paths of the recipe and of the home folder."}})
        return 1
    return 0


class _Teller:
    """Progress as lines, a few a second and the first of each step."""

    def __init__(self) -> None:
        self._step = ""
        self._told = 0.0

    def __call__(self, step: str, done: int, total: int | None) -> None:
        now = clock.monotonic_seconds()
        if step != self._step or now - self._told >= _TELL_EVERY_S:
            self._step, self._told = step, now
            _say({"step": step, "done": done, "total": total})


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


def _with_digest(recipe: Recipe, digest: str) -> Recipe:
    if not digest or recipe.model.parent_sha256 == digest:
        return recipe
    if recipe.model.parent_sha256:
        raise InvalidRequest(
            f"The parent {recipe.model.parent} is {digest}, and the recipe is pinned to {recipe.model.parent_sha256}.",
            remedy="Name the version that it was pinned to, or empty model.parent_sha256: that is another recipe.",
            param="model.parent_sha256",
        )
    return msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, parent_sha256=digest))


def _with_parent(recipe: Recipe, *, home: Path, gguf: Path | None, progress: Progress) -> tuple[Recipe, Path | None]:
    """The recipe with its parent's digest, and the parent's folder, made from the GGUF file if it is not there."""
    if recipe.model.shape is not None:
        return recipe, None
    shelf = home / "parents"
    if recipe.model.parent_sha256 and (shelf / hex_of(recipe.model.parent_sha256) / MANIFEST).is_file():
        return recipe, open_parent(home, recipe)
    if gguf is None or not gguf.is_file():
        raise NotFound(f"The file of the parent {recipe.model.parent} is missing.", remedy="Pull the parent first.")
    progress("reading the parent", 0, None)
    digest = f"sha256:{file_facts(gguf).sha256}"
    if recipe.model.parent_sha256 not in {"", digest}:
        raise IntegrityError(
            f"{gguf} is {digest}, not the parent {recipe.model.parent_sha256}.", remedy="Pull the parent again."
        )
    recipe = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, parent_sha256=digest))
    if (shelf / hex_of(digest) / MANIFEST).is_file():
        return recipe, open_parent(home, recipe)
    with staging(shelf) as part:
        folder = folder_from_gguf(gguf, part / "folder")
        manifest = _ParentManifest(files=folder_facts(folder, [path.name for path in folder.iterdir()]))
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest, order="sorted"))
        return recipe, shelve(folder, shelf / hex_of(digest))


def _checked_parent_tokenizer(recipe: Recipe, parent: Path) -> str:
    digest = text_digest(parent)
    if recipe.tokenizer.sha256 not in {"", digest}:
        raise InvalidRequest(
            f"The parent's tokenizer is {digest}, and the recipe is pinned to {recipe.tokenizer.sha256}.",
            remedy="Leave tokenizer.sha256 empty: a parent brings its own.",
            param="tokenizer.sha256",
        )
    return digest


def _dataset(data: Data, recipe: Recipe, *, home: Path, progress: Progress) -> Dataset:
    if data.sha256 and (home / "datasets" / hex_of(data.sha256)).is_dir():
        return open_dataset(home, data)
    if not data.source:
        raise NotFound(
            f"The data set {data.sha256 or 'without a source'} is not here.",
            remedy="Bring its folder from where it was made, or name its source.",
        )
    return make_dataset(data, recipe.curation, home=home, progress=progress)


def _pinned(data: Data, dataset: Dataset) -> Data:
    licenses = data.license or ", ".join(dataset.manifest.licenses)
    return msgspec.structs.replace(data, sha256=dataset.digest, license=licenses)


def _data_summary(recipe: Recipe, data: Data, home: Path) -> dict[str, Any]:
    dataset = open_dataset(home, data)
    stores: Sequence[Any] = [open_store(home, recipe, dataset, side).manifest for side in ("train", "held_out")]
    return {
        "source": data.source,
        "format": data.format,
        "sha256": data.sha256,
        "weight": data.weight,
        "license": data.license,
        **msgspec.to_builtins(dataset.manifest.counts),
        "bad": msgspec.to_builtins(dataset.bad_records(_SHOWN)),
        "refused": sum(store.refused for store in stores),
        "first_refused": [msgspec.to_builtins(bad) for store in stores for bad in store.first_refused][:_SHOWN],
        "longer_than_context": sum(store.longer for store in stores),
    }
