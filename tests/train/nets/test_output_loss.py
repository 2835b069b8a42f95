"""The output loss: exactly the plain cross entropy and its gradients, in chunks or not, for any gradient from above."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from tandem.train.nets import output_loss
from tandem.train.nets.output_loss import sequence_nll

VOCAB = 50


@pytest.fixture(params=["whole", "chunks", "one chunk"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What counts as large, and how large a chunk is: whole logits, 7 tokens at a time, or all in a chunk."""
    if request.param != "whole":
        monkeypatch.setitem(output_loss._LARGE, "cpu", 0)
    monkeypatch.setitem(output_loss._CHUNK, "cpu", 7 * VOCAB + 3 if request.param == "chunks" else 2**20)
    return str(request.param)


def case(weights: str) -> Iterator[torch.Tensor]:
    """x [3, 11, 8], head, targets, weights."""
    random = torch.Generator().manual_seed(0)
    yield torch.randn(3, 11, 8, generator=random)
    yield torch.randn(VOCAB, 8, generator=random)
    yield torch.randint(0, VOCAB, (3, 11), generator=random)
    counts = torch.rand(3, 11, generator=random)
    yield {
        "ones": torch.ones(3, 11),
        "some": counts * (counts > 0.6),
        "one row": counts * torch.tensor([[0.0], [1.0], [0.0]]),
        "none": counts * 0,
    }[weights]


def plain(x: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = cross_entropy(linear(x, head).flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses.view_as(weights) * weights).sum(dim=1)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("weights", ["ones", "some", "one row", "none"])
@pytest.mark.parametrize("above", [[1.0, 1.0, 1.0], [-0.5, -0.5, -0.5], [0.3, -2.0, 1.7]], ids=str)
def test_values_and_gradients_are_those_of_the_plain_formula(weights: str, above: list[float]) -> None:
    found = []
    for formula in (sequence_nll, plain):
        x, head, targets, counts = case(weights)
        x.requires_grad_()
        head.requires_grad_()
        nll = formula(x, head, targets, counts)
        nll.backward(torch.tensor(above))
        assert x.grad is not None
        assert head.grad is not None
        found.append((nll.detach(), x.grad, head.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert found[0][0].dtype == torch.float32


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("trained", ["x", "head", "neither"])
def test_only_what_is_trained_gets_a_gradient(trained: str) -> None:
    x, head, targets, counts = case("some")
    x.requires_grad_(trained == "x")
    head.requires_grad_(trained == "head")
    above = torch.tensor([0.3, -2.0, 1.7])
    nll = sequence_nll(x, head, targets, counts)
    torch.testing.assert_close(nll.detach(), plain(x, head, targets, counts).detach())
    if trained == "neither":
        assert not nll.requires_grad
        return
    nll.backward(above)
    (expected,) = torch.autograd.grad(plain(x, head, targets, counts), x if trained == "x" else head, above)
    torch.testing.assert_close(x.grad if trained == "x" else head.grad, expected, rtol=1e-6, atol=1e-6)
    assert (head if trained == "x" else x).grad is None


@pytest.mark.usefixtures("size")
def test_without_gradients_it_is_the_same() -> None:
    x, head, targets, counts = case("some")
    head.requires_grad_()
    with torch.no_grad():
        nll = sequence_nll(x, head, targets, counts)
    assert not nll.requires_grad
    torch.testing.assert_close(nll, plain(x, head, targets, counts).detach())


@pytest.mark.usefixtures("size")
def test_the_graph_may_be_used_twice() -> None:
    x, head, targets, counts = case("some")
    x.requires_grad_()
    head.requires_grad_()
    nll = sequence_nll(x, head, targets, counts)
    nll.sum().backward(retain_graph=True)
    assert head.grad is not None
    once = head.grad.clone()
    nll.sum().backward()
    torch.testing.assert_close(head.grad, 2 * once)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("above", [[1.0, 1.0, 1.0], [0.3, -2.0, 1.7]], ids=str)
def test_in_bf16_products_are_coarse_and_sums_are_not(above: list[float]) -> None:
    x, head, targets, counts = case("some")
    x.requires_grad_()
    head.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        nll = sequence_nll(x, head, targets, counts)
    nll.backward(torch.tensor(above))
    expected = plain(x, head, targets, counts)
    grads = torch.autograd.grad(expected, (x, head), torch.tensor(above))
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, expected, rtol=0.02, atol=0.02)
    for ours, theirs in zip((x.grad, head.grad), grads, strict=True):
        assert ours is not None
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_a_large_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of all tokens are never there at once."""
    monkeypatch.setitem(output_loss._LARGE, "cpu", 0)
    monkeypatch.setitem(output_loss._CHUNK, "cpu", 7 * VOCAB)
    rows = []

    def watched(low: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        rows.append(len(low))
        return linear(low, head)

    monkeypatch.setattr(output_loss, "linear", watched)
    x, head, targets, counts = case("some")
    sequence_nll(x, head, targets, counts)
    assert max(rows) == 7
    assert sum(rows) == int((counts > 0).sum()), "what does not count costs nothing"
