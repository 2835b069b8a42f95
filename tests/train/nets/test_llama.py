"""The decoder: what transformers computes, weights that depend on seed and name alone, and the ways it is run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.kit.errors import IntegrityError, NotFound
from tandem.train.nets import Llama, load_folder
from tandem.train.nets.llama import rope_tables
from tests.train.nets.tiny import SIZES, tiny_config, tiny_net, tokens

SHAPES = {
    "one head, tied": {},
    "grouped": {"width": 256, "heads": 4, "kv_heads": 2, "tie": False},
    "every head its own": {"width": 128, "heads": 2, "kv_heads": 2, "rope_theta": 500.0},
    "wide heads": {"width": 256, "heads": 2, "kv_heads": 1, "tie": False, "norm_eps": 1e-6},
    "heads wider than the model": {"width": 64, "heads": 2, "kv_heads": 1, "head_width": 64},
}


def theirs(**changes: Any) -> Any:
    """The same shape by transformers."""
    pytest.importorskip("transformers", reason="parity needs transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = tiny_config(**changes)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_width,
            intermediate_size=config.ffn,
            vocab_size=config.vocab,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_theta": config.rope_theta, "rope_type": "default"},
            tie_word_embeddings=config.tie,
            attn_implementation="eager",
        )
    ).eval()


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_it_computes_what_transformers_computes(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = theirs(**changes)
    with torch.no_grad():
        for name, weights in reference.named_parameters():
            weights.mul_(8) if "norm" not in name else weights.add_(torch.randn_like(weights) * 0.2)
    reference.save_pretrained(tmp_path)
    net = load_folder(tmp_path)
    ids = tokens(3, 32)
    with torch.no_grad():
        ours, expected = net(ids), reference(ids.long()).logits
    assert expected.std() > 0.5, "logits that are all alike would say nothing"
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert {name for name, _ in net.named_parameters()} == {name for name, _ in reference.named_parameters()}
    nll, targets = net(ids[:, :-1], ids[:, 1:].long()), ids[:, 1:].long()
    expected_nll = -expected[:, :-1].log_softmax(-1).gather(2, targets[..., None]).sum(dim=(1, 2))
    torch.testing.assert_close(nll, expected_nll, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_transformers() -> None:
    changes = SHAPES["grouped"]
    reference, net = theirs(**changes), tiny_net(**changes)
    reference.load_state_dict(net.state_dict())
    ids = tokens(2, 12)
    net(ids[:, :-1], ids[:, 1:]).sum().backward()
    logits = reference(ids[:, :-1].long()).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten().long(), reduction="sum").backward()
    expected = dict(reference.named_parameters())
    for name, weights in net.named_parameters():
        grad = expected[name].grad
        assert weights.grad is not None
        assert (weights.grad - grad).norm() < 1e-5 * grad.norm(), name


def test_the_first_weights_depend_on_seed_and_name_alone() -> None:
    small, deep = (Llama(tiny_config(layers=layers)) for layers in (2, 3))
    small.init_weights(1)
    deep.init_weights(1)
    small_state, deep_state = small.state_dict(), deep.state_dict()
    for name in small_state:
        same = torch.equal(small_state[name], deep_state[name])
        assert same != name.endswith(("o_proj.weight", "down_proj.weight")), name
    q, k = (small_state[f"model.layers.{number}.self_attn.q_proj.weight"] for number in (0, 1))
    assert not torch.equal(q, k)
    again = Llama(tiny_config())
    again.init_weights(2)
    assert not torch.equal(again.state_dict()["model.embed_tokens.weight"], small_state["model.embed_tokens.weight"])


def test_the_first_weights_have_the_right_size() -> None:
    net = Llama(tiny_config(layers=8, tie=False))
    net.init_weights(0)
    for name, weights in net.named_parameters():
        if "norm" in name:
            assert weights.eq(1).all()
        else:
            expected = 0.02 / (4 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1)
            assert weights.std().item() == pytest.approx(expected, rel=0.05), name


def test_the_same_weights_forever() -> None:
    """A change of these numbers would give every recipe another result."""
    net = Llama(tiny_config())
    net.init_weights(0)
    found = net.state_dict()["model.layers.1.mlp.up_proj.weight"][0, :3].tolist()
    assert found == pytest.approx([0.028881120, -0.006054461, 0.013002767], abs=1e-8)


def test_tables_are_not_saved_and_names_are_those_of_transformers() -> None:
    names = set(tiny_net(tie=False).state_dict())
    assert "lm_head.weight" in names
    assert "lm_head.weight" not in tiny_net().state_dict()
    assert all(name.startswith(("model.", "lm_head.")) for name in names)


def test_a_position_sees_what_is_before_it_and_how_far() -> None:
    net = tiny_net()
    ids = tokens(1, 16)
    changed = ids.clone()
    changed[0, 8] = (changed[0, 8] + 1) % SIZES["vocab"]
    with torch.no_grad():
        before, after, alone = net(ids), net(changed), net(ids[:, :8])
    torch.testing.assert_close(before[:, :8], after[:, :8], rtol=0, atol=0)
    assert (before[:, 8:] - after[:, 8:]).abs().amax(dim=2).min() > 1e-4
    torch.testing.assert_close(alone, before[:, :8], rtol=1e-4, atol=1e-4)
    cos, sin = rope_tables(tiny_config(rope_theta=100.0))
    assert cos[3, 1].item() == pytest.approx(torch.cos(torch.tensor(3 / 100 ** (2 / 64))).item())
    assert sin[3, 33].item() == -sin[3, 1].item()


def test_longer_than_the_context_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="33 tokens"):
        tiny_net()(tokens(1, 33))


def test_layers_may_be_computed_again() -> None:
    grads = []
    for checkpoint_layers in (False, True):
        net = tiny_net()
        net.checkpoint_layers = checkpoint_layers
        ids = tokens(2, 12)
        net(ids[:, :-1], ids[:, 1:]).sum().backward()
        grads.append([weights.grad for weights in net.parameters()])
    for plain, again in zip(*grads, strict=True):
        assert torch.equal(plain, again)


def test_it_compiles_in_one_piece() -> None:
    net = tiny_net()
    ids = tokens(2, 12)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids[:, :-1], ids[:, 1:]), net(ids[:, :-1], ids[:, 1:]))


def test_in_bf16_it_is_nearly_the_same_and_the_sums_are_fp32() -> None:
    net = tiny_net()
    ids = tokens(2, 12)
    exact = net(ids[:, :-1], ids[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        coarse = net(ids[:, :-1], ids[:, 1:])
    coarse.sum().backward()
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.05, atol=0.05)
    assert all(weights.grad is not None and weights.grad.dtype == torch.float32 for weights in net.parameters())


def test_tokens_that_do_not_count_change_no_gradient_of_others() -> None:
    """Padding at the right, as the loop makes it: the same losses and gradients as without."""
    net = tiny_net()
    ids = tokens(1, 12)
    net(ids[:, :-1], ids[:, 1:]).sum().backward()
    alone = [weights.grad for weights in net.parameters()]
    net.zero_grad()
    padded = torch.nn.functional.pad(ids, (0, 5))
    weights_BT = torch.nn.functional.pad(torch.ones(1, 11), (0, 5))
    net(padded[:, :-1], padded[:, 1:], weights_BT).sum().backward()
    for expected, weights in zip(alone, net.parameters(), strict=True):
        torch.testing.assert_close(weights.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_in_which_nothing_counts_still_has_gradients() -> None:
    """Other workers wait for them."""
    net = tiny_net()
    ids = tokens(2, 12)
    net(ids[:, :-1], ids[:, 1:], torch.zeros(2, 11)).sum().backward()
    assert all(weights.grad is not None and not weights.grad.any() for weights in net.parameters())


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    with pytest.raises(IntegrityError, match=r"model.layers.1.*no place"):
        _with(tmp_path, '"num_hidden_layers": 2', '"num_hidden_layers": 1')
    with pytest.raises(IntegrityError, match=r"nothing for 'model.layers.2"):
        _with(tmp_path, '"num_hidden_layers": 1', '"num_hidden_layers": 3')
    with pytest.raises(IntegrityError, match=r"\(64, 64\) for 'model.embed_tokens.weight', where \(65, 64\)"):
        _with(tmp_path, '"vocab_size": 64', '"vocab_size": 65')
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NotFound, match="model.safetensors"):
        load_folder(tmp_path)


def _with(folder: Path, old: str, new: str) -> None:
    path = folder / "config.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    load_folder(folder)
