"""Adapters: nothing at first, merged as unmerged, the model under them untouched."""

import pytest
import torch

from tandem.spec import Lora
from tandem.train.nets import Llama, adapter_off, adapter_state, add_lora, is_trainable, merged_state
from tests.train.nets.tiny import tiny_config, tiny_net, tokens

SPEC = Lora(rank=4, alpha=6.0)


def adapted(spec: Lora = SPEC, *, trained: bool = True) -> Llama:
    """With `trained`, B is not 0 any more."""
    net = tiny_net()
    add_lora(net, spec, seed=5)
    if trained:
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weights in net.named_parameters():
                if "lora_B" in name:
                    weights.copy_(torch.randn(weights.shape, generator=random) * 0.3)
    return net


def logits(net: Llama) -> torch.Tensor:
    with torch.no_grad():
        return net(tokens(2, 12))


def test_nothing_changes_at_first() -> None:
    assert torch.equal(logits(adapted(trained=False)), logits(tiny_net()))


def test_merged_is_unmerged() -> None:
    net = adapted()
    merged = Llama(tiny_config())
    merged.load_state_dict(merged_state(net.state_dict(), SPEC))
    assert (logits(net) - logits(tiny_net())).abs().max() > 0.1
    torch.testing.assert_close(logits(merged), logits(net), rtol=1e-4, atol=1e-4)


def test_the_product_is_scaled_by_alpha_over_rank() -> None:
    state = adapted().state_dict()
    key = "model.layers.0.mlp.up_proj"
    expected = state[f"{key}.weight"] + 1.5 * state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"]
    torch.testing.assert_close(merged_state(state, SPEC)[f"{key}.weight"], expected)


def test_off_is_the_model_under_it() -> None:
    net = adapted()
    with adapter_off(net):
        assert torch.equal(logits(net), logits(tiny_net()))
    assert not torch.equal(logits(net), logits(tiny_net()))


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), SPEC.targets], ids=str)
def test_only_adapters_of_the_targets_are_trained(targets: tuple[str, ...]) -> None:
    net = adapted(Lora(rank=4, targets=targets))
    before = {name: weights.clone() for name, weights in net.state_dict().items()}
    ids = tokens(2, 12)
    optimizer = torch.optim.SGD([weights for weights in net.parameters() if weights.requires_grad], lr=0.1)
    net(ids[:, :-1], ids[:, 1:]).sum().backward()
    optimizer.step()
    after = net.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    expected = {name for name in before if name.endswith((".lora_A.weight", ".lora_B.weight"))}
    assert moved == expected == set(adapter_state(after))
    assert {name.split(".")[-3] for name in moved} == set(targets)
    assert len(moved) == 2 * 2 * len(targets)


def test_names_follow_from_the_recipe() -> None:
    net, plain = adapted(), tiny_net()
    assert set(net.state_dict()) - set(adapter_state(net.state_dict())) == set(plain.state_dict())
    for name, weights in net.named_parameters():
        assert weights.requires_grad == is_trainable(name, SPEC)
        assert is_trainable(name, None)
    loaded = adapted(trained=False)
    loaded.load_state_dict(adapter_state(net.state_dict()), strict=False)
    assert torch.equal(logits(loaded), logits(net))


def test_the_first_adapters_depend_on_seed_and_name_alone() -> None:
    few, many = (adapted(Lora(rank=4, targets=targets)).state_dict() for targets in (("v_proj",), SPEC.targets))
    name = "model.layers.1.self_attn.v_proj.lora_A.weight"
    assert torch.equal(few[name], many[name])
    assert few[name].abs().max() <= 1 / 8, "uniform within 1/sqrt(inputs)"
    assert few[name].std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.15)
    other = tiny_net()
    add_lora(other, SPEC, seed=6)
    assert not torch.equal(other.state_dict()[name], few[name])
