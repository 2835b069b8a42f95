"""Greedy text: with keys and values kept the same as without, and it ends where it should."""

import pytest
import torch

from tandem.spec import Lora
from tandem.train.nets import Llama, add_lora, greedy
from tandem.train.nets.llama import Past
from tests.train.nets.tiny import tiny_net, tokens


def slowly(net: Llama, ids: list[int], count: int) -> list[int]:
    """Everything is read again for every token."""
    said: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            said.append(int(net(torch.tensor([ids + said]))[0, -1].argmax()))
    return said


@pytest.mark.parametrize("changes", [{}, {"width": 256, "heads": 4, "kv_heads": 2}], ids=["one", "grouped"])
@pytest.mark.parametrize("length", [1, 9])
def test_keeping_keys_and_values_changes_nothing(changes: dict[str, int], length: int) -> None:
    net = tiny_net(tie=False, **changes)
    ids = tokens(length).tolist()
    said = greedy(net, ids, 16)
    assert said == slowly(net, ids, 16)
    assert len(set(said)) > 1, "a model that says one thing would hide a mistake"


def test_logits_after_what_was_kept_are_those_of_the_whole() -> None:
    net = tiny_net()
    ids = tokens(3, 9)
    past = [Past(net.config, like=torch.empty(0), batch=3) for _ in net.model.layers]
    with torch.no_grad():
        parts = [net(ids[:, :6], past=past), *(net(ids[:, place : place + 1], past=past) for place in (6, 7, 8))]
        torch.testing.assert_close(torch.cat(parts, dim=1), net(ids)[:, 5:], rtol=1e-4, atol=1e-4)


def test_it_works_with_an_adapter_and_in_bf16() -> None:
    net = tiny_net()
    add_lora(net, Lora(rank=2), seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert len(greedy(net, tokens(4).tolist(), 5)) == 5


def test_it_ends_with_a_stop_token_at_the_count_or_with_the_context() -> None:
    net = tiny_net()
    ids = tokens(4).tolist()
    said = greedy(net, ids, 16)
    stop = said[5]
    assert greedy(net, ids, 16, {stop}) == said[: said.index(stop) + 1]
    assert greedy(net, ids, 3) == said[:3]
    assert greedy(net, ids, 16, context=10) == said[:6]
    assert len(greedy(net, ids, 1000)) == 28
    assert greedy(net, ids, 16, context=4) == []
