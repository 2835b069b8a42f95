"""The loop: no cut changes a gradient, resuming changes no bit, and what is not finite moves no weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tandem.spec import Batch, Budget, Data, Model, Objective, Optimizer, Recipe, RunFolder, Shape
from tandem.train.loop import Micro, Training, Watcher, micro_batches, run_steps, take_step
from tandem.train.measure.meter import Heart, Meter
from tandem.train.measure.probe import Machine
from tandem.train.nets import Llama, NetConfig
from tandem.train.objectives.likelihood import token_loss
from tandem.train.objectives.objective import Batch as Tensors
from tandem.train.objectives.objective import Example, Loss
from tandem.train.optim import load_optimizer_state, make_optimizers, optimizer_state
from tandem.train.parallel import Ranks

VOCAB, CONTEXT, SAMPLES = 96, 24, 8


class Rows:
    """Samples of different lengths, and an objective that takes them as they are; `poisoned` steps lose NaN."""

    formats = frozenset({"text"})
    needs_reference = False

    def __init__(self, *, poisoned: Sequence[int] = ()) -> None:
        self.poisoned = poisoned
        self.calls = 0

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng(index)
        return {"ids": random.integers(0, VOCAB, size=random.integers(4, CONTEXT + 2)).astype(np.int32)}

    def prepare(self, record: Any, text: Any, random: np.random.Generator) -> Example:
        ids = record["ids"]
        weights = random.integers(0, 2, size=len(ids)).astype(np.float32)  # uneven, and another one at each draw
        weights[-1] = 1.0
        return {"ids": ids, "weights": weights}

    def loss(self, model: torch.nn.Module, batch: Tensors) -> Loss:
        self.calls += 1
        lost = token_loss(model, batch)
        return lost._replace(total=lost.total * float("nan")) if self.calls in self.poisoned else lost


def training(
    rows: Rows,
    *,
    micro_samples: int = SAMPLES,
    rank: int = 0,
    world: int = 1,
    optimizer: str = "adamw",
    steps: int = 12,
) -> Training:
    recipe = Recipe(
        name="t",
        model=Model(shape=Shape(width=64, layers=2, heads=1, kv_heads=1, ffn=96)),
        data=(Data(format="text"),),
        objective=Objective(name="lm"),
        optimizer=Optimizer(lr=3e-3, name=optimizer),
        batch=Batch(samples=SAMPLES, context=CONTEXT),
        budget=Budget(steps=steps),
        seed=7,
    )
    net = Llama(NetConfig.from_shape(recipe.model.shape, vocab=VOCAB, context=CONTEXT))
    net.init_weights(7)
    return Training(
        recipe=recipe,
        objective=rows,
        text=None,
        samples=rows,
        model=net,
        optimizers=make_optimizers(net.named_parameters(), recipe.optimizer),
        ranks=Ranks(rank=rank, world=world, device=torch.device("cpu")),
        steps=steps,
        micro_samples=micro_samples,
        half=False,
    )


def weights(made: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in made.model.named_parameters()}


def go(made: Training, first: int, last: int) -> list[float]:
    return [take_step(made, step, micro_batches(made, step)).loss for step in range(first, last)]


@pytest.mark.parametrize("micro_samples", [1, 3, 4])
def test_the_micro_batch_changes_no_gradient(micro_samples: int) -> None:
    whole, cut = training(Rows()), training(Rows(), micro_samples=micro_samples)
    assert go(whole, 0, 1) == pytest.approx(go(cut, 0, 1), rel=1e-6)
    # One step of Adam turns rounding into signs where a gradient is 0; its first moment is the gradient itself.
    moments = [optimizer_state(made.optimizers) for made in (whole, cut)]
    for name in moments[0]:
        if name.startswith("exp_avg|"):
            torch.testing.assert_close(moments[0][name], moments[1][name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_samples_and_their_units(world: int) -> None:
    alone = micro_batches(training(Rows()), 3)
    shared = [micro for rank in range(world) for micro in micro_batches(training(Rows(), rank=rank, world=world), 3)]

    def content(micros: Sequence[Micro]) -> list[tuple[int, ...]]:
        rows = (row for micro in micros for row in zip(micro.batch["ids"], micro.batch["weights"], strict=True))
        return sorted((*ids[: int(ids.count_nonzero())].tolist(), int(counted.sum())) for ids, counted in rows)

    assert content(alone) == content(shared)
    assert sum(micro.tokens for micro in alone) == sum(micro.tokens for micro in shared)


def test_little_of_a_micro_batch_is_padding() -> None:
    micros = micro_batches(training(Rows(), micro_samples=2), 0)
    lengths = [micro.batch["ids"].shape[1] for micro in micros]
    assert lengths == sorted(lengths)
    assert len(micros) == SAMPLES // 2


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_optimizer_and_step_are_all_that_a_run_needs_to_go_on_bit_for_bit(optimizer: str) -> None:
    straight = training(Rows(), optimizer=optimizer)
    losses = go(straight, 0, 12)
    half = training(Rows(), optimizer=optimizer)
    go(half, 0, 5)
    resumed = training(Rows(), optimizer=optimizer)
    resumed.model.load_state_dict(half.model.state_dict())
    load_optimizer_state(resumed.optimizers, optimizer_state(half.optimizers))
    assert go(resumed, 5, 12) == losses[5:]
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_a_loss_that_is_not_finite_moves_no_weight() -> None:
    made = training(Rows(poisoned=[2]))
    go(made, 0, 1)
    before = weights(made)
    assert np.isnan(go(made, 1, 2)[0])
    assert made.skips == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(made).items())
    go(made, 2, 3)
    assert made.skips == 0
    assert not all(torch.equal(tensor, before[name]) for name, tensor in weights(made).items())


@pytest.fixture
def meter(tmp_path: Path) -> Meter:
    machine = Machine(device="cpu", bf16_gain=0.1, peak_flops=1e11, peak_name="a test's", threads=1)
    (tmp_path / "attempts" / "0001").mkdir(parents=True)
    return Meter(RunFolder(tmp_path), 1, machine=machine, flops_per_token=1e6, world=1)


def watcher(told: list[tuple[str, int]], *, stop_after: int = 10**9, save_every: int = 10**9) -> Watcher:
    return Watcher(
        wishes=lambda step: [int(step.number >= stop_after), int(step.number % save_every == 0)],
        stepped=lambda step, last: told.append(("last" if last else "step", step.number)),
        skipped=lambda step: told.append(("skipped", step.number)),
        save=lambda step: told.append(("save", step)),
        evaluate=lambda step: told.append(("evaluate", step)),
        evaluate_every=5,
    )


def test_the_loop_tells_what_happens_in_order(meter: Meter) -> None:
    told: list[tuple[str, int]] = []
    assert run_steps(training(Rows(), steps=6), 3, meter, watcher(told, save_every=4))
    assert told == [("step", 4), ("save", 4), ("step", 5), ("evaluate", 5), ("last", 6)]


def test_a_wish_to_stop_ends_at_a_step_boundary(meter: Meter) -> None:
    told: list[tuple[str, int]] = []
    assert not run_steps(training(Rows()), 0, meter, watcher(told, stop_after=3))
    assert told[-1] == ("step", 3)


def test_three_bad_steps_in_a_row_end_the_attempt(meter: Meter) -> None:
    told: list[tuple[str, int]] = []
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        run_steps(training(Rows(poisoned=[2, 3, 4])), 0, meter, watcher(told))
    assert [number for kind, number in told if kind == "skipped"] == [2, 3, 4]


def test_time_is_counted_once(meter: Meter) -> None:
    with meter.spend("useful"), meter.spend("checkpoint"):
        pass
    meter.add("lost", 2.0)
    summary = meter.summary({"wall_s": 1.0})
    assert summary["goodput"]["lost_s"] == 2.0
    assert sum(summary["goodput"].values()) <= summary["actual"]["wall_s"] + 2.0 + 1e-3
    assert summary["mfu_convention"].startswith("A:")


def test_a_heart_beats_at_once_when_the_phase_changes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    heart = Heart(folder, 0)
    for phase, step in (("train", 1), ("train", 2), ("export", 2)):
        heart.beat(phase, step)
    assert '"phase": "export"' in folder.heartbeat(0).read_text()
