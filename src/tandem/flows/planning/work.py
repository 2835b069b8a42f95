"""From recipes, placements and stories of runs to what the planner reckons with: work, device, measured stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tandem.formats import GGUFHeader, read_header
from tandem.kit.errors import InvalidRequest, UnsupportedFeature
from tandem.kit.pages import is_number
from tandem.plan import ModelSize
from tandem.plan.workshop import Device, Stages, Workload
from tandem.registry import Registry
from tandem.spec import Happened, Lora, Placement, Recipe, Story

FileOf = Callable[[str], Path]
"""The file of registered bytes, by their digest: `Registry.file`."""

_EVALUATIONS = 10  # in a run whose recipe does not say how often: the workshop's own number
_DOCUMENTS = frozenset({"text", "code"})
_LINE_TOKENS = 12  # of a line of code, which is what a gap's filling ends with
_ANSWER_TOKENS = 128  # half of what an answer may have


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What only prepared data tells: 0 where it is not known."""

    steps: int = 0
    held_out: int = 0
    sample_tokens: int = 0


class Registered(Protocol):
    """Where versions are."""

    @property
    def registry(self) -> Registry: ...


def pinned(recipe: Recipe, house: Registered) -> Recipe:
    """The recipe with the digest of the weights that it begins from: its own, or of what the parent's name means now.

    Raises:
        NotFound: there is no such version.
        InvalidRequest: it is an adapter that nobody merged.
    """
    model = recipe.model
    if model.shape is not None or model.parent_sha256:
        return recipe
    digest = house.registry.whole(model.parent)
    return msgspec.structs.replace(recipe, model=msgspec.structs.replace(model, parent_sha256=digest))


def size_of_recipe(recipe: Recipe, *, file: FileOf) -> tuple[ModelSize, int]:
    """The model of a recipe, whose parent is pinned, and how many of its weights are trained.

    Raises:
        IntegrityError, NotFound, UnsupportedFeature: the parent's file is gone, or no decoder of the Llama family.
    """
    if recipe.model.shape is None:
        header = read_header(file(recipe.model.parent_sha256))
        size = _header_size(header, context=recipe.batch.context, name=recipe.model.parent)
    else:
        size = ModelSize.of(
            recipe.model.shape, vocab=recipe.tokenizer.vocab, context=recipe.batch.context, name=recipe.name
        )
    return size, size.parameters if recipe.adapter is None else _adapter(recipe.adapter, size)


def size_of_version(house: Registered, ref: str, *, context: int) -> ModelSize:
    """The sizes of a version of the registry, as its file says them.

    Raises:
        NotFound: there is no such version.
        IntegrityError, UnsupportedFeature: its file is gone, or no decoder of the Llama family.
    """
    version = house.registry.resolve(ref)
    path = house.registry.file(version.artifact.base or version.artifact.digest)
    return _header_size(read_header(path), context=context, name=version.ref)


def work_of_recipe(recipe: Recipe, placement: Placement, *, file: FileOf) -> Workload:
    """The work of a recipe that was not trained yet, and whose parent is pinned.

    Raises:
        InvalidRequest: the budget counts epochs, whose length only prepared data tells.
        UnsupportedFeature: the parent is no decoder of the Llama family.
    """
    sizes = size_of_recipe(recipe, file=file)
    return _work(recipe, placement, sizes=sizes, seen=_Seen())


def work_of_run(story: Story, *, file: FileOf) -> Workload:
    """The work of a run, by its recipe and placement, and what its prepared data turned out to be.

    Raises:
        InvalidRequest: the run's recipe or placement is broken.
        IntegrityError, NotFound, UnsupportedFeature: the parent's file is gone, or no decoder of the Llama family.
    """
    recipe, placement = _typed(story.recipe, Recipe), _typed(story.placement, Placement)
    evaluated = story.told(Happened.EVALUATED)
    tokens, steps = story.summary.get("tokens"), story.run.steps
    mean = round(float(tokens) / steps / recipe.batch.samples) if is_number(tokens) and tokens and steps else 0
    packed = recipe.data[0].format in _DOCUMENTS  # rows as long as the context, or padded to it
    seen = _Seen(
        steps=steps,
        held_out=int(evaluated[0].fields.get("held_out_samples", 0)) if evaluated else 0,
        sample_tokens=0 if packed else min(mean, recipe.batch.context),
    )
    return _work(recipe, placement, sizes=size_of_recipe(recipe, file=file), seen=seen)


def device_of(story: Story) -> Device | None:
    """What a run computed on, as its own probe measured it before it trained; None where it did not say."""
    told = story.last(Happened.RUNNING)
    environment = told.get("environment", {})
    if not is_number(environment.get("peak_flops")) or environment["peak_flops"] <= 0:
        return None
    return device_of_probe(environment, half=bool(told.get("choices", {}).get("half")))


def device_of_probe(told: Mapping[str, Any], *, half: bool) -> Device:
    """What a probe found, for a run that may compute in bf16 or may not; a CPU gives its peak for all workers."""
    gain, peak = float(told.get("bf16_gain", 0.0)), float(told["peak_flops"])
    name = f"{told.get('device', '')}: {told.get('peak_name', '')}"
    if told.get("device") != "cpu":
        return Device(name=name, peak_flops=peak * int(told.get("world", 1)), half=half, kind="gpu")
    if not half and gain > 1.0:  # then the peak is that of bf16
        return Device(name=f"{name}, by the gain of bf16", peak_flops=peak / gain, half=False)
    return Device(name=name, peak_flops=peak, half=half and gain > 1.0)


