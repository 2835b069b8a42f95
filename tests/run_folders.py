"""A run's folder written by hand: a run that was killed once, went on, and finished."""

import json
from pathlib import Path
from typing import Any

import msgspec

from tandem.kit.lines import append_line
from tandem.spec import Event, Happened, Placement, Recipe, RunFolder, parse_recipe, recipe_id

BEGAN = 1_700_000_000_000  # Unix milliseconds
DATA = f"sha256:{'d' * 64}"

RECIPE = {
    "name": "coder",
    "about": "Completes <code> & more.",
    "model": {"shape": {"width": 64, "layers": 2, "heads": 1, "kv_heads": 1, "ffn": 128}},
    "tokenizer": {"vocab": 300, "sha256": f"sha256:{'e' * 64}"},
    "data": [{"format": "code", "source": "stdlib:", "license": "PSF-2.0", "sha256": DATA}],
    "objective": {"name": "fim", "params": {"rate": 0.5}},
    "optimizer": {"lr": 1e-3},
    "batch": {"samples": 4, "context": 64},
    "budget": {"steps": 20},
}

INFILL = {
    "baseline": "interpolated 6-gram of tokens",
    "baseline_tokens": 1000,
    "single_line": {
        "samples": 50,
        "exact_match": 0.4,
        "baseline_exact_match": 0.1,
        "exact_match_gain": [0.3, 0.2, 0.4],
        "parsable": 40,
        "parses": 0.9,
        "baseline_parses": 0.5,
    },
}


def recipe(**changes: Any) -> Recipe:
    """The pinned recipe of the run."""
    return parse_recipe({**RECIPE, **changes}, where="here")


def write_run(home: Path, run_id: str = "run_0001", **changes: Any) -> RunFolder:
    """Write the whole run; `changes` are made to its recipe."""
    folder = begin_run(home, run_id, **changes)
    say(folder, Happened.ATTEMPT_STARTED, at=1, attempt=1, workers=1, micro_samples=0)
    say(folder, Happened.RUNNING, at=2, attempt=1, step=0, steps=20, **running())
    for step in range(1, 13):
        measure(folder, step, attempt=1)
    say(folder, Happened.CHECKPOINT, at=8, attempt=1, step=8, bytes=2_000_000, seconds=0.5, every_s=30.0)
    say(folder, Happened.ATTEMPT_ENDED, at=14, attempt=1, ending="killed", step=12, signal="SIGKILL", detail="")
    say(folder, Happened.RECOVERING, at=14, attempt=1, reason="killed by SIGKILL")
    say(folder, Happened.ATTEMPT_STARTED, at=15, attempt=2, workers=1, micro_samples=0)
    say(folder, Happened.RUNNING, at=16, attempt=2, step=8, steps=20, **running())
    for step in range(9, 21):
        measure(folder, step, attempt=2)
    say(
        folder,
        Happened.EVALUATED,
        at=37,
        attempt=2,
        step=20,
        tokens=20 * 256,
        loss=1.25,
        bits_per_byte=0.9,
        infill=INFILL,
    )
    files = {"model.gguf": {"sha256": "f" * 64, "bytes": 1_500_000}}
    say(folder, Happened.EXPORTED, at=38, attempt=2, files=files)
    write(folder.attempt(2).path / "summary.json", SUMMARY)
    for number in (1, 2):
        write(folder.attempt(number).job, {"usd_per_hour": 3.6})
    counts = {"records": 100, "train": 90, "held_out": 5, "duplicates": 3, "near_duplicates": 1, "quarantined": 1}
    write(home / "datasets" / DATA.removeprefix("sha256:") / "manifest.json", {"counts": counts, "licenses": ["PSF"]})
    say(folder, Happened.ATTEMPT_ENDED, at=39, attempt=2, ending="finished", step=20)
    say(folder, Happened.REGISTERED, at=40, attempt=2, version="coder@1")
    say(folder, Happened.SUCCEEDED, at=40, attempt=2)
    return folder


def begin_run(home: Path, run_id: str = "run_0001", **changes: Any) -> RunFolder:
    """Write the folder of a run of which nothing has happened yet."""
    folder = RunFolder.of(home, run_id)
    told = recipe(**changes)
    write(folder.recipe, msgspec.to_builtins(told))
    write(folder.placement, msgspec.to_builtins(Placement(system="fake")))
    say(folder, Happened.CREATED, run_id=run_id, recipe_id=recipe_id(told), name=told.name, steps=20)
    return folder


SUMMARY = {
    "goodput": {"useful_s": 12.0, "startup_s": 1.0, "eval_s": 3.0, "lost_s": 4.0, "restart_s": 1.0, "rest_s": 0.5},
    "tokens": 5120,
    "tokens_per_s": 256.0,
    "step_p50_s": 1.0,
    "step_p95_s": 1.5,
    "mfu": 0.25,
    "mfu_convention": "A: 6 N",
    "peak_flops": 1e11,
    "peak_name": "measured fp32 GEMM",
    "memory_peak_bytes": 2e8,
    "planned": {"wall_s": 20.0, "tokens_per_s": 300.0},
    "actual": {"wall_s": 24.0, "tokens_per_s": 256.0},
}


def running() -> dict[str, Any]:
    """What the worker says at its start."""
    environment = {"torch": "2.13.0", "peak_name": "measured fp32 GEMM"}
    return {"environment": environment, "precision": "fp32", "planned": {"tokens_per_s": 300.0}, "parameters": 123456}


def say(folder: RunFolder, kind: Happened, *, at: float = 0.0, attempt: int = 0, **fields: Any) -> None:
    """Write an event, `at` so many seconds after the run was made."""
    folder.path.mkdir(parents=True, exist_ok=True)
    event = Event(kind=kind, at=BEGAN + int(1000 * at), attempt=attempt, fields=fields)
    append_line(folder.events, event, durable=False)


def measure(folder: RunFolder, step: int, *, attempt: int, **changes: Any) -> None:
    """Write the measurement of a step, one second after that of the step before."""
    record = {
        "step": step,
        "attempt": attempt,
        "at": BEGAN + 1000 * (step + (2 if attempt == 1 else 16 - 8)),
        "loss": 5.0 / step + attempt,
        "grad_norm": 1.0,
        "lr": 1e-3,
        "tokens": 256 * step,
        "tokens_per_s": 256.0,
        "step_p50_s": 1.0,
        "step_p95_s": 1.5,
        "mfu": 0.25,
        "memory_bytes": 200_000_000,
        **changes,
    }
    append_line(folder.metrics, record, durable=False)


def write(path: Path, value: Any) -> None:
    """Write JSON, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
