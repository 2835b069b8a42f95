"""Frozen nouns that cross walls."""

from tandem.spec.artifact import Artifact, Task, Version
from tandem.spec.evidence import EVIDENCE_TYPE, Evidence, Metric, canonical_document
from tandem.spec.flops import CONVENTION, flops_per_token
from tandem.spec.placement import Checkpoints, Limits, Placement, load_placement, parse_placement
from tandem.spec.recipe import (
    Batch,
    Budget,
    Curation,
    Data,
    Evaluation,
    Export,
    Lora,
    Model,
    Objective,
    Optimizer,
    Recipe,
    Tokenizer,
    canonical,
    load_recipe,
    parse_recipe,
    recipe_id,
)
from tandem.spec.run import EXIT_STATUS, Ending, Event, Happened, Job, Run, RunState, fold, lacks_memory
from tandem.spec.run_folder import AttemptFolder, RunFolder
from tandem.spec.shape import Shape
from tandem.spec.story import (
    GOODPUT,
    Story,
    flat,
    read_story,
    without_repeats,
)

__all__ = [
    "CONVENTION",
    "EVIDENCE_TYPE",
    "EXIT_STATUS",
    "GOODPUT",
    "Artifact",
    "AttemptFolder",
    "Batch",
    "Budget",
    "Checkpoints",
    "Curation",
    "Data",
    "Ending",
    "Evaluation",
    "Event",
    "Evidence",
    "Export",
    "Happened",
    "Job",
    "Limits",
    "Lora",
    "Metric",
    "Model",
    "Objective",
    "Optimizer",
    "Placement",
    "Recipe",
    "Run",
    "RunFolder",
    "RunState",
    "Shape",
    "Story",
    "Task",
    "Tokenizer",
    "Version",
    "canonical",
    "canonical_document",
    "flat",
    "flops_per_token",
    "fold",
    "lacks_memory",
    "load_placement",
    "load_recipe",
    "parse_placement",
    "parse_recipe",
    "read_story",
    "recipe_id",
    "without_repeats",
]
