"""What the registry knows of lineage: versions, the runs that made them, recipes, data, tokenizers and parents."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from tandem.kit.errors import InvalidRequest, NotFound
from tandem.registry.datasets import Dataset, Datasets
from tandem.registry.lineage.graph import Kind, Node, Step
from tandem.registry.runs import Runs
from tandem.registry.versions import Registry
from tandem.spec import Data, Happened, Recipe, Run, Story, Version, read_story

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_RUN_ORIGIN = "run:"
_FACTS = ("architecture", "parameters", "quantization", "context_length", "license")


class Origins:
    """Reads lineage from the registry. Its methods block."""

    def __init__(self, registry: Registry, runs: Runs, datasets: Datasets) -> None:
        self._registry = registry
        self._runs = runs
        self._datasets = datasets

    def find(self, ref: str) -> Node | None:
        """What a person means by a version, a run, a digest, or a recipe's name; None if nothing here has that name.

        Raises:
            InvalidRequest: several runs begin so.
        """
        if match := _DIGEST.fullmatch(ref):
            return self._with_digest(f"sha256:{match[1]}")
        if ref.startswith("run_"):
            return self._found_run(ref)
        try:
            return self.named(self._registry.known(ref).ref)
        except (NotFound, InvalidRequest):
            return self._found_run(ref)

    def version(self, version: Version) -> Node:
        """A version as a node."""
        told = {key: version.facts.get(key) for key in _FACTS}
        facts = {"origin": version.origin, "task": version.task.value, "digest": version.artifact.digest, **told}
        facts |= {"size": version.artifact.size, "base": version.artifact.base}
        if version.artifact.base:
            facts["merged"] = version.whole
        return Node(kind=Kind.VERSION, id=version.ref, title=version.ref, facts=_said(facts))

    def named(self, ref: str) -> Node:
        """The version that something else names; a missing one where it is not here any more."""
        try:
            version = self._registry.known(ref)
        except (NotFound, InvalidRequest):
            return Node(kind=Kind.VERSION, id=ref, title=ref, missing=True)
        gone = self._registry.find(version.name, version.artifact.digest) is None
        return replace(self.version(version), missing=gone)

    def sources(self, node: Node) -> Iterator[Step]:
        """What a version, a run or a recipe came from."""
        match node.kind:
            case Kind.VERSION:
                yield from self._before_version(node)
            case Kind.RUN if not node.missing:
                run = self._runs.read(node.id)
                yield Step("executes", self._recipe(run.recipe_id, self._runs.recipe(run.run_id)))
            case Kind.RECIPE if (recipe := self._recipe_of(node.id)) is not None:
                yield from self._before_recipe(recipe)
            case _:
                return

    def results(self, node: Node) -> Iterator[Step]:
        """What came of data, a tokenizer, a parent, a recipe or a run."""
        match node.kind:
            case Kind.DATASET | Kind.TOKENIZER | Kind.ARTIFACT:
                word = {Kind.DATASET: "learns from", Kind.TOKENIZER: "reads with"}.get(node.kind, "begins from")
                yield from self._recipes_naming(node.id, word)
            case Kind.VERSION:
                whole = str(node.facts.get("merged") or node.facts.get("digest", ""))
                yield from self._recipes_naming(whole, "begins from")
            case Kind.RECIPE:
                yield from (Step("executes", self._run(run.run_id)) for run in self._runs.of_recipe(node.id))
            case Kind.RUN:
                yield from self._after_run(node)
            case _:
                return

    def _before_version(self, node: Node) -> Iterator[Step]:
        origin = str(node.facts.get("origin", ""))
        if not origin.startswith(_RUN_ORIGIN):
            return
        run = self._run(origin.removeprefix(_RUN_ORIGIN))
        yield Step("made by", run)
        if run.missing:  # what the version itself remembers
            facts = self._registry.known(node.id).facts
            yield from (Step("learns from", self._dataset(str(digest))) for digest in _texts(facts.get("datasets")))
            if parent := str(facts.get("parent") or ""):
                yield Step("begins from", self._bytes(parent, prefer=""))

    def _before_recipe(self, recipe: Recipe) -> Iterator[Step]:
        for data in recipe.data:
            yield Step("learns from", self._dataset(data.sha256, data))
        if recipe.tokenizer.sha256:
            yield Step("reads with", _tokenizer(recipe))
        if recipe.model.shape is None:
            yield Step("begins from", self._bytes(recipe.model.parent_sha256, prefer=recipe.model.parent))

    def _after_run(self, node: Node) -> Iterator[Step]:
        found = {version.ref: self.version(version) for version in self._registry.from_origin(f"run:{node.id}")}
        ref = str(node.facts.get("version", ""))
        if ref and ref not in found:  # the same bytes were there under this name already
            found[ref] = self.named(ref)
        yield from (Step("made by", version) for version in found.values())

    def _recipes_naming(self, digest: str, word: str) -> Iterator[Step]:
        told: set[str] = set()
        for run_id in self._runs.naming(digest) if digest else ():
            recipe, identity = self._runs.recipe(run_id), self._runs.read(run_id).recipe_id
            if identity not in told and digest in _role(recipe, word):
                told.add(identity)
                yield Step(word, self._recipe(identity, recipe))

    def _with_digest(self, digest: str) -> Node | None:
        if versions := self._registry.with_digest(digest):
            return self.version(versions[0])
        if self._datasets.find(digest) is not None:
            return self._dataset(digest)
        if (recipe := self._recipe_of(digest)) is not None:
            return self._recipe(digest, recipe)
        for run_id in self._runs.naming(digest)[:1]:
            recipe = self._runs.recipe(run_id)
            if digest == recipe.tokenizer.sha256:
                return _tokenizer(recipe)
            data = next((data for data in recipe.data if data.sha256 == digest), None)
            return self._dataset(digest, data) if data is not None else self._bytes(digest, prefer="")
        return None

    def _found_run(self, ref: str) -> Node | None:
        """A run by its id or the beginning of it, or the newest one of a recipe's name."""
        try:
            run = self._runs.resolve(ref)
        except NotFound:
            return None
        return self._run(run.run_id) if ref.startswith("run_") or run.name == ref else None

    def _run(self, run_id: str) -> Node:
        try:
            run = self._runs.read(run_id)
        except NotFound:
            return Node(kind=Kind.RUN, id=run_id, title=run_id, missing=True)
        story = read_story(self._runs.folder(run_id), metrics=())
        return Node(kind=Kind.RUN, id=run_id, title=run_id, facts=_said(run_facts(run, story)))

    def _recipe_of(self, identity: str) -> Recipe | None:
        runs = self._runs.of_recipe(identity)
        return self._runs.recipe(runs[0].run_id) if runs else None

    def _recipe(self, identity: str, recipe: Recipe) -> Node:
        facts = {
            "objective": recipe.objective.name,
            "seed": recipe.seed,
            "about": recipe.about,
            "adapter": "lora" if recipe.adapter is not None else "",
        }
        return Node(kind=Kind.RECIPE, id=identity, title=f"{recipe.name} {short(identity)}", facts=_said(facts))

    def _dataset(self, digest: str, data: Data | None = None) -> Node:
        known = self._datasets.find(digest)
        if known is None and data is not None:
            known = Dataset(digest=digest, source=data.source, format=data.format, license=data.license)
        if known is None:
            return Node(kind=Kind.DATASET, id=digest, title=short(digest), missing=True)
        facts = {"license": known.license or "licence unknown", "format": known.format, **known.counts}
        title = f"{public_source(known.source)} {short(digest)}".strip()
        return Node(kind=Kind.DATASET, id=digest, title=title, facts=facts)

    def _bytes(self, digest: str, *, prefer: str) -> Node:
        """The version with these weights, that of the name `prefer` if it is among them; or the bare digest."""
        versions = self._registry.with_weights(digest)
        name = prefer.partition("@")[0]
        chosen = next((one for one in versions if one.name == name), versions[0] if versions else None)
        if chosen is not None:
            return self.version(chosen)
        title = f"{prefer} {short(digest)}".strip()
        return Node(kind=Kind.ARTIFACT, id=digest, title=title, missing=True)


