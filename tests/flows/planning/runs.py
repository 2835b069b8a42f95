"""Runs that measured themselves, written by hand: what each stage took is known to the second."""

from pathlib import Path
from typing import Any

from tandem.spec import Happened, RunFolder
from tests.run_folders import begin_run, say, write

ENVIRONMENT = {
    "device": "cpu",
    "peak_flops": 4e11,
    "peak_name": "measured bf16 GEMM, 2 threads",
    "bf16_gain": 2.0,
    "world": 1,
}


def summary(train_s: float = 12.0) -> dict[str, Any]:
    """What an attempt of 20 steps leaves."""
    goodput = {"useful_s": train_s - 0.5, "data_s": 0.5, "startup_s": 1.0, "eval_s": 3.0, "checkpoint_s": 0.25}
    return {"goodput": goodput, "tokens": 5120, "tokens_per_s": 5120 / train_s, "step_p50_s": train_s / 20}


def write_measured(
    home: Path,
    run_id: str,
    *,
    train_s: float = 12.0,
    system: str = "local",
    half: bool = True,
    environment: dict[str, Any] | None = None,
    **changes: Any,
) -> RunFolder:
    """A run at one go: 4 s until it trains, then 12 s and 3.25 s beside, 0.75 s of export and 1 s until its end."""
    folder = begin_run(home, run_id, **changes)
    write(folder.placement, {"system": system})
    told = {"environment": environment or ENVIRONMENT, "choices": {"half": half}, "step": 0, "steps": 20}
    saved = 4 + train_s + 3.25
    say(folder, Happened.ATTEMPT_STARTED, attempt=1, workers=1, micro_samples=0)
    say(folder, Happened.RUNNING, at=4, attempt=1, **told)
    say(folder, Happened.EVALUATED, at=saved, attempt=1, step=20, loss=1.0, held_out_samples=5)
    say(folder, Happened.CHECKPOINT, at=saved, attempt=1, step=20, bytes=1000, seconds=0.25, every_s=30.0)
    say(folder, Happened.EXPORTED, at=saved + 0.75, attempt=1, files={"model.gguf": {"bytes": 1000}})
    write(folder.attempt(1).path / "summary.json", summary(train_s))
    write(folder.attempt(1).job, {"usd_per_hour": 3.6})
    say(folder, Happened.ATTEMPT_ENDED, at=saved + 1.75, attempt=1, ending="finished", step=20)
    say(folder, Happened.SUCCEEDED, at=saved + 1.75, attempt=1)
    return folder
