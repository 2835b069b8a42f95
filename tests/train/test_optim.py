"""Optimizers: which weight moves how, schedules, clipping, and states that go on to the bit."""

import math
from collections.abc import Callable, Iterator

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tandem.kit.errors import IntegrityError
from tandem.spec.recipe import Optimizer
from tandem.train.optim import (
    Muon,
    clip_,
    load_optimizer_state,
    make_optimizers,
    optimizer_state,
    orthogonal,
    rate,
    set_rates,
)

SCHEDULES = ["cosine", "linear", "constant", "wsd"]

specs = st.builds(
    Optimizer,
    lr=st.floats(1e-6, 1.0),
    schedule=st.sampled_from(SCHEDULES),
    warmup_steps=st.integers(0, 300),
    final_share=st.floats(0.0, 1.0),
    decay_share=st.floats(0.0, 1.0),
)
unhurried = settings(deadline=None, max_examples=100)


class Net(nn.Module):
    """A model with every kind of weight: an embedding, layers of matrices and vectors, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8)) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.head(self.norm(hidden))


def net() -> Net:
    torch.manual_seed(5)
    return Net()


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], spec: Optimizer, steps: range) -> None:
    """Steps of a run of 12, on data that depends on the step alone."""
    for step in steps:
        ids = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten().roll(1)).backward()
        clip_(model.parameters(), spec.clip)
        set_rates(optimizers, spec, step, 12)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def groups(optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[torch.optim.Optimizer, dict]]:
    return ((optimizer, group) for optimizer in optimizers for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_trained_weight_moves_by_its_kind(name: str) -> None:
    model = net()
    model.head.weight.requires_grad_(False)
    made = make_optimizers(model.named_parameters(), Optimizer(lr=1e-3, name=name, weight_decay=0.3, muon_lr=0.05))
    by_name = {
        one: (type(optimizer), group["weight_decay"], group["peak_lr"])
        for optimizer, group in groups(made)
        for one in group["param_names"]
    }
    assert set(by_name) == {one for one, _ in model.named_parameters()} - {"head.weight"}
    matrix = (Muon, 0.3, 0.05) if name == "muon" else (torch.optim.AdamW, 0.3, 1e-3)
    assert by_name["layers.1.0.weight"] == matrix
    assert by_name["embedding.weight"] == (torch.optim.AdamW, 0.3, 1e-3)
    assert by_name["layers.0.2.bias"] == by_name["norm.weight"] == (torch.optim.AdamW, 0.0, 1e-3)


def test_adamw_is_as_the_recipe_says() -> None:
    spec = Optimizer(lr=1e-3, beta1=0.8, beta2=0.9, eps=1e-6)
    for optimizer, group in groups(make_optimizers(net().named_parameters(), spec)):
        assert isinstance(optimizer, torch.optim.AdamW)
        assert (group["betas"], group["eps"], group["fused"]) == ((0.8, 0.9), 1e-6, True)


def test_a_model_of_matrices_alone_has_no_empty_optimizer() -> None:
    model = nn.ModuleDict({"layers": nn.Linear(4, 4, bias=False)})
    made = make_optimizers(model.named_parameters(), Optimizer(lr=1e-3, name="muon"))
    assert [type(optimizer) for optimizer in made] == [Muon]


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (8, 8)])
def test_muon_is_torchs_but_for_the_precision(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    moved = []
    for kind in (Muon, torch.optim.Muon):
        weight = nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.02, weight_decay=0.1, momentum=0.95)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        moved.append(weight.detach() - start)
    difference = (moved[0] - moved[1]).norm() / moved[1].norm()
    assert 0 < difference < 0.02  # bf16 has 8 bits


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_orthogonal_in_bf16_is_torchs_to_the_bit(shape: tuple[int, int]) -> None:
    torch.manual_seed(2)
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape)
    ours = orthogonal(weight.grad, torch.bfloat16)
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0).step()
    scale = math.sqrt(max(1.0, shape[0] / shape[1]))
    torch.testing.assert_close(weight.detach(), ours.float() * -scale, rtol=1e-6, atol=0)


def test_orthogonal_brings_singular_values_near_one() -> None:
    torch.manual_seed(3)
    matrix = torch.randn(16, 32)
    before = matrix.clone()
    values = torch.linalg.svdvals(orthogonal(matrix, torch.float32))
    assert 0.6 < values.min() <= values.max() < 1.3
    assert torch.equal(matrix, before)


@unhurried
@given(spec=specs, steps=st.integers(1, 2000), data=st.data())
def test_a_rate_stays_within_its_bounds(spec: Optimizer, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps - 1))
    share = rate(spec, step, steps)
    floor = spec.final_share if step >= spec.warmup_steps else 1 / (spec.warmup_steps + 1)
    assert floor - 1e-12 <= share <= 1.0


@unhurried
@given(spec=specs, steps=st.integers(2, 2000), data=st.data())
def test_a_rate_rises_evenly_then_never_again(spec: Optimizer, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps - 2))
    now, then = rate(spec, step, steps), rate(spec, step + 1, steps)
    if step < spec.warmup_steps:
        assert then - now == pytest.approx(1 / (spec.warmup_steps + 1))
    else:
        assert then <= now + 1e-12


@unhurried
@given(spec=specs, steps=st.integers(2, 2000), data=st.data())
def test_a_rate_makes_no_jump(spec: Optimizer, steps: int, data: st.DataObject) -> None:
    """From one step to the next it falls at most as steeply as half a cosine over the steps in which it falls."""
    step = data.draw(st.integers(0, steps - 2))
    falling = steps - 1 - spec.warmup_steps
    if spec.schedule == "wsd":
        falling = min(falling, round(spec.decay_share * steps))
    steepest = math.pi / 2 * (1 - spec.final_share) / max(falling, 1)
    assert rate(spec, step, steps) - rate(spec, step + 1, steps) <= steepest + 1e-9


@unhurried
@given(spec=specs, after=st.integers(2, 1000))
def test_a_rate_peaks_after_the_warmup_and_ends_at_its_share(spec: Optimizer, after: int) -> None:
    steps = spec.warmup_steps + after
    assert rate(spec, spec.warmup_steps, steps) == 1.0
    holds = spec.schedule == "constant" or (spec.schedule == "wsd" and round(spec.decay_share * steps) == 0)
    assert rate(spec, steps - 1, steps) == pytest.approx(1.0 if holds else spec.final_share)


@pytest.mark.parametrize(
    ("schedule", "middle", "late"),
    [("cosine", 0.55, 0.1 + 0.9 * (1 - math.cos(math.pi / 10)) / 2), ("linear", 0.55, 0.19), ("wsd", 1.0, 0.55)],
)
def test_a_rate_falls_in_the_shape_of_its_schedule(schedule: str, middle: float, late: float) -> None:
    spec = msgspec.convert({"lr": 1.0, "schedule": schedule, "decay_share": 0.2}, Optimizer)
    assert rate(spec, 50, 101) == pytest.approx(middle)
    assert rate(spec, 90, 101) == pytest.approx(late)


def test_set_rates_reaches_every_group() -> None:
    spec = Optimizer(lr=1e-3, name="muon", muon_lr=0.05, warmup_steps=3)
    made = make_optimizers(net().named_parameters(), spec)
    set_rates(made, spec, 1, 10)
    assert [group["lr"] for _, group in groups(made)] == [0.025, 5e-4, 5e-4]
    set_rates(made, spec, 3, 10)
    assert [group["lr"] for _, group in groups(made)] == [0.05, 1e-3, 1e-3]


@pytest.mark.parametrize(("limit", "after"), [(1.0, 1.0), (0.0, 13.0), (20.0, 13.0)])
def test_clip_scales_the_whole_gradient(limit: float, after: float) -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(3))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])
    assert float(clip_(iter(weights), limit)) == 13.0
    assert float(clip_(weights, 0.0)) == pytest.approx(after, rel=1e-5)
    assert weights[2].grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_tells_of_a_gradient_that_is_not_finite(bad: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, bad])
    assert not math.isfinite(float(clip_([weight], 1.0)))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_resumed_run_ends_with_the_same_bits(name: str, done: int) -> None:
    spec = Optimizer(lr=1e-2, name=name, warmup_steps=2)
    straight = net()
    train(straight, make_optimizers(straight.named_parameters(), spec), spec, range(12))

    first = net()
    before = make_optimizers(first.named_parameters(), spec)
    train(first, before, spec, range(done))
    saved = {key: value.clone() for key, value in optimizer_state(before).items()}
    second = Net()
    second.load_state_dict(first.state_dict())
    after = make_optimizers(second.named_parameters(), spec)
    load_optimizer_state(after, saved)
    for key, value in saved.items():
        assert torch.equal(optimizer_state(after)[key], value)
    train(second, after, spec, range(done, 12))

    assert all(map(torch.equal, straight.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(second.head.weight, first.head.weight), "and it did train"


def test_a_loaded_state_replaces_all_and_is_a_copy() -> None:
    spec = Optimizer(lr=1e-2)
    model = net()
    made = make_optimizers(model.named_parameters(), spec)
    train(model, made, spec, range(2))
    saved = {key: value.clone() for key, value in optimizer_state(made).items()}
    assert saved["step|norm.bias"] == 2.0
    assert saved["exp_avg_sq|layers.0.0.weight"].shape == (24, 8)
    load_optimizer_state(made, saved)
    train(model, made, spec, range(2, 3))
    assert saved["step|norm.bias"] == 2.0
    load_optimizer_state(made, {})
    assert optimizer_state(made) == {}


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("head", "tail"): value for key, value in state.items()}


def reshaped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"exp_avg|head.weight": torch.zeros(3, 3)}


@pytest.mark.parametrize(("change", "said"), [(renamed, "tail.weight"), (reshaped, r"shape \[3, 3\]")])
def test_a_state_of_another_model_is_refused(change: Callable[..., dict[str, torch.Tensor]], said: str) -> None:
    spec = Optimizer(lr=1e-2)
    model = net()
    made = make_optimizers(model.named_parameters(), spec)
    train(model, made, spec, range(1))
    with pytest.raises(IntegrityError, match=said):
        load_optimizer_state(made, change(optimizer_state(made)))
