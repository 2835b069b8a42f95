"""Rates from measured steps: found again where they were known, and not turned by a few slow runs."""

from dataclasses import asdict, replace

import pytest

from tandem.plan import ModelSize
from tandem.plan.workshop import CPU, STEP_RATES, Device, Rates, Workload, fitted, step_seconds
from tests.plan.workshop.test_local import DEVICE, work

TRUE = Rates(
    **asdict(CPU) | {"layers_ratio": 2.0, "call_s": 8e-4, "head_ratio": 1.5, "weight_s": 8e-9, "muon_ratio": 4.0}
)


@pytest.fixture
def runs() -> list[tuple[Workload, Device, float]]:
    """Steps of a machine with other rates, of many shapes."""
    shapes = [(64, 2, 64, 512), (128, 4, 256, 2048), (256, 6, 256, 4096), (512, 6, 128, 4096), (192, 8, 512, 1024)]
    found = []
    for width, layers, context, vocab in shapes:
        heads = width // 64
        size = ModelSize(
            layers=layers, width=width, heads=heads, kv_heads=heads, ffn=3 * width, vocab=vocab, context=context
        )
        for samples in (2, 8, 32):
            for optimizer in ("adamw", "muon"):
                one = work(
                    model=size, trained=size.parameters, sample_tokens=context, samples=samples, optimizer=optimizer
                )
                found.append((one, DEVICE, step_seconds(one, DEVICE, TRUE)))
    return found


def test_the_rates_of_a_machine_are_found_from_its_steps(runs: list[tuple[Workload, Device, float]]) -> None:
    found = fitted(runs)
    for one, device, took_s in runs:
        assert step_seconds(one, device, found) == pytest.approx(took_s, rel=0.1)  # what was known before pulls
    assert found.muon_ratio == pytest.approx(4.0, rel=0.15)
    assert all(getattr(found, name) >= 0 for name in STEP_RATES)
    assert found.start_s == CPU.start_s


def test_fp32_tells_of_the_same_rates(runs: list[tuple[Workload, Device, float]]) -> None:
    exact = replace(DEVICE, half=False, peak_flops=2e11)
    again = [(one, exact, step_seconds(one, exact, TRUE)) for one, _, _ in runs]
    found = fitted(again)
    for one, device, took_s in runs:
        assert step_seconds(one, device, found) == pytest.approx(took_s, rel=0.1)


def test_a_few_runs_that_others_slowed_down_do_not_turn_the_rates(runs: list[tuple[Workload, Device, float]]) -> None:
    disturbed = [
        (one, device, took_s * (10 if number % 8 == 3 else 1)) for number, (one, device, took_s) in enumerate(runs)
    ]
    found = fitted(disturbed)
    for one, device, took_s in runs:
        assert step_seconds(one, device, found) == pytest.approx(took_s, rel=0.2)


def test_without_runs_the_rates_stay_what_they_were() -> None:
    assert fitted([]) == CPU
    one = work()
    twice = fitted([(one, DEVICE, 2 * step_seconds(one, DEVICE, CPU))])
    assert CPU.layers_ratio < twice.layers_ratio < 4 * CPU.layers_ratio
