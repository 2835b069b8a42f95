"""Describing a version: its model card, from all that the registry, its run, its evidence and its releases tell."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.kit.pages import is_number
from tandem.registry.datasets import Dataset, Datasets
from tandem.registry.lineage.card import Bullets, Card, Facts, Grid, Paragraph, Section
from tandem.registry.lineage.origins import moment, public_source, run_facts, short
from tandem.registry.releases import Filed, ReleaseState, Standing
from tandem.registry.runs import Runs
from tandem.registry.versions import Registry
from tandem.spec import Happened, Recipe, Story, Task, Version, flat, read_story

SUITES: Mapping[str, str] = {
    "quality-chat": "how well it answers questions",
    "quality-code": "how well it completes code",
    "safety-core": "whether it refuses what is harmful, and only that",
    "regression": "whether it repeats faults that were found before",
    "performance": "how fast it is",
}
"""The suites, and what nobody knows of a model that has no evidence of one."""

_SMALL = 1_000_000_000  # parameters
_TINY = 50_000_000
_CODE_OBJECTIVES = frozenset({"fim"})


@dataclass(frozen=True, slots=True)
class Dossier:
    """What was found out and decided about a version."""

    evidence: Sequence[Filed] = ()
    releases: Sequence[Standing] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """All that a card is made from; without a story the version was imported, or its run is on another machine."""

    version: Version
    dossier: Dossier
    story: Story | None
    recipe: Recipe | None
    datasets: Sequence[Dataset]
    parent: str


def describe(
    version: Version, *, registry: Registry, runs: Runs, datasets: Datasets, dossier: Dossier | None = None
) -> Card:
    """The card of a version."""
    run_id = version.origin.removeprefix("run:") if version.origin.startswith("run:") else ""
    here = bool(run_id) and runs.folder(run_id).recipe.exists()
    recipe = runs.recipe(run_id) if here else None
    known = _Known(
        version=version,
        dossier=dossier or Dossier(),
        story=read_story(runs.folder(run_id), metrics=()) if here else None,
        recipe=recipe,
        datasets=datasets.of_run(run_id) if run_id else (),
        parent=_parent(version, recipe, registry),
    )
    made = [_glance(known), _making(known), _data(known), _held_out(known), _evidence(known), _releases(known)]
    sections = [section for section in (*made, _limits(known)) if section is not None]
    return Card(version.ref, _summary(known), sections)


def _summary(known: _Known) -> str:
    if known.recipe is not None and known.recipe.about:
        return known.recipe.about
    what = "makes vectors of texts" if known.version.task is Task.EMBED else "writes text"
    made = "trained here" if known.version.origin.startswith("run:") else f"from {known.version.origin}"
    return f"A model that {what}, {made}."


def _glance(known: _Known) -> Section:
    version, facts = known.version, known.version.facts
    rows = {
        "for": "embeddings" if version.task is Task.EMBED else "text",
        "origin": version.origin,
        "parent": known.parent,
        "architecture": facts.get("architecture"),
        "parameters": _count(facts.get("parameters")),
        "context": f"{_count(facts.get('context_length'))} tokens" if facts.get("context_length") else "",
        "weights": facts.get("quantization"),
        "fills gaps in text": "yes" if facts.get("fim") else "",
        "licence": facts.get("license") or ("" if known.datasets else "not stated"),
        "file": f"{version.artifact.format}, {_bytes(version.artifact.size)}",
        "digest": version.artifact.digest,
        "base": version.artifact.base,
    }
    return Section("At a glance", [Facts(_told(rows))])


def _making(known: _Known) -> Section | None:
    recipe, story = known.recipe, known.story
    if recipe is None or story is None:
        return None
    told = run_facts(story.run, story)
    environment = story.last(Happened.RUNNING).get("environment", {})
    rows = {
        "recipe": story.run.recipe_id,
        "objective": " ".join([recipe.objective.name, *(f"{key}={value}" for key, value in _params(recipe))]),
        "begins from": known.parent or "nothing: fresh weights",
        "adapter": _adapter(known.version, recipe),
        "tokenizer": recipe.tokenizer.sha256,
        "optimizer": _optimizer(recipe),
        "batch": f"{recipe.batch.samples} samples of at most {recipe.batch.context} tokens",
        "seed": str(recipe.seed),
        "run": story.run.run_id,
        "steps": _count(story.run.step),
        "tokens": _count(told["tokens"]),
        "time": _span(story.running_s),
        "attempts": str(story.run.attempt),
        "system": str(told["system"]),
        "workers": str(told["workers"]),
        "hardware": ", ".join(_hardware(environment)),
        "cost": f"{story.usd:,.2f} USD" if story.usd else "not known",
    }
    return Section("How it was trained", [Facts(_told(rows))])


def _data(known: _Known) -> Section | None:
    if not known.datasets:
        return None
    rows = [
        (
            public_source(one.source) or "not stated",
            one.license or "unknown",
            one.format,
            _count(one.counts.get("train")),
            _count(one.counts.get("held_out")),
            short(one.digest),
        )
        for one in known.datasets
    ]
    headings = ("source", "licence", "format", "trained on", "held out", "digest")
    dropped = sum(int(one.counts.get(key, 0)) for one in known.datasets for key in ("duplicates", "near_duplicates"))
    said = f"{dropped:,} duplicates were left out." if dropped else "Records; no duplicate was found."
    return Section("What it was trained on", [Grid(headings, rows), Paragraph(said)])


def _held_out(known: _Known) -> Section | None:
    evaluation = known.story.run.evaluation if known.story is not None else {}
    rows = [(key.replace("_", " ").replace(".", ", "), _number(value)) for key, value in flat(evaluation)]
    rows = [(key, value) for key, value in rows if value]
    if not rows:
        return None
    said = "Measured by its own run on data of the same sources that was kept from training."
    return Section("Held-out results", [Paragraph(said), Facts(rows)])


def _evidence(known: _Known) -> Section:
    found = sorted(known.dossier.evidence, key=lambda one: (one.evidence.suite, one.evidence.measured_at))
    if not found:
        return Section("Evidence", [Paragraph("No suite has been run on it.")])
    cells = [
        (
            one.evidence.suite,
            metric.name,
            _number(metric.value),
            _interval(metric.low, metric.high),
            str(metric.samples),
        )
        for one in found
        for metric in one.evidence.metrics
    ]
    papers = [
        (
            one.evidence.suite,
            short(one.digest),
            short(one.evidence.suite_digest),
            f"{one.evidence.answered} answered, {one.evidence.filtered} filtered, {one.evidence.failed} failed",
            ", ".join(filter(None, (one.evidence.engine, str(one.evidence.hardware.get("processor", ""))))),
            ", ".join(one.signed_by) or "nobody whose word counts",
        )
        for one in found
    ]
    headings = ("suite", "evidence", "suite's digest", "cases", "engine and hardware", "signed by")
    grid = Grid(("suite", "metric", "value", "95 %", "cases"), cells)
    return Section("Evidence", [grid, Grid(headings, papers)])


def _releases(known: _Known) -> Section:
    rows = [
        (
            short(one.digest),
            one.state.value,
            moment(one.release.requested_at)[:10],
            one.release.mode,
            ", ".join(one.signed_by) or "nobody yet",
        )
        for one in known.dossier.releases
    ]
    if not rows:
        return Section("Releases", [Paragraph("It has not been released.")])
    return Section("Releases", [Grid(("release", "state", "asked for", "mode", "signed by"), rows)])


def _limits(known: _Known) -> Section:
    return Section("Limits", [Bullets([*_abilities(known), *_unmeasured(known), *_unlicensed(known)])])


def _abilities(known: _Known) -> Iterator[str]:
    facts = known.version.facts
    parameters = facts.get("parameters")
    if known.version.task is Task.GENERATE and isinstance(parameters, int):
        if parameters < _TINY:
            yield f"With {_count(parameters)} weights it is very small: what it writes is often wrong, however fluent."
        elif parameters < _SMALL:
            yield f"With {_count(parameters)} weights it is small: it knows little, and states it as if it knew."
        else:
            yield "It states what is wrong as fluently as what is right."
    if context := facts.get("context_length"):
        both = "" if known.version.task is Task.EMBED else ", prompt and answer together"
        yield f"It reads at most {_count(context)} tokens{both}."
    if known.version.task is Task.GENERATE and not facts.get("chat_template"):
        yield "It has no chat template: it continues text, and does not follow instructions."
    if known.recipe is not None and known.recipe.objective.name in _CODE_OBJECTIVES:
        yield "It was trained to complete and to fill gaps; it was not taught to answer questions."
    if known.version.task is Task.GENERATE and not facts.get("tools"):
        yield "It cannot call tools."


def _unmeasured(known: _Known) -> Iterator[str]:
    if known.version.task is Task.EMBED:
        return
    evidence = [one.evidence for one in known.dossier.evidence]
    have = {one.suite for one in evidence}
    for suite, what in SUITES.items():
        if suite not in have:
            yield f"Nobody has measured {what}: there is no evidence of {suite}."
    failed = [one.suite for one in evidence if one.filtered or one.failed]
    if failed:
        yield f"Some cases of {', '.join(sorted(set(failed)))} got no answer, and count for nothing in its scores."
    if not any(one.state is ReleaseState.IN_FORCE for one in known.dossier.releases):
        yield "No release of it is in force: only development deployments may serve it."


def _unlicensed(known: _Known) -> Iterator[str]:
    unknown = sum(not one.license for one in known.datasets)
    if unknown:
        yield f"The licence of {unknown} of its {len(known.datasets)} datasets is unknown."
    if not known.version.origin.startswith("run:"):
        yield f"What it was trained on is not recorded here; ask its origin, {known.version.origin}."
        if not known.version.facts.get("license"):
            yield "Its file and its origin state no licence."
    elif known.recipe is None:
        yield "Its run is not on this machine: how it was trained is known there."
    if known.parent:
        yield f"It inherits the limits of {known.parent}."


def _parent(version: Version, recipe: Recipe | None, registry: Registry) -> str:
    digest = str(version.facts.get("parent") or (recipe.model.parent_sha256 if recipe is not None else ""))
    if not digest:
        return ""
    wanted = recipe.model.parent.partition("@")[0] if recipe is not None else ""
    found = registry.with_weights(digest)
    chosen = next((one for one in found if one.name == wanted), found[0] if found else None)
    return chosen.ref if chosen is not None else f"{wanted} {short(digest)}".strip()


def _adapter(version: Version, recipe: Recipe) -> str:
    if recipe.adapter is None:
        return ""
    return f"LoRA of rank {recipe.adapter.rank}, {'served on its base' if version.artifact.base else 'merged'}"


def _optimizer(recipe: Recipe) -> str:
    chosen = recipe.optimizer
    rates = f"peak rate {chosen.lr:g}"
    if chosen.name == "muon":
        rates = f"peak rate {chosen.muon_lr:g} for matrices of the layers, {chosen.lr:g} for the rest"
    return f"{chosen.name}, {rates}, {chosen.schedule}"


def _params(recipe: Recipe) -> Iterable[tuple[str, Any]]:
    return sorted(recipe.objective.params.items())


def _hardware(environment: Mapping[str, Any]) -> Iterator[str]:
    for key, unit in (("device", ""), ("processor", ""), ("threads", " threads")):
        if environment.get(key):
            yield f"{environment[key]}{unit}"
    if is_number(peak := environment.get("peak_flops")) and peak:
        yield f"{peak / 1e9:,.0f} GFLOP/s ({environment.get('peak_name', 'peak')})"


def _told(rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in rows.items() if value not in ("", None)]


def _count(value: object) -> str:
    """A whole number for people: in full up to a million, then in millions or billions."""
    if not is_number(value):
        return ""
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _number(value: object) -> str:
    if not is_number(value):
        return value if isinstance(value, str) else ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _interval(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}" if low != high else ""


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"
