"""Scaling laws against their papers' own figures, and as mathematics: optima, inverses, intervals."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest, NotFound
from tandem.plan.flops import run_flop
from tandem.plan.scaling import LAWS, Law, batch_tokens, covariance, law_of, peak_rate

EPOCH, CHINCHILLA = LAWS["epoch"], LAWS["chinchilla"]
TABLE = Path(__file__).parent / "tables" / "chinchilla.csv"
ROWS = [
    {key: row[key] for key in ("parameters", "flop", "tokens")}
    for row in csv.DictReader(TABLE.read_text().splitlines())
]
ROWS = [{key: float(value) for key, value in row.items()} for row in ROWS]

laws = st.sampled_from(list(LAWS.values()))
amounts = st.floats(1e15, 1e29)


def test_the_default_is_the_refit() -> None:
    assert next(iter(LAWS)) == "epoch"


@pytest.mark.parametrize(
    ("law", "parameters", "tokens", "a_weight", "loss"),
    [(CHINCHILLA, 32.2e9, 2.98e12, 92.6, 1.931), (EPOCH, 72.2e9, 1.33e12, 18.4, 1.974)],
    ids=["chinchilla", "epoch"],
)
def test_the_optimum_of_chinchillas_computing(
    law: Law, parameters: float, tokens: float, a_weight: float, loss: float
) -> None:
    found = law.optimum(5.76e23)
    assert found.parameters.mid == pytest.approx(parameters, rel=0.002)
    assert found.tokens.mid == pytest.approx(tokens, rel=0.002)
    assert found.tokens.mid / found.parameters.mid == pytest.approx(a_weight, rel=0.002)
    assert found.loss_nats.mid == pytest.approx(loss, abs=0.0005)


@pytest.mark.parametrize(("law", "size", "data"), [(EPOCH, 0.513, 0.487), (CHINCHILLA, 0.452, 0.548)])
def test_exponents_of_the_optimum(law: Law, size: float, data: float) -> None:
    assert law.size_share_exponent == pytest.approx(size, abs=0.0005)
    assert 1 - law.size_share_exponent == pytest.approx(data, abs=0.0005)


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: f"{row['parameters']:.3g}")
def test_approach_one_lies_within_the_refits_interval(row: dict[str, float]) -> None:
    """From 1B on; the 400M of approach 1 lies 9 % above the refit's optimum, where runs leave less room than that."""
    found = EPOCH.optimum(row["flop"])
    assert found.parameters.low < row["parameters"] < found.parameters.high
    assert found.tokens.low < row["tokens"] < found.tokens.high


def test_the_smallest_row_of_approach_one() -> None:
    assert EPOCH.optimum(ROWS[0]["flop"]).parameters.mid == pytest.approx(ROWS[0]["parameters"], rel=0.1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['parameters']:.3g}")
def test_flop_of_the_table_are_six_n_d(row: dict[str, float]) -> None:
    """Within 1 %; but for 67B, whose tokens are printed as 1.5 T."""
    flop = run_flop(parameters=row["parameters"], tokens=row["tokens"])
    assert flop == pytest.approx(row["flop"], rel=0.048 if row["parameters"] == 6.7e10 else 0.01)


def test_standard_errors_are_those_of_the_refit() -> None:
    """arXiv 2404.10102, table 1: E 0.03, A 124.58 of 482.01, B 1293.23 of 2085.43, alpha and beta 0.02."""
    error = np.sqrt(np.diag(covariance(EPOCH)))
    assert error[[0, 3, 4]] == pytest.approx([0.03, 0.02, 0.02], rel=0.2)
    assert error[[1, 2]] == pytest.approx([124.58 / 482.01, 1293.23 / 2085.43], rel=0.4)


def test_the_standard_error_of_the_exponent_is_that_of_the_refit() -> None:
    """0.513 with a standard error of 0.02: the slope of the interval's width in the logarithm of the computing."""
    a, b = EPOCH.size_exponent, EPOCH.data_exponent
    gradient = np.array([0, 0, 0, -b, a]) / (a + b) ** 2
    assert math.sqrt(gradient @ covariance(EPOCH) @ gradient) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("flop", [1e20, 5.76e23, 3.8e25])