def measured_stages(story: Story) -> Stages:
    """Where the time of a run's attempts went; what nothing else explains is the beginning and the end of processes."""
    spent, exported = story.goodput_s, story.told(Happened.EXPORTED)
    before = [event.at for event in story.events if event.kind in {Happened.CHECKPOINT, Happened.EVALUATED}]
    export_s = max(0.0, (exported[-1].at - max(before)) / 1000) if exported and before else 0.0
    train_s = spent["useful"] + spent["compile"] + spent["data"]
    known = train_s + spent["eval"] + spent["checkpoint"] + export_s + spent["lost"]
    return Stages(
        start_s=max(0.0, story.running_s - known),
        train_s=train_s,
        evaluate_s=spent["eval"],
        checkpoint_s=spent["checkpoint"],
        export_s=export_s,
        lost_s=spent["lost"],
    )


def _work(recipe: Recipe, placement: Placement, *, sizes: tuple[ModelSize, int], seen: _Seen) -> Workload:
    size, trained = sizes
    sequences = 2 if recipe.data[0].format == "preference" else 1  # what was chosen, and what was rejected
    sample_tokens = seen.sample_tokens or recipe.batch.context
    steps = seen.steps or _steps(recipe, size=size, trained=trained)
    every = recipe.evaluation.every or max(1, steps // _EVALUATIONS)
    evaluated = min(recipe.evaluation.samples, seen.held_out) if seen.steps else recipe.evaluation.samples
    return Workload(
        model=size,
        trained=trained,
        optimizer=recipe.optimizer.name,
        half=recipe.precision == "bf16",
        samples=recipe.batch.samples * sequences,
        sample_tokens=sample_tokens,
        steps=steps,
        micro_samples=placement.micro_samples * sequences,
        workers=placement.workers,
        evaluations=2 + (steps - 1) // every,
        evaluated_samples=evaluated * sequences,
        evaluation_passes=2 if recipe.data[0].format in _DOCUMENTS else 1,
        written_tokens=_written(recipe),
        export=recipe.export.gguf,
        checkpoint_s=placement.checkpoints.every_s,
        mean_time_to_failure_s=placement.checkpoints.mtbf_s,
    )


def _steps(recipe: Recipe, *, size: ModelSize, trained: int) -> int:
    """As the workshop counts them (`step_count`), where the data need not be known for it."""
    budget, tokens = recipe.budget, recipe.batch.samples * recipe.batch.context
    if budget.steps:
        return budget.steps
    if budget.tokens:
        return -(-budget.tokens // tokens)
    if budget.flop:
        passes = 6.0 * trained + 4.0 * (size.parameters - trained)
        of_token = passes + 12.0 * size.layers * size.width * size.context
        return max(1, round(budget.flop / of_token / tokens))
    raise InvalidRequest(
        f"The budget of {recipe.name} counts epochs, and how long one is only prepared data tells.",
        remedy="Plan with budget.steps or budget.tokens, or look at a run of it with `tandem plan --against RUN`.",
        param="budget.epochs",
    )


def _header_size(header: GGUFHeader, *, context: int, name: str) -> ModelSize:
    """The sizes in a GGUF file's header; keys are named for the architecture."""
    family = header.text("general.architecture") or ""

    def count(key: str) -> int:
        found = header.integer(f"{family}.{key}")
        if not found:
            raise UnsupportedFeature(
                f"The file of {name} does not say its {key}, which a plan needs.",
                remedy="Plan with a decoder of the Llama family.",
            )
        return found

    heads = count("attention.head_count")
    return ModelSize(
        layers=count("block_count"),
        width=count("embedding_length"),
        heads=heads,
        kv_heads=header.integer(f"{family}.attention.head_count_kv") or heads,
        ffn=count("feed_forward_length"),
        vocab=len(header.texts("tokenizer.ggml.tokens")),
        context=context,
        tie=all(tensor.name != "output.weight" for tensor in header.tensors),
        name=name,
    )


def _adapter(lora: Lora, size: ModelSize) -> int:
    """Weights of the adapter: of each matrix, rank times both its sides."""
    sides: Mapping[str, tuple[int, int]] = {
        "q_proj": (size.width, size.width),
        "k_proj": (size.width, size.kv_width),
        "v_proj": (size.width, size.kv_width),
        "o_proj": (size.width, size.width),
        "gate_proj": (size.width, size.ffn),
        "up_proj": (size.width, size.ffn),
        "down_proj": (size.ffn, size.width),
    }
    return size.layers * lora.rank * sum(sum(sides[target]) for target in lora.targets)


def _written(recipe: Recipe) -> int:
    """Tokens that the model writes for the tasks at the end: gaps of two kinds, and answers."""
    asked, context = recipe.evaluation.task_samples, recipe.batch.context
    infill = 2 * asked * min(_LINE_TOKENS, context // 4) if "infill" in recipe.evaluation.tasks else 0
    answers = asked * min(_ANSWER_TOKENS, context // 2) if "answers" in recipe.evaluation.tasks else 0
    return infill + answers


def _typed(table: Mapping[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The run's {kind.__name__.lower()} is broken: {error}.") from error
