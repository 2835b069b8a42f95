"""What a plan starts from: exactly one thing, above 0; nonsense is refused with the nearest that works."""

import math
from typing import Any

import pytest

from tandem.kit.errors import InvalidRequest, NotFound
from tandem.plan.quote import Ask, hosts_of, usual_context
from tandem.plan.scaling import LAWS
from tests.plan.published import catalogue


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"budget_usd": 1e6, "target_loss_nats": 2.0},
        {"budget_usd": 1e6, "devices": 8, "span_s": 60.0},
        {"devices": 8},
        {"span_s": 60.0},
        {"budget_usd": 1e6, "span_s": 60.0},
    ],
    ids=str,
)
def test_exactly_one_thing_is_given(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="exactly one of money, devices for a time, and a loss"):
        Ask(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"budget_usd": -5.0},
        {"budget_usd": 0.0},
        {"budget_usd": math.inf},
        {"budget_usd": math.nan},
        {"devices": 0, "span_s": 60.0},
        {"devices": -8, "span_s": 60.0},
        {"devices": 8, "span_s": -60.0},
        {"target_loss_nats": 0.0},
        {"budget_usd": 1e6, "parameters": 0},
        {"budget_usd": 1e6, "context": -1},
        {"budget_usd": 1e6, "most_wall_s": 0.0},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="above 0") as refusal:
        Ask(**given)
    assert refusal.value.param in given


def test_the_law_is_known() -> None:
    assert Ask(budget_usd=1.0).scaling is LAWS["epoch"]
    assert Ask(budget_usd=1.0, law="chinchilla").scaling is LAWS["chinchilla"]
    with pytest.raises(NotFound, match="no scaling law 'kaplan'"):
        Ask(budget_usd=1.0, law="kaplan")


@pytest.mark.parametrize(("parameters", "context"), [(1e6, 512), (1.35e8, 2048), (7e9, 4096), (4.05e11, 8192)])
def test_contexts_that_are_usual(parameters: float, context: int) -> None:
    assert usual_context(parameters) == context


def test_devices_come_in_hosts() -> None:
    cluster = catalogue().cluster("8xh100", hosts=16)
    assert hosts_of(64, cluster) == 8


@pytest.mark.parametrize(("devices", "nearest"), [(7, 8), (1, 8), (12, 16), (129, 128), (1_000, 128)])
def test_a_broken_host_is_refused_with_the_nearest_whole_one(devices: int, nearest: int) -> None:
    cluster = catalogue().cluster("8xh100", hosts=16)
    with pytest.raises(InvalidRequest, match=f"Ask for {nearest} devices"):
        hosts_of(devices, cluster)
    assert hosts_of(nearest, cluster) == nearest // 8
