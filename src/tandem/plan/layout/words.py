"""What is said of layouts in words: the memory that they need, and why one is slower than another."""

from tandem.plan.layout.job import Layout
from tandem.plan.layout.memory import Memory
from tandem.plan.layout.step_time import StepTime
from tandem.plan.units import GIB_BYTES

_SMALL_SHARE = 0.2  # of the difference; parts below it are not worth a word


def memory_words(memory: Memory) -> str:
    """`71.2 of 80.0 GiB: weights 10.1, gradients 2.0, ...`."""
    parts = {
        "weights": memory.weights_bytes,
        "gradients": memory.gradients_bytes,
        "optimizer": memory.optimizer_bytes,
        "activations": memory.activations_bytes,
        "logits": memory.logits_bytes,
        "reserve": memory.reserve_bytes,
    }
    told = ", ".join(f"{name} {_gib(amount)}" for name, amount in parts.items() if amount)
    return f"{_gib(memory.total_bytes)} of {_gib(memory.device_bytes)} GiB: {told}"


def slower_words(layout: Layout, step: StepTime, *, best_layout: Layout, best: StepTime) -> str:
    """Why a layout loses against the best: `12 % slower: the bubble takes 9 % of the step, 8 stages share 16 ...`."""
    more = step.total_s / best.total_s - 1
    group = layout.data * layout.context
    parts = {
        _again(layout, best_layout): step.compute_s - best.compute_s,
        f"tensor parallelism over {layout.tensor} devices takes {_of(step.tensor_s, step)}": step.tensor_s
        - best.tensor_s,
        f"the bubble of {layout.pipeline} stages takes {_of(step.pipeline_s, step)}": step.pipeline_s - best.pipeline_s,
        f"sending keys and values takes {_of(step.context_s, step)}": step.context_s - best.context_s,
        f"gathering and reducing over {group} devices takes {_of(step.data_s, step)}": step.data_s - best.data_s,
        f"the optimizer takes {_of(step.optimizer_s, step)}": step.optimizer_s - best.optimizer_s,
    }
    worst = sorted(parts.items(), key=lambda pair: -pair[1])
    most = worst[0][1]
    told = [words for words, by_s in worst if by_s > 0 and by_s >= _SMALL_SHARE * most]
    return f"{100 * more:.1f} % slower: {'; '.join(told) or 'as fast, with more memory'}."


def _again(layout: Layout, best: Layout) -> str:
    """Why computing itself takes longer."""
    if layout.recompute not in {best.recompute, "none"}:
        return f"memory asks for {layout.recompute} recomputation"
    if layout.context > best.context:
        return f"attention goes round a ring of {layout.context} devices"
    if layout.pipeline > best.pipeline:
        return f"layers do not share evenly over {layout.pipeline} stages"
    return "its devices compute smaller pieces"


def _of(part_s: float, step: StepTime) -> str:
    return f"{100 * part_s / step.total_s:.1f} % of the step"


def _gib(amount_bytes: float) -> str:
    return f"{amount_bytes / GIB_BYTES:.1f}"