def run_facts(run: Run, story: Story) -> dict[str, Any]:
    """What is told of a run: where and how long it was trained, and what came out."""
    environment = story.last(Happened.RUNNING).get("environment", {})
    evaluation = run.evaluation
    return {
        "name": run.name,
        "state": run.state.value,
        "version": run.version,
        "system": story.placement.get("system", ""),
        "device": environment.get("device", ""),
        "workers": story.placement.get("workers", ""),
        "attempts": run.attempt,
        "steps": run.step,
        "tokens": story.summary.get("tokens", evaluation.get("tokens", "")),
        "loss": evaluation.get("loss", ""),
        "seconds": round(story.running_s, 1),
        "usd": round(story.usd, 2),
        "began_at": moment(run.created_at),
    }


def public_source(source: str) -> str:
    """A source without the folders that it lies in, which are nobody else's business."""
    kind, colon, place = source.partition(":")
    return f"{kind}:{PurePath(place).name}" if colon and kind in {"file", "folder"} else source


def moment(milliseconds: int) -> str:
    """Unix milliseconds as a time in UTC, ISO 8601."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def short(digest: str) -> str:
    """As much of a digest as tells it from others."""
    return digest.removeprefix("sha256:")[:12]


def _tokenizer(recipe: Recipe) -> Node:
    own = recipe.model.shape is not None
    facts = {"from": "learnt from the data" if own else "the parent's"}
    if own:
        facts |= {"vocabulary": str(recipe.tokenizer.vocab), "splits": recipe.tokenizer.pre}
    digest = recipe.tokenizer.sha256
    return Node(kind=Kind.TOKENIZER, id=digest, title=short(digest), facts=facts)


def _role(recipe: Recipe, word: str) -> set[str]:
    """The digests that a recipe names in the place that a word speaks of."""
    if word == "learns from":
        return {data.sha256 for data in recipe.data}
    return {recipe.tokenizer.sha256 if word == "reads with" else recipe.model.parent_sha256}


def _texts(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _said(facts: Mapping[str, Any]) -> dict[str, object]:
    return {key: value for key, value in facts.items() if value not in ("", None)}
