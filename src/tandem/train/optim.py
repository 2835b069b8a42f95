"""How weights move: optimizers by kind of weight, pure schedules, clipping, and a state that resumes to the bit."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tandem.kit.errors import IntegrityError
from tandem.spec.recipe import Optimizer
from tandem.train.parallel import shared_out, whole

_BETWEEN = "|"  # of a state's name: "exp_avg|model.norm.weight"
_MUON_MOMENTUM = 0.95


def make_optimizers(named: Iterable[tuple[str, nn.Parameter]], spec: Optimizer) -> list[torch.optim.Optimizer]:
    """Optimizers for the weights that are trained; their rates are set before each step.

    Matrices decay, the embedding's too, as in nanoGPT; norms and biases, which are vectors, do not. With `muon` the
    matrices of the layers go to Muon, all others to AdamW.
    """
    trained = [(name, weight) for name, weight in named if weight.requires_grad]
    by_muon = [one for one in trained if spec.name == "muon" and one[1].ndim == 2 and "layers." in one[0]]
    taken = {name for name, _ in by_muon}
    rest = [one for one in trained if one[0] not in taken]
    made: list[torch.optim.Optimizer] = []
    if by_muon:
        group = {"params": by_muon, "peak_lr": spec.muon_lr}
        made.append(Muon([group], lr=spec.muon_lr, weight_decay=spec.weight_decay, momentum=_MUON_MOMENTUM))
    groups = [
        {"params": [one for one in rest if one[1].ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [one for one in rest if one[1].ndim < 2], "weight_decay": 0.0},
    ]
    groups = [{**group, "peak_lr": spec.lr} for group in groups if group["params"]]
    if groups:
        betas = (spec.beta1, spec.beta2)
        made.append(torch.optim.AdamW(groups, lr=spec.lr, betas=betas, eps=spec.eps, fused=True))
    return made


class Muon(torch.optim.Muon):
    """torch's Muon with its products in fp32 on a CPU.

    torch's own are in bf16 always, which a CPU without instructions for it computes some fifty times slower. The rate
    is adjusted in Keller Jordan's way (`original`: times sqrt(rows / columns) where that is above 1), for which
    0.02 is the customary rate.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the weights that have a gradient."""
        assert closure is None, "the loop computes the loss before"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: nn.Parameter, group: Mapping[str, Any]) -> None:
        gradient = weight.grad
        assert gradient is not None
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        dtype = torch.float32 if weight.device.type == "cpu" else torch.bfloat16
        update = orthogonal(gradient.lerp(average, group["momentum"]), dtype)
        rows, columns = weight.shape
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About the nearest matrix whose singular values are all 1, by five Newton-Schulz steps of torch's Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315  # steepest at 0 (https://kellerjordan.github.io/posts/muon/)
    upright = matrix.size(0) > matrix.size(1)
    near = matrix.to(dtype, copy=True)
    near = near.T if upright else near
    near = near.div_(near.norm().clamp(min=1e-7))
    for _ in range(5):
        gram = near @ near.T
        near = torch.addmm(near, torch.addmm(gram, gram, gram, beta=b, alpha=c), near, beta=a)
    return near.T if upright else near


def rate(spec: Optimizer, step: int, steps: int) -> float:
    """The rate of step `step` of [0, steps) as a share of the peak rate.

    It rises evenly over the `warmup_steps`, has its peak at the step after them, and falls as the schedule says, to
    `final_share` at the last step; `constant` does not fall.
    """
    if step < spec.warmup_steps:
        return (step + 1) / (spec.warmup_steps + 1)
    last = steps - 1
    match spec.schedule:
        case "constant":
            return 1.0
        case "cosine":
            done = _progress(step, begin=spec.warmup_steps, last=last)
            fallen = (1 - math.cos(math.pi * done)) / 2
        case "linear":
            fallen = _progress(step, begin=spec.warmup_steps, last=last)
        case "wsd":
            begin = max(spec.warmup_steps, last - round(spec.decay_share * steps))
            fallen = _progress(step, begin=begin, last=last)
    return 1 - (1 - spec.final_share) * fallen


def _progress(step: int, *, begin: int, last: int) -> float:
    """How much of [begin, last] is over at a step, in [0, 1]."""
    return min(max(step - begin, 0) / max(last - begin, 1), 1.0)


def set_rates(optimizers: Sequence[torch.optim.Optimizer], spec: Optimizer, step: int, steps: int) -> None:
    """Give every weight the rate of step `step`."""
    share = rate(spec, step, steps)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


@torch.no_grad()
def clip_(parameters: Iterable[Tensor], norm: float) -> Tensor:
    """Scale the gradients down to at most `norm` together, and return what their norm was; 0 does not clip.

    The norm is a [] tensor, not finite where a gradient is not; the gradients are worthless then, so the caller takes
    no step.
    """
    parameters = list(parameters)
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients)
    if norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, norm, total)
    return total


def optimizer_state(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All that the optimizers know of each weight, by `kind|weight` as in "exp_avg|model.norm.weight".

    Tensors are whole, so every rank has to ask; they are the optimizers' own where nothing is sharded. Rates are not
    in it: they follow from the step.
    """
    return {
        f"{kind}{_BETWEEN}{name}": whole(value)
        for optimizer in optimizers
        for name, weight in _named(optimizer)
        for kind, value in optimizer.state.get(weight, {}).items()
    }


def load_optimizer_state(optimizers: Sequence[torch.optim.Optimizer], state: Mapping[str, Tensor]) -> None:
    """Make the optimizers know what `optimizer_state` told, and nothing else; tensors are copied.

    Raises:
        IntegrityError: the state is of weights of other names or shapes.
    """
    by_weight: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        kind, _, name = key.partition(_BETWEEN)
        by_weight.setdefault(name, {})[kind] = value
    for optimizer in optimizers:
        optimizer.state.clear()
        for name, weight in _named(optimizer):
            if name in by_weight:
                kinds = by_weight.pop(name).items()
                optimizer.state[weight] = {kind: _placed(f"{kind}{_BETWEEN}{name}", t, weight) for kind, t in kinds}
    if by_weight:
        raise _other_model(f"it knows the weight {min(by_weight)!r}, which is not trained here")


def _placed(key: str, value: Tensor, weight: nn.Parameter) -> Tensor:
    """A copy of a whole tensor as its weight is held: this rank's shard of it, or all."""
    if value.ndim == 0:  # a count of steps
        return value.to(weight.device, copy=True)
    if value.shape != weight.shape:
        raise _other_model(f"{key!r} has the shape {list(value.shape)}, its weight {list(weight.shape)}")
    return shared_out(value.clone(), weight)


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


def _other_model(cause: str) -> IntegrityError:
    return IntegrityError(
        f"The state of the optimizer is not of this model: {cause}.", remedy="Start a new run of the recipe."
    )
