"""Trained models: what a finished run exported becomes a version that knows its run, recipe, parent and data."""

from tandem.formats import facts, read_header
from tandem.registry.datasets import Datasets
from tandem.registry.runs import Runs
from tandem.registry.versions import Registry
from tandem.spec import Artifact, Run, Task, Version


def register_run(run: Run, registry: Registry, runs: Runs, datasets: Datasets) -> Version:
    """Make the exported model of a run a version of its recipe's name; a second time changes nothing.

    Raises:
        NotFound: the export is gone.
        IntegrityError: the export is no GGUF file.
    """
    recipe, path = runs.recipe(run.run_id), runs.folder(run.run_id).export / "model.gguf"
    stored = registry.blobs.put(path, share=True)
    known = facts(read_header(path))
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
        artifact=Artifact(digest=stored.digest, size=stored.size, format="gguf"),
        origin=f"run:{run.run_id}",
        facts=known | lineage,
    )
