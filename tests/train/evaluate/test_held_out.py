"""The held-out loss: the same sum however many ranks share it, and bits per byte of the text alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tandem import spec
from tandem.train.evaluate import held_out
from tandem.train.evaluate.examination import held_out_places
from tandem.train.evaluate.held_out import held_out_report
from tandem.train.loop import Training
from tandem.train.objectives import find_objective
from tandem.train.parallel import Ranks
from tests.train.objectives.stand_ins import ByteText, Looking, stacked

TEXT: Any = ByteText()
DOCUMENTS: Any = [
    {"segments": [[*TEXT.encode(f"def naïve{'x' * number}():\n    return 🙂"), TEXT.end]]} for number in range(7)
]


def training(name: str, *, rank: int = 0, world: int = 1, micro_samples: int = 2) -> Training:
    objective = spec.Objective(name=name, params={"rate": 1.0} if name == "fim" else {})
    recipe = spec.Recipe(
        name="tiny",
        model=spec.Model(shape=spec.Shape(width=64, layers=1, heads=1, kv_heads=1, ffn=64)),
        data=(spec.Data(format="code"),),
        objective=objective,
        optimizer=spec.Optimizer(lr=1e-3),
        batch=spec.Batch(samples=2, context=64),
        budget=spec.Budget(steps=1),
    )
    return Training(
        recipe=recipe,
        objective=find_objective(objective, context=64),
        text=TEXT,
        samples=DOCUMENTS,
        model=Looking(TEXT.size),
        optimizers=[],
        ranks=Ranks(rank=rank, world=world, device=torch.device("cpu")),
        steps=1,
        micro_samples=micro_samples,
        half=False,
    )


def report(one: Training, *, limit: int = 7, samples: Any = DOCUMENTS, **given: Any) -> dict[str, Any]:
    return held_out_report(one, samples, limit=limit, beat=lambda: None, **given)


def test_bits_per_byte_are_all_nats_by_the_bytes_of_the_predicted_text() -> None:
    one = training("lm")
    found = report(one)
    nats, size, tokens = 0.0, 0, 0
    for document in DOCUMENTS:
        ids = np.array(document["segments"][0])
        log_p = one.model(torch.tensor(ids)[None])[0].detach().log_softmax(-1)
        nats -= float(log_p[range(len(ids) - 1), ids[1:]].sum())
        size += len(TEXT.decode(ids[1:]).removesuffix("<|endoftext|>").encode())
        tokens += len(ids)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)
    assert found["loss"] == pytest.approx(nats / (tokens - 7))
    assert (found["held_out_samples"], found["held_out_tokens"]) == (7, tokens)


def test_bits_per_byte_are_comparable_between_objectives() -> None:
    plain, rearranged = report(training("lm")), report(training("fim"))
    assert rearranged["bits_per_byte"] == pytest.approx(plain["bits_per_byte"])
    assert rearranged["loss"] != pytest.approx(plain["loss"])
    assert rearranged == report(training("fim"))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("limit", [7, 2, 1])
def test_ranks_share_the_work_and_agree(monkeypatch: pytest.MonkeyPatch, world: int, limit: int) -> None:
    """Each makes as many passes as the others, whatever its share, and the sums are those of one rank."""
    alone = report(training("fim"), limit=limit)
    parts: list[list[torch.Tensor]] = []
    passes = []
    for rank in range(world):
        told: list[torch.Tensor] = []
        beats: list[None] = []
        monkeypatch.setattr(held_out, "summed", lambda values, _ranks, told=told: told.append(values) or values)
        one = training("fim", rank=rank, world=world)
        held_out_report(one, DOCUMENTS, limit=limit, beat=lambda beats=beats: beats.append(None))
        parts.append(told)
        passes.append(len(beats))
    assert len(set(passes)) == 1
    sums = iter([sum(values[1:], start=values[0]) for values in zip(*parts, strict=True)])
    monkeypatch.setattr(held_out, "summed", lambda _values, _ranks: next(sums))
    assert report(training("fim", world=world), limit=limit) == pytest.approx(alone)


def test_the_cut_into_micro_batches_changes_nothing() -> None:
    assert report(training("fim", micro_samples=1)) == pytest.approx(report(training("fim", micro_samples=5)))


def test_pairs_are_measured_against_the_reference_of_their_place() -> None:
    one = training("dpo")
    pairs: Any = [
        {"prompt": [{"role": "user", "content": "?"}], "chosen": "Yes" * number, "rejected": "No"}
        for number in range(1, 5)
    ]
    examples = [one.objective.prepare(pair, TEXT, np.random.default_rng(0)) for pair in pairs]
    reference = np.arange(8, dtype=np.float32).reshape(4, 2) ** 2
    expected = one.objective.loss(one.model, {**stacked(examples), "reference": torch.tensor(reference)})
    found = report(one, samples=pairs, reference=reference)
    assert found["loss"] == pytest.approx(expected.total.item() / 4)
    assert found["margin"] == pytest.approx(expected.metrics["margin"].item() / 4)
    assert "bits_per_byte" not in found


def test_measuring_leaves_the_model_as_it_was() -> None:
    one = training("lm")
    one.model.train()
    report(one)
    assert one.model.training
    assert all(weights.grad is None for weights in one.model.parameters())


def test_places_are_the_seeds_alone() -> None:
    assert held_out_places(100, count=10, seed=1) == held_out_places(100, count=20, seed=1)[:10]
    assert held_out_places(100, count=10, seed=1) != held_out_places(100, count=10, seed=2)
    assert sorted(held_out_places(5, count=9, seed=1)) == [0, 1, 2, 3, 4]