def test_intervals_are_those_of_laws_drawn_from_the_covariance(flop: float) -> None:
    mean = [EPOCH.floor_nats, math.log(EPOCH.size_nats), math.log(EPOCH.data_nats), 0.3478, 0.3658]
    drawn = np.random.default_rng(1).multivariate_normal(mean, covariance(EPOCH), 4_000, method="eigh")
    optima = [
        Law(
            name="",
            floor_nats=e,
            size_nats=math.exp(a),
            data_nats=math.exp(b),
            size_exponent=alpha,
            data_exponent=beta,
            source="",
        )._ln_size(flop)
        for e, a, b, alpha, beta in drawn
    ]
    low, high = np.exp(np.percentile(optima, [5, 95]))
    found = EPOCH.optimum(flop)
    assert found.parameters.low == pytest.approx(low, rel=0.05)
    assert found.parameters.high == pytest.approx(high, rel=0.05)


@given(laws, amounts)
def test_an_optimum_spends_all_and_nothing_near_it_is_better(law: Law, flop: float) -> None:
    found = law.optimum(flop)
    size, tokens = found.parameters.mid, found.tokens.mid
    assert run_flop(parameters=size, tokens=tokens) == pytest.approx(flop)
    assert found.loss_nats.mid == pytest.approx(law.loss_nats(size, tokens))
    for factor in (0.9, 1.1):
        assert law.loss_nats(size * factor, tokens / factor) > found.loss_nats.mid


@given(laws, amounts)
def test_the_computing_for_a_loss_is_the_inverse_of_the_optimum(law: Law, flop: float) -> None:
    assert law.flop_for_loss(law.optimum(flop).loss_nats.mid) == pytest.approx(flop, rel=1e-6)


@given(laws, amounts)
def test_the_computing_for_a_size_is_the_inverse_of_the_optimum(law: Law, flop: float) -> None:
    assert law.flop_for_size(law.optimum(flop).parameters.mid) == pytest.approx(flop)


@given(laws, amounts, st.floats(0.1, 10))
def test_the_tokens_for_a_loss_are_the_inverse_of_the_loss(law: Law, flop: float, factor: float) -> None:
    size, tokens = law.optimum(flop).parameters.mid, law.optimum(flop).tokens.mid * factor
    assert law.tokens_for_loss(size, law.loss_nats(size, tokens)) == pytest.approx(tokens, rel=1e-5)


def test_a_model_that_is_too_small_never_gets_there() -> None:
    assert EPOCH.tokens_for_loss(1e6, 2.0) is None


@given(laws, amounts, st.floats(1.01, 100))
def test_more_computing_never_buys_less(law: Law, flop: float, factor: float) -> None:
    less, more = law.optimum(flop), law.optimum(flop * factor)
    assert more.loss_nats.mid < less.loss_nats.mid
    assert more.parameters.mid > less.parameters.mid
    assert more.tokens.mid > less.tokens.mid


@pytest.mark.parametrize("target", [1.8, 1.8172, 1.81721, 0.0, -1.0, math.nan])
def test_a_loss_that_no_model_reaches_is_refused_with_one_that_can_be_had(target: float) -> None:
    with pytest.raises(InvalidRequest, match="never falls under 1.8172") as refusal:
        EPOCH.flop_for_loss(target)
    nearest = float(refusal.value.remedy.split("loss of ")[1].split()[0])
    assert math.isfinite(EPOCH.flop_for_loss(nearest))


def test_no_such_law() -> None:
    assert law_of("chinchilla") is CHINCHILLA
    with pytest.raises(NotFound, match="There are epoch, chinchilla"):
        law_of("kaplan")


@pytest.mark.parametrize(("flop", "warned"), [(1e15, True), (1e20, False), (1e24, False), (3.8e25, True)])
def test_an_extrapolation_says_so(flop: float, warned: bool) -> None:
    found = EPOCH.derivation(EPOCH.optimum(flop))
    assert bool(found.warnings) is warned
    assert any("C = 6 N D" in convention for convention in found.conventions)
    assert "2404.10102" in found.steps[0].source


@pytest.mark.parametrize(("flop", "batch", "rate"), [(8.4e23, 18.9e6, 3.2e-4), (8.2e22, 9.4e6, 4.2e-4)])
def test_batch_and_rate_are_near_those_that_deepseek_took(flop: float, batch: float, rate: float) -> None:
    """67B and 7B on 2 T tokens, batches of 4,608 and 2,304 sequences of 4,096 tokens (arXiv 2401.02954, table 2)."""
    assert batch_tokens(flop) == pytest.approx(batch, rel=0.05)
    assert peak_rate(flop) == pytest.approx(rate, rel=0.05)
