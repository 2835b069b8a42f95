from pathlib import Path
from typing import Any

import msgspec
import pytest

from tandem.flows.planning import (
    device_of,
    device_of_probe,
    measured_stages,
    size_of_recipe,
    work_of_recipe,
    work_of_run,
)
from tandem.flows.planning.work import _header_size
from tandem.formats import read_header, write_tiny_gguf
from tandem.kit.errors import InvalidRequest, UnsupportedFeature
from tandem.plan.workshop import Stages
from tandem.spec import Checkpoints, Lora, Placement, Recipe, read_story
from tests.flows.planning.runs import ENVIRONMENT, write_measured
from tests.run_folders import recipe, write_run

PARENT = f"sha256:{'b' * 64}"


def no_file(digest: str) -> Path:
    raise AssertionError(f"{digest} is not needed")


def work(one: Recipe, **placement: Any) -> Any:
    return work_of_recipe(one, Placement(**placement), file=no_file)


def test_the_work_of_a_recipe_from_nothing() -> None:
    found = work(recipe())
    assert (found.model.layers, found.model.width, found.model.vocab, found.model.context) == (2, 64, 300, 64)
    assert found.trained == found.model.parameters
    assert (found.steps, found.samples, found.sample_tokens, found.optimizer) == (20, 4, 64, "adamw")
    assert found.evaluations == 11  # before the first step, after every second one, and at the end
    assert (found.evaluated_samples, found.evaluation_passes) == (128, 2)
    assert (found.written_tokens, found.export, found.checkpoint_s) == (0, "f16", 0.0)


def test_the_placement_says_how_it_is_cut_and_saved() -> None:
    found = work(recipe(), workers=2, micro_samples=1, checkpoints=Checkpoints(every_s=9.0, mtbf_s=500.0))
    assert (found.workers, found.micro_samples) == (2, 1)
    assert (found.checkpoint_s, found.mean_time_to_failure_s) == (9.0, 500.0)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"tokens": 1000}, 4), ({"flop": 1e10}, None), ({"steps": 7}, 7)],
)
def test_budgets_become_steps(budget: dict[str, Any], steps: int | None) -> None:
    found = work(recipe(budget=budget))
    if steps is None:
        of_token = 6.0 * found.model.parameters + 12.0 * 2 * 64 * 64
        steps = round(1e10 / of_token / 256)
    assert found.steps == steps


def test_epochs_are_known_only_of_prepared_data(home: Path) -> None:
    with pytest.raises(InvalidRequest, match="counts epochs") as caught:
        work(recipe(budget={"epochs": 2.0}))
    assert "--against" in caught.value.remedy
    story = read_story(write_measured(home, "run_0001", budget={"epochs": 2.0}))
    assert work_of_run(story, file=no_file).steps == 20


def test_chats_are_as_long_as_they_were_and_pairs_are_two_sequences(home: Path) -> None:
    chats = [{"format": "preference", "source": "file:x", "sha256": f"sha256:{'d' * 64}"}]
    story = read_story(write_measured(home, "run_0001", data=chats))
    found = work_of_run(story, file=no_file)
    assert found.sample_tokens == 64  # 5,120 tokens are 20 steps of 4 samples of 64
    assert (found.samples, found.evaluation_passes) == (8, 1)
    assert found.evaluated_samples == 10


def test_tasks_at_the_end_have_tokens_written() -> None:
    asked = {"tasks": ["infill", "answers"], "task_samples": 10}
    assert work(recipe(evaluation=asked)).written_tokens == 10 * (2 * 12 + 32)


def test_a_parent_says_its_sizes_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "parent.gguf"
    write_tiny_gguf(path, seed=1)
    one = recipe(model={"parent": "starter@1", "parent_sha256": PARENT}, adapter={"rank": 4, "targets": ["q_proj"]})
    size, trained = size_of_recipe(one, file=lambda digest: path if digest == PARENT else no_file(digest))
    assert size.width == 64
    assert size.layers > 0
    assert size.vocab > 100
    assert trained == size.layers * 4 * 2 * 64
    every = msgspec.structs.replace(one, adapter=Lora(rank=4))
    assert size_of_recipe(every, file=lambda _: path)[1] > trained


def test_a_parent_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "parent.gguf"
    write_tiny_gguf(path, seed=1)
    header = read_header(path)
    metadata = {key: value for key, value in header.metadata.items() if not key.endswith("block_count")}
    with pytest.raises(UnsupportedFeature, match="coder@1 does not say its block_count"):
        _header_size(
            type(header)(path=path, version=3, metadata=metadata, tensors=header.tensors, size=header.size),
            context=64,
            name="coder@1",
        )


def test_each_second_of_a_run_belongs_to_a_stage(home: Path) -> None:
    story = read_story(write_measured(home, "run_0001"))
    found = measured_stages(story)
    assert found == Stages(
        start_s=pytest.approx(5.0),
        train_s=pytest.approx(12.0),
        evaluate_s=3.0,
        checkpoint_s=0.25,
        export_s=pytest.approx(0.75),
        lost_s=0.0,
    )
    assert found.wall_s == pytest.approx(story.running_s)


def test_work_that_was_lost_is_a_stage_of_its_own(home: Path) -> None:
    story = read_story(write_run(home))
    found = measured_stages(story)
    assert found.lost_s == 4.0
    assert found.wall_s == pytest.approx(story.running_s)


def test_the_device_is_what_the_run_measured_before_it_trained(home: Path) -> None:
    found = device_of(read_story(write_measured(home, "run_0001")))
    assert found is not None
    assert (found.peak_flops, found.half, found.kind) == (4e11, True, "cpu")
    assert found.name == "cpu: measured bf16 GEMM, 2 threads"
    assert device_of(read_story(write_run(home, "run_0002"))) is None


def test_fp32_on_a_cpu_that_has_bf16_is_slower_by_the_gain() -> None:
    found = device_of_probe(ENVIRONMENT, half=False)
    assert (found.peak_flops, found.half) == (2e11, False)
    without = device_of_probe({**ENVIRONMENT, "bf16_gain": 0.01}, half=True)
    assert (without.peak_flops, without.half) == (4e11, False)


def test_gpus_add_up() -> None:
    gpu = {**ENVIRONMENT, "device": "NVIDIA H200", "peak_flops": 1e15, "world": 8}
    found = device_of_probe(gpu, half=True)
    assert (found.peak_flops, found.kind) == (8e15, "gpu")


def test_a_broken_recipe_is_said(home: Path) -> None:
    folder = write_measured(home, "run_0001")
    folder.recipe.write_text("{}")
    with pytest.raises(InvalidRequest, match="recipe is broken"):
        work_of_run(read_story(folder), file=no_file)
