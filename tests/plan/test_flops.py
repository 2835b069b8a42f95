"""Conventions of counting FLOP, each against the published tables that use it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.plan.flops import (
    FORMULAS,
    Convention,
    lora_token_flop,
    megatron_iteration_flop,
    megatron_iteration_model_flop,
    run_flop,
    token_flop,
    utilisation,
)
from tandem.plan.model import gpt_parameters
from tandem.plan.units import DAY_S
from tandem.spec.flops import flops_per_token
from tests.plan.published import LLAMA, table

MOSAICML, MEGATRON, BRIDGE = table("mosaicml"), table("megatron"), table("bridge")


def test_every_row_of_mosaicml_has_its_printed_mfu() -> None:
    assert len(MOSAICML) == 216
    for row in MOSAICML:
        flop = token_flop(
            Convention.A,
            parameters=int(row["parameters"]),
            embedding=0,
            layers=int(row["layers"]),
            width=int(row["width"]),
            context=int(row["context"]),
        )
        mfu = 100 * utilisation(
            token_flop=flop,
            tokens_per_s=float(row["tokens_per_s"]) / int(row["gpus"]),
            peak_flops=float(row["peak_tflops"]) * 1e12,
        )
        assert mfu == pytest.approx(float(row["mfu_pct"]), abs=0.02), row
        again = 4 / 3 if row["recompute"] == "full" else 1
        assert mfu * again == pytest.approx(float(row["hfu_pct"]), abs=0.02), row


@pytest.mark.parametrize(("tokens_per_s", "percent"), [(5762, 33.7), (6667, 39.0), (8532, 50.0)])
def test_torchtitan_8b_by_convention_b(tokens_per_s: float, percent: float) -> None:
    flop = LLAMA["8b"].token_flop(Convention.B)
    assert 100 * utilisation(token_flop=flop, tokens_per_s=tokens_per_s, peak_flops=989e12) == pytest.approx(
        percent, abs=0.05
    )


@pytest.mark.parametrize("row", [row for row in BRIDGE if row["kind"] == "train"], ids=lambda row: row["source"])
def test_megatron_bridge_by_convention_c(row: dict[str, str]) -> None:
    model = LLAMA[row["model"]]
    flop = token_flop(
        Convention.C,
        parameters=model.parameters,
        embedding=model.embedding_parameters,
        layers=model.layers,
        width=model.width,
        context=int(row["context"]),
    )
    assert flop * float(row["tokens_per_s_gpu"]) / 1e12 == pytest.approx(float(row["tflops"]), rel=0.003)


@pytest.mark.parametrize("row", [row for row in BRIDGE if row["kind"] == "lora"], ids=lambda row: row["source"])
def test_lora_of_megatron_bridge_has_no_gradient_of_frozen_weights(row: dict[str, str]) -> None:
    model = LLAMA[row["model"]]
    flop = lora_token_flop(parameters=model.parameters, embedding=model.embedding_parameters)
    assert flop * float(row["tokens_per_s_gpu"]) / 1e12 == pytest.approx(float(row["tflops"]), rel=0.005)


@pytest.mark.parametrize("row", MEGATRON, ids=lambda row: row["parameters_b"])
def test_megatron_by_convention_d(row: dict[str, str]) -> None:
    sizes = {"layers": int(row["layers"]), "width": int(row["width"]), "vocab": 51_200, "context": 2048}
    digits = len(row["parameters_b"].partition(".")[2])
    assert round(gpt_parameters(**sizes) / 1e9, digits) == pytest.approx(float(row["parameters_b"]), abs=0.051)
    flop = megatron_iteration_flop(samples=int(row["batch"]), **sizes)
    tflops = flop / float(row["iteration_s"]) / int(row["gpus"]) / 1e12
    assert tflops == pytest.approx(float(row["tflops"]), rel=0.01)
    assert 100 * tflops / 312 == pytest.approx(float(row["peak_pct"]), abs=0.51)
    assert tflops * int(row["gpus"]) / 1000 == pytest.approx(float(row["total_pflops"]), rel=0.01)


@pytest.mark.parametrize(("parameters_b", "percent"), [("1.7", 33.5), ("18.4", 32.6), ("1008.0", 39.2)])
def test_megatrons_model_flop_are_three_passes_of_its_four(parameters_b: str, percent: float) -> None:
    row = next(row for row in MEGATRON if row["parameters_b"] == parameters_b)
    flop = megatron_iteration_model_flop(
        samples=int(row["batch"]), context=2048, layers=int(row["layers"]), width=int(row["width"]), vocab=51_200
    )
    mfu = 100 * flop / float(row["iteration_s"]) / int(row["gpus"]) / 312e12
    assert mfu == pytest.approx(percent, abs=0.1)


@pytest.mark.parametrize("row", table("megatron_days"), ids=lambda row: f"{row['parameters_b']}B-{row['gpus']}")
def test_megatrons_days_with_full_recomputation(row: dict[str, str]) -> None:
    """8 N D over all devices; the printed days also hold attention, which 8 N leaves out."""
    total = 4 / 3 * run_flop(parameters=float(row["parameters_b"]) * 1e9, tokens=300e9)
    days = total / (int(row["gpus"]) * float(row["tflops"]) * 1e12) / DAY_S
    assert 0.97 * float(row["days"]) - 0.5 <= days <= float(row["days"]) + 0.5


def test_llama_3_is_what_it_says() -> None:
    assert [model.parameters for model in LLAMA.values()] == [8_030_261_248, 70_553_706_496, 405_853_388_800]
    for row in table("llama3"):
        groups = [int(row[key]) for key in ("tensor", "ring", "pipeline", "data")]
        assert groups[0] * groups[1] * groups[2] * groups[3] == int(row["gpus"])
        assert int(row["batch"]) * int(row["context"]) == int(row["tokens"])
        assert 100 * float(row["tflops"]) / 989.5 == pytest.approx(float(row["mfu_pct"]), abs=1)
    total = run_flop(parameters=405e9, tokens=15.6e12)
    assert total == pytest.approx(3.79e25, rel=0.001)
    assert total / (16_384 * 400e12) / DAY_S == pytest.approx(66.9, abs=0.1)


@pytest.mark.parametrize(
    ("convention", "flop"),
    [(Convention.A, 2.638e12), (Convention.B, 2.625e12), (Convention.C, 2.524e12), (Convention.SIX_N, 2.435e12)],
)
def test_the_conventions_differ_as_known(convention: Convention, flop: float) -> None:
    assert LLAMA["405b"].token_flop(convention) == pytest.approx(flop, rel=0.0005)


def test_known_runs() -> None:
    # GPT-3: arXiv 2005.14165, table D.1. OPT: metaseq's final update. nanoGPT: its README, 294.9e9 tokens in 4 days.
    gpt3 = run_flop(parameters=174.6e9, tokens=300e9)
    assert gpt3 == pytest.approx(3.14e23, rel=0.001)
    assert gpt3 / (1e15 * DAY_S) == pytest.approx(3640, rel=0.002)
    opt_flops = 4.30e23 / (33 * DAY_S) / 1024
    assert opt_flops == pytest.approx(147e12, abs=0.5e12)
    nano = token_flop(Convention.A, parameters=124_439_808, embedding=0, layers=12, width=768, context=1024)
    assert 100 * utilisation(token_flop=nano, tokens_per_s=853_000 / 8, peak_flops=312e12) == pytest.approx(29, abs=0.5)


sizes = st.fixed_dictionaries(
    {
        "parameters": st.integers(10**6, 10**12),
        "layers": st.integers(1, 200),
        "width": st.integers(64, 32_768),
        "context": st.integers(1, 10**6),
    }
)


@given(sizes)
def test_what_is_counted_more_is_more(of: dict[str, int]) -> None:
    counts = {one: token_flop(one, embedding=of["parameters"] // 10, **of) for one in Convention}
    assert counts[Convention.A] >= counts[Convention.B] > counts[Convention.C] > 0
    assert counts[Convention.A] > counts[Convention.SIX_N]
    assert counts[Convention.A] == flops_per_token(trained=of["parameters"], **of), "as recipes count them"
    assert set(FORMULAS) == set(Convention)
