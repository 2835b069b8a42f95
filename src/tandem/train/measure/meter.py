"""What a run measures: speed, loss, model FLOP utilisation, memory, and where the time of an attempt went."""

import contextlib
import json
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandem.kit import clock
from tandem.kit.lines import append_line, write_whole
from tandem.spec import CONVENTION, AttemptFolder, RunFolder
from tandem.train.measure.probe import Machine

CATEGORIES = ("useful", "startup", "compile", "data", "eval", "checkpoint", "lost", "restart")
"""Where time goes: all but the first is what a better run would save."""

_RECORD_EVERY_S = 1.0
_BEAT_EVERY_S = 0.5
_RECENT_STEPS = 200  # that the percentiles look back on


@dataclass(slots=True)
class Step:
    """What one optimizer step measured, over all ranks."""

    number: int
    loss: float
    grad_norm: float
    rate: float
    tokens: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class Heart:
    """The sign of life of this worker: a file, replaced at most twice a second, and at once when the phase changes."""

    def __init__(self, folder: AttemptFolder, rank: int) -> None:
        self._path = folder.heartbeat(rank)
        self._phase = ""
        self._next = 0.0

    def beat(self, phase: str, step: int, *, p95_s: float = 0.0) -> None:
        """Say what is being done; `step` is the number of steps done, `p95_s` the 95th percentile of their seconds."""
        now = time.monotonic()
        if phase == self._phase and now < self._next:
            return
        self._phase, self._next = phase, now + _BEAT_EVERY_S
        word = {"phase": phase, "step": step, "at": clock.unix_milliseconds(), "p95_s": p95_s}
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps(word))
            part.replace(self._path)
        except OSError:
            pass  # a full disk must not end a run; no sign of life for long enough will


class Meter:
    """The measurements of one attempt. Only the first worker's are written."""

    def __init__(self, run: RunFolder, attempt: int, *, machine: Machine, flops_per_token: float, world: int) -> None:
        self._run = run
        self._attempt = attempt
        self._machine = machine
        self._flops_per_token = flops_per_token
        self._peak = machine.peak_flops * (world if machine.device != "cpu" else 1)
        self._began = time.perf_counter()
        self._spent = dict.fromkeys(
            ("useful", "startup", "compile", "data", "eval", "checkpoint", "lost", "restart"), 0.0
        )
        self._inside: list[float] = []
        self._recent: list[float] = []
        self._trained_s = 0.0
        self._trained_tokens = 0
        self._next_record = 0.0
        self.tokens = 0
        """Of the whole run, up to the last step."""

    @contextlib.contextmanager
    def spend(self, category: str) -> Iterator[None]:
        """Count the seconds of the block to a category, without those that blocks inside it count for themselves."""
        began = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - began
            inner = self._inside.pop()
            self._spent[category] += took - inner
            if self._inside:
                self._inside[-1] += took

    def add(self, category: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere: lost work of an earlier attempt, the time until this one."""
        self._spent[category] += seconds

    def stepped(self, step: Step, *, last: bool, write: bool) -> None:
        """Take a step's measurements; with `write` make a record about once a second, and of the last step."""
        self.tokens += step.tokens
        self._trained_s += step.seconds
        self._trained_tokens += step.tokens
        self._recent = [*self._recent[-_RECENT_STEPS + 1 :], step.seconds]
        now = time.monotonic()
        if write and (now >= self._next_record or last):
            self._next_record = now + _RECORD_EVERY_S
            with contextlib.suppress(OSError):  # a full disk must not end a run
                append_line(self._run.metrics, self._record(step), durable=False)

    def percentile_s(self, share: float) -> float:
        """Seconds within which that share of the recent steps ended."""
        return float(np.quantile(self._recent, share)) if self._recent else 0.0

    def summary(self, planned: Mapping[str, float]) -> dict[str, Any]:
        """The whole attempt: goodput by cause in seconds, speed, utilisation with its convention and peak."""
        wall = time.perf_counter() - self._began
        speed = self._trained_tokens / self._trained_s if self._trained_s else 0.0
        return {
            "goodput": {f"{name}_s": round(seconds, 3) for name, seconds in self._spent.items()},
            "goodput_share": self._spent["useful"] / (wall + self._spent["lost"] + self._spent["restart"]),
            "tokens": self.tokens,
            "tokens_per_s": speed,
            "step_p50_s": self.percentile_s(0.5),
            "step_p95_s": self.percentile_s(0.95),
            "mfu": self._utilisation(speed),
            "mfu_convention": CONVENTION,
            "peak_flops": self._peak,
            "peak_name": self._machine.peak_name,
            "memory_peak_bytes": memory_peak_bytes(),
            "planned": dict(planned),
            "actual": {"wall_s": wall, "tokens_per_s": speed},
        }

    def write_summary(self, planned: Mapping[str, float]) -> None:
        """Leave the summary in the attempt's folder."""
        path: Path = self._run.attempt(self._attempt).path / "summary.json"
        write_whole(path, json.dumps(self.summary(planned), indent=1).encode())

    def _utilisation(self, tokens_per_s: float) -> float:
        return tokens_per_s * self._flops_per_token / self._peak

    def _record(self, step: Step) -> dict[str, Any]:
        speed = step.tokens / step.seconds if step.seconds else 0.0
        return {
            "step": step.number,
            "attempt": self._attempt,
            "at": clock.unix_milliseconds(),
            "loss": step.loss,
            "grad_norm": step.grad_norm,
            "lr": step.rate,
            "tokens": self.tokens,
            "tokens_per_s": speed,
            "step_p50_s": self.percentile_s(0.5),
            "step_p95_s": self.percentile_s(0.95),
            "data_s": self._spent["data"],
            "mfu": self._utilisation(speed),
            "memory_bytes": memory_peak_bytes(),
            "trained_s": self._trained_s,
            "elapsed_s": time.perf_counter() - self._began,
            **step.metrics,
        }


def memory_peak_bytes() -> int:
    """The most memory that this process has used: of the GPU where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
