"""Checkpoints: Megatron's 13.8 TB, the storage that all hosts share, and refusals."""

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan.reliability import checkpoint_cost
from tests.plan.published import catalogue

CLUSTER = catalogue().cluster("8xa100-80", hosts=384)


def test_megatrons_model_of_1t() -> None:
    """1,008 B weights: 13.8 TB, saved at 273 GB/s by 3,072 A100 (arXiv 2104.04473)."""
    cost = checkpoint_cost(1_008_000_000_000, CLUSTER, storage_bytes_per_s=273e9)
    assert cost.size_bytes == pytest.approx(13.8e12, rel=0.03)
    assert cost.save_s == pytest.approx(13.8e12 / 273e9, rel=0.03)
    assert cost.load_s == cost.save_s
    assert "273 GB/s" in cost.derivation.steps[0].value


def test_hosts_write_together_until_the_storage_is_full() -> None:
    each = CLUSTER.host.storage_bytes_per_s
    alone = checkpoint_cost(10**11, CLUSTER)
    assert alone.save_s == pytest.approx(1.4e12 / (384 * each))
    assert checkpoint_cost(10**11, CLUSTER, storage_bytes_per_s=1e15).save_s == alone.save_s
    assert checkpoint_cost(10**11, CLUSTER.of_hosts(192)).save_s == pytest.approx(2 * alone.save_s)
    assert checkpoint_cost(10**11, CLUSTER, storage_bytes_per_s=1e9).save_s == pytest.approx(1_400)


def test_a_small_one_still_takes_a_moment() -> None:
    assert checkpoint_cost(1_000, CLUSTER).save_s == 0.1


@pytest.mark.parametrize(("parameters", "each", "shared"), [(0, 14.0, None), (1, 0.0, None), (1, 14.0, 0.0)])
def test_nonsense_is_refused(parameters: int, each: float, shared: float | None) -> None:
    with pytest.raises(InvalidRequest, match="needs a model"):
        checkpoint_cost(parameters, CLUSTER, each_bytes=each, storage_bytes_per_s=shared)
