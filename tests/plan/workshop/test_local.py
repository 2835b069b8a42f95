"""The time of local runs: properties, and the real runs of `make bench-plan` of which some were never in the fit."""

import json
import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan import ModelSize
from tandem.plan.workshop import (
    CPU,
    Comparison,
    Device,
    Stages,
    Workload,
    factor,
    fitted,
    forecast,
    step_seconds,
)
from tandem.plan.workshop.local import quantities

MEASURED = Path(__file__).parents[3] / "benchmarks" / "results" / "plan.json"
WITHIN = 0.25

SIZE = ModelSize(layers=4, width=128, heads=2, kv_heads=2, ffn=352, vocab=2048, context=256)
DEVICE = Device(name="cpu: measured", peak_flops=4.5e11, half=True)


def work(**changes: Any) -> Workload:
    """A run of a small model, with some things changed."""
    usual = Workload(
        model=SIZE,
        trained=SIZE.parameters,
        optimizer="adamw",
        half=True,
        samples=8,
        sample_tokens=256,
        steps=100,
        micro_samples=0,
        workers=1,
        evaluations=11,
        evaluated_samples=32,
        evaluation_passes=2,
        written_tokens=0,
        export="f16",
        checkpoint_s=0.0,
        mean_time_to_failure_s=14_400.0,
    )
    return replace(usual, **changes)


class Trial(msgspec.Struct, frozen=True):
    """What the benchmark keeps of a run."""

    work: Workload
    device: Device
    measured: Stages


@pytest.fixture(scope="module")
def trials() -> tuple[list[Trial], list[Trial]]:
    """Real runs, of each the quickest round by stage as the benchmark takes it: in the fit, and held out."""
    told = json.loads(MEASURED.read_text())
    parts: tuple[list[Trial], list[Trial]] = ([], [])
    for row in told["results"]["rows"]:
        rounds = [msgspec.convert(one, Trial) for one in told["runs"][row["trial"]]]
        stages = {name: min(getattr(one.measured, name) for one in rounds) for name in asdict(rounds[0].measured)}
        peak = max(one.device.peak_flops for one in rounds)
        device = replace(rounds[0].device, peak_flops=peak)
        parts[row["held_out"]].append(Trial(work=rounds[0].work, device=device, measured=Stages(**stages)))
    return parts


def usual_peak(trials: list[Trial], *, half: bool) -> float:
    return statistics.median(one.device.peak_flops for one in trials if one.device.half == half)


def test_runs_that_were_held_out_take_what_rates_of_the_others_say(trials: tuple[list[Trial], list[Trial]]) -> None:
    fit, held_out = trials
    assert len(fit) >= 10
    assert len(held_out) >= 4
    rates = fitted([(one.work, one.device, one.measured.train_s / one.work.steps) for one in fit])
    for one in held_out:
        device = replace(one.device, peak_flops=usual_peak(fit, half=one.device.half))
        said = forecast(one.work, device, rates=rates).stages
        assert said.train_s == pytest.approx(one.measured.train_s, rel=WITHIN), one.work
        assert said.wall_s == pytest.approx(one.measured.wall_s, rel=WITHIN), one.work


def test_runs_that_were_held_out_take_what_the_house_says_calibrated_by_the_others(
    trials: tuple[list[Trial], list[Trial]],
) -> None:
    fit, held_out = trials
    compared = [
        Comparison(
            run=str(number),
            system="local",
            predicted_s=forecast(one.work, one.device).stages.train_s,
            measured_s=one.measured.train_s,
        )
        for number, one in enumerate(fit)
    ]
    learnt = factor("local", compared)
    for one in held_out:
        device = replace(one.device, peak_flops=usual_peak(fit, half=one.device.half))
        said = forecast(one.work, device, calibrated=learnt).stages
        assert said.train_s == pytest.approx(one.measured.train_s, rel=WITHIN), one.work
        assert said.wall_s == pytest.approx(one.measured.wall_s, rel=WITHIN), one.work


def test_a_step_is_the_sum_of_its_parts() -> None:
    parts = quantities(work(), DEVICE)
    tokens, matrices = 8 * 256, 4 * (4 * 128 * 128 + 3 * 128 * 352)
    assert parts["layers_ratio"] == pytest.approx(6 * tokens * matrices / 4.5e11)
    assert parts["head_ratio"] == pytest.approx(6 * tokens * 2048 * 128 / 4.5e11)
    assert parts["attention_ratio"] == pytest.approx(12 * tokens * 4 * 128 * 256 / 4.5e11)
    assert parts["logit_s"] == tokens * 2048
    assert parts["call_s"] == 4
    assert parts["muon_ratio"] == 0
    assert sum(count * getattr(CPU, name) for name, count in parts.items()) == step_seconds(work(), DEVICE, CPU)


def test_fp32_takes_longer_by_the_products_alone() -> None:
    exact = replace(DEVICE, half=False, peak_flops=DEVICE.peak_flops / 2.1)
    parts = quantities(work(), DEVICE)
    assert quantities(work(), exact) == pytest.approx(parts)
    products = sum(parts[name] for name in ("layers_ratio", "head_ratio", "attention_ratio"))
    slower = step_seconds(work(), exact, CPU) - step_seconds(work(), DEVICE, CPU)
    assert slower == pytest.approx(1.1 * products)


