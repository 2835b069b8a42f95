"""Trained models: what a finished run exported becomes a version that knows its run, recipe, parent and data."""

from tandem.formats import GGUFHeader, check_adapter, facts, read_header, same_manners
from tandem.kit.errors import IntegrityError
from tandem.registry.datasets import Datasets
from tandem.registry.runs import Runs
from tandem.registry.versions import Registry
from tandem.spec import Artifact, Recipe, Run, Task, Version


def register_run(run: Run, registry: Registry, runs: Runs, datasets: Datasets) -> Version:
    """Make the exported model of a run a version of its recipe's name; a second time changes nothing.

    A trained adapter is one on its base, the parent's file, where that is here and is asked in the same way as the
    merged model; otherwise the merged model is the version.

    Raises:
        NotFound: the export is gone.
        IntegrityError: the export is no GGUF file, or no adapter of its parent.
    """
    recipe, export = runs.recipe(run.run_id), runs.folder(run.run_id).export
    origin, path = f"run:{run.run_id}", export / "model.gguf"
    header = read_header(path)
    known, base = facts(header), ""
    stored = registry.blobs.put(path, share=True)
    parent = _base(recipe, header, registry)
    # What an older program registered merged stays what it is.
    before = any(one.artifact.digest == stored.digest for one in registry.from_origin(origin))
    if parent is not None and not before:
        path, base = export / "adapter.gguf", recipe.model.parent_sha256
        check_adapter(read_header(path), parent)
        # What is trained from it begins from the merged model.
        known |= {"merged": stored.digest, "quantization": facts(parent)["quantization"]}
        stored = registry.blobs.put(path, share=True)
    data = datasets.of_run(run.run_id)
    lineage = {
        "run": run.run_id,
        "recipe": run.recipe_id,
        "parent": recipe.model.parent_sha256,
        "tokenizer": recipe.tokenizer.sha256,
        "system": runs.placement(run.run_id).system,
        "datasets": [dataset.digest for dataset in data],
        "data_licenses": sorted({dataset.license for dataset in data if dataset.license}),
    }
    return registry.add(
        recipe.name,
        task=Task(str(known["task"])),
        artifact=Artifact(digest=stored.digest, size=stored.size, format="gguf", base=base),
        origin=origin,
        facts=known | lineage,
    )


def _base(recipe: Recipe, merged: GGUFHeader, registry: Registry) -> GGUFHeader | None:
    """The file of the parent, if the adapter can be served on it in place of the merged model."""
    if recipe.adapter is None:
        return None
    try:
        parent = read_header(registry.file(recipe.model.parent_sha256))
    except IntegrityError:
        return None  # it is gone since; the merged model needs it no more
    return parent if same_manners(merged, parent) else None
