"""A replica's roofline: published throughputs and first tokens, memory to the byte, and what has to grow with what."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.serving import Replica
from tests.plan.serving.comparison import PAGE, fitted, page, throughput_ratio
from tests.plan.serving.models import LLAMA_3_8B, LLAMA_3_70B, MODELS, cluster, rows


def test_the_rows_that_the_engine_was_fitted_on() -> None:
    ratios = [throughput_ratio(row) for row in rows("serving_throughput.csv") if fitted(row)]
    assert len(ratios) == 20
    assert statistics.median(ratios) == pytest.approx(1.0, abs=0.03)
    assert all(0.85 < ratio < 1.15 for ratio in ratios), ratios


def test_held_out_rows_of_another_accelerator_and_of_a_model_five_times_as_large() -> None:
    """Llama 3.1 405B on eight H100 with long answers is the worst: it is published up to a third slower."""
    ratios = [throughput_ratio(row) for row in rows("serving_throughput.csv") if not fitted(row)]
    assert len(ratios) == 40
    assert statistics.median(ratios) == pytest.approx(1.07, abs=0.03)
    within = [ratio for ratio in ratios if 1 / 1.25 < ratio < 1.25]
    assert len(within) >= 36, sorted(ratios)
    assert all(0.8 < ratio < 1.5 for ratio in ratios), sorted(ratios)


def test_the_page_shows_the_rows_as_they_are_predicted_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.plan.serving.comparison"


@pytest.mark.parametrize(
    ("host", "published_s"),
    # vLLM 0.23 on A100 40 GB: 75 tokens/s for one request with a prompt of 1,024 (johnmusgrave.com, 2026).
    # vLLM 0.21 on H100: 6.48 ms a token for one request (yobitelcomm.github.io/bench, 2026-05-16).
    [("8xa100-40", 1 / 75), ("8xh100", 6.48e-3)],
)
def test_one_request_alone(host: str, published_s: float) -> None:
    replica = Replica(model=LLAMA_3_8B, cluster=cluster(host))
    assert replica.step_s(1, read_tokens=1088) == pytest.approx(published_s, rel=0.1)


@pytest.mark.parametrize("row", rows("serving_first_token.csv"), ids=lambda row: f"{row['model']}-{row['prompt']}")
def test_first_tokens_of_idle_replicas(row: dict[str, str]) -> None:
    """Long prompts within a quarter; of short ones, that old release spends up to 12 ms where the roofline has none."""
    weights = "fp8" if row["weights"] == "fp8" else "f16"
    replica = Replica(
        model=MODELS[row["model"]],
        cluster=cluster(row["host"]),
        tensor=int(row["tensor"]),
        weights=weights,
        cache=weights,
    )
    predicted_s, published_s = replica.prompt_s(float(row["prompt"])), float(row["first_token_ms"]) / 1000
    if row["prompt"] == "2048":
        assert predicted_s == pytest.approx(published_s, rel=0.25)
    else:
        assert 0 < published_s - predicted_s < 0.012


def test_memory_to_the_byte() -> None:
    replica = Replica(model=LLAMA_3_8B, cluster=cluster())
    assert LLAMA_3_8B.parameters == 8_030_261_248
    assert replica.weights_bytes == 2 * 8_030_261_248
    assert replica.token_cache_bytes == 2 * 32 * 1024 * 2 == 131_072, "128 KiB a token, as is known of Llama 3 8B"
    assert Replica(model=LLAMA_3_8B, cluster=cluster(), weights="q8_0").weights_bytes == 8_030_261_248 * 34 / 32
    assert Replica(model=LLAMA_3_8B, cluster=cluster(), cache="fp8").token_cache_bytes == 65_536
    room_bytes = 0.9 * 85_899_345_920 - 2 * 8_030_261_248
    assert replica.room_bytes == pytest.approx(room_bytes)
    assert replica.batch_limit(4096) == int(room_bytes / (131_072 * 4096)) == 114
    assert replica.batch_limit(1) == replica.engine.largest_batch


def test_more_devices_than_heads_of_keys_keep_copies() -> None:
    few = MODELS["llama-3-8b"]
    wide = Replica(model=few, cluster=cluster(), tensor=16)
    assert wide.token_cache_bytes == 2 * Replica(model=few, cluster=cluster(), tensor=8).token_cache_bytes


def test_a_model_that_does_not_fit() -> None:
    replica = Replica(model=LLAMA_3_70B, cluster=cluster())
    assert replica.room_bytes < 0
    assert replica.batch_limit(1) == 0
    assert Replica(model=LLAMA_3_70B, cluster=cluster(), tensor=4).batch_limit(1000) > 0


def test_units_of_a_device() -> None:
    assert Replica(model=LLAMA_3_8B, cluster=cluster(), weights="fp8").computed_in == "fp8"
    assert Replica(model=LLAMA_3_8B, cluster=cluster("8xa100-80"), weights="fp8").computed_in == "bf16"
    assert Replica(model=LLAMA_3_8B, cluster=cluster("8xv100-32"), weights="bf16").computed_in == "fp16"
    assert Replica(model=LLAMA_3_8B, cluster=cluster(), weights="q8_0").computed_in == "fp16"
    with pytest.raises(InvalidRequest, match=r"computes .*none suits f32") as caught:
        _ = Replica(model=LLAMA_3_8B, cluster=cluster("8xb200"), weights="f32").computed_in
    assert "bf16" in caught.value.remedy


@given(st.integers(1, 255), st.floats(1, 8000), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 3]))
def test_a_larger_batch_costs_more_a_step_and_less_a_token(
    batch: int, read_tokens: float, tensor: int, stages: int
) -> None:
    replica = Replica(model=LLAMA_3_70B, cluster=cluster(), tensor=tensor, stages=stages)
    one, more = (replica.step_s(size, read_tokens=read_tokens) for size in (batch, batch + 1))
    assert one <= more
    assert more / (batch + 1) <= one / batch
    assert replica.step_s(batch, read_tokens=read_tokens + 1) >= one


@given(st.floats(1, 8000), st.floats(0, 0.99))
def test_prompts(prompt_tokens: float, cached_share: float) -> None:
    replica = Replica(model=LLAMA_3_8B, cluster=cluster())
    whole_s = replica.prompt_s(prompt_tokens)
    assert replica.prompt_s(prompt_tokens, cached_share=cached_share) <= whole_s
    assert replica.prompt_busy_s(prompt_tokens, cached_share=cached_share) <= replica.prompt_busy_s(prompt_tokens)
    assert replica.prompt_busy_s(prompt_tokens) <= whole_s
    assert replica.prompt_s(prompt_tokens + 1) >= whole_s


def test_measured_factors_multiply_all_times() -> None:
    plain = Replica(model=LLAMA_3_70B, cluster=cluster(), tensor=8)
    slow = Replica(model=LLAMA_3_70B, cluster=cluster(), tensor=8, factor_ratio=1.5)
    assert slow.step_s(9, read_tokens=500) == pytest.approx(1.5 * plain.step_s(9, read_tokens=500))
    assert slow.prompt_s(500) == pytest.approx(1.5 * plain.prompt_s(500))
    assert slow.prompt_busy_s(500) == pytest.approx(1.5 * plain.prompt_busy_s(500))


def test_stages_halve_the_weights_of_a_device_and_not_the_step() -> None:
    """Each host reads its half, and a token passes both: alone it is no faster, full it answers as many more."""
    one = Replica(model=LLAMA_3_70B, cluster=cluster(), tensor=8)
    two = Replica(model=LLAMA_3_70B, cluster=cluster(), tensor=8, stages=2)
    assert two.devices == 16
    assert two.step_s(1, read_tokens=100) == pytest.approx(one.step_s(1, read_tokens=100), rel=0.02)
    assert two.step_s(256, read_tokens=100) < one.step_s(256, read_tokens=100)
    assert two.prompt_busy_s(1000) == pytest.approx(one.prompt_busy_s(1000) / 2, rel=0.02)