def test_muon_multiplies_matrices_and_keeps_one_number_of_each_weight() -> None:
    muon = work(optimizer="muon")
    squares = 4 * (4 * 128**3 + 2 * 128**3)  # of q, k, v and o
    others = 3 * (4 * 128**2 * 352 + 2 * 128**3)
    assert quantities(muon, DEVICE)["muon_ratio"] == pytest.approx(5 * 4 * (squares + others) / 4.5e11)
    matrices = 4 * (4 * 128 * 128 + 3 * 128 * 352)
    assert muon.checkpoint_bytes == 4 * (3 * SIZE.parameters - matrices)
    assert work().checkpoint_bytes == 12 * SIZE.parameters


def test_frozen_weights_take_two_passes_of_three() -> None:
    whole, adapter = quantities(work(), DEVICE), quantities(work(trained=10_000), DEVICE)
    assert adapter["layers_ratio"] == pytest.approx(whole["layers_ratio"] * 4 / 6)
    assert adapter["weight_s"] == 10_000


def test_micro_batches_follow_the_context_unless_the_placement_says() -> None:
    assert work().micro_batches == 1
    assert work(samples=32).micro_batches == 4
    assert work(samples=32, workers=2).micro_batches == 2
    assert work(samples=32, micro_samples=3).micro_batches == 11
    assert work(samples=2, micro_samples=64).micro_batches == 1


def test_the_stages_sum_to_the_wall_time_and_are_derived() -> None:
    said = forecast(work(), DEVICE)
    assert said.stages.wall_s == pytest.approx(sum(asdict(said.stages).values()))
    assert said.stages.train_s == pytest.approx(100 * said.step_s)
    assert said.tokens_per_s == pytest.approx(8 * 256 / said.step_s)
    assert 0 < said.mfu_share < 1
    assert "cpu: measured: 4.5e+11 FLOP/s" in said.derivation.rows[0]
    assert any("full attention" in word for word in said.derivation.conventions)
    assert not said.derivation.warnings


def test_the_calibration_multiplies_training_and_is_shown() -> None:
    learnt = factor("local", [Comparison(run="run_1", system="local", predicted_s=1.0, measured_s=2.0)])
    bare, calibrated = forecast(work(), DEVICE), forecast(work(), DEVICE, calibrated=learnt)
    assert calibrated.step_s == pytest.approx(bare.step_s * learnt.ratio.mid)
    assert calibrated.stages.evaluate_s == pytest.approx(bare.stages.evaluate_s * learnt.ratio.mid)
    assert calibrated.stages.start_s == bare.stages.start_s
    assert calibrated.derivation.steps[0].what == "calibration of local"


def test_checkpoints_are_saved_as_often_as_the_placement_says_or_as_young_does() -> None:
    often, seldom = forecast(work(checkpoint_s=0.1), DEVICE), forecast(work(), DEVICE)
    assert often.stages.checkpoint_s > seldom.stages.checkpoint_s
    alone = CPU.checkpoint_s + work().checkpoint_bytes / CPU.checkpoint_bytes_per_s
    assert seldom.stages.checkpoint_s == pytest.approx(alone)  # shorter than the least interval: only the last one


def test_what_is_written_takes_time_and_what_is_not_trained_does_too() -> None:
    assert forecast(work(written_tokens=100), DEVICE).stages.evaluate_s > forecast(work(), DEVICE).stages.evaluate_s
    assert forecast(work(export="f32"), DEVICE).stages.export_s > forecast(work(), DEVICE).stages.export_s
    assert forecast(work(evaluations=0), DEVICE).stages.evaluate_s == 0


def test_a_device_without_bf16_and_a_gpu_that_nobody_measured_are_warned_of() -> None:
    slow = forecast(work(), replace(DEVICE, half=False))
    assert "fp32" in slow.derivation.warnings[0]
    gpu = replace(DEVICE, kind="gpu", peak_flops=1e15)
    assert "guess" in forecast(work(), gpu).derivation.warnings[0]
    learnt = factor("local", [Comparison(run="run_1", system="local", predicted_s=1.0, measured_s=2.0)])
    assert not forecast(work(), gpu, calibrated=learnt).derivation.warnings


@pytest.mark.parametrize("changes", [{"steps": 0}, {"workers": 3}])
def test_what_is_no_run_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="is no run") as caught:
        forecast(work(**changes), DEVICE)
    assert "divides batch.samples" in caught.value.remedy


@given(
    layers=st.integers(1, 40),
    samples=st.integers(1, 256),
    steps=st.integers(1, 10_000),
    vocab=st.integers(263, 100_000),
    failing_s=st.floats(600.0, 1e7),
)
def test_more_work_never_ends_sooner_and_a_faster_device_never_later(
    layers: int, samples: int, steps: int, vocab: int, failing_s: float
) -> None:
    size = replace(SIZE, layers=layers, vocab=vocab)
    one = work(model=size, trained=size.parameters, samples=samples, steps=steps, mean_time_to_failure_s=failing_s)
    wall_s = forecast(one, DEVICE).stages.wall_s
    assert math.isfinite(wall_s)
    assert wall_s > 0
    deeper = replace(size, layers=layers + 1)
    more = [
        replace(one, model=deeper, trained=deeper.parameters),
        replace(one, samples=samples + 1),
        replace(one, steps=steps + 1),
        replace(one, mean_time_to_failure_s=failing_s / 2),
        replace(one, optimizer="muon", evaluations=one.evaluations + 1),
    ]
    for other in more:
        assert forecast(other, DEVICE).stages.train_s >= forecast(one, DEVICE).stages.train_s * (1 - 1e-12)
    assert forecast(more[3], DEVICE).stages.lost_s >= forecast(one, DEVICE).stages.lost_s * (1 - 1e-12)
    faster = replace(DEVICE, peak_flops=2 * DEVICE.peak_flops)
    assert forecast(one, faster).stages.wall_s <= wall_s * (1 + 1e-12)
