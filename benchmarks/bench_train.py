"""Training next to what people use today: a plain PyTorch loop of nanoGPT's, and transformers' Trainer.

characters: nanoGPT's CPU configuration on a text; held-out loss, and the training time until the plain loop's own last
loss, both taking turns. speed: tokens/s of `tandem train` next to the Trainer's on the same first weights and batches,
with the losses of both, for a small model and for the starter's size, in turns.
Run: make bench-train (TEXT=path of a text; without one, the standard library's)
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from machine import save

from tandem.spec import Recipe, parse_recipe

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"
STEPS = 2000
EMULATED_STEPS = 3
TEXT_BYTES = 1_115_394  # of the text that nanoGPT's configuration is usually shown with

SIZES: dict[str, dict[str, Any]] = {
    "6M": {
        "shape": {"width": 256, "layers": 6, "heads": 4, "kv_heads": 4, "ffn": 704},
        "vocab": 4096,
        "context": 256,
        "samples": 16,
        "steps": 24,
    },
    "135M": {
        "shape": {"width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "ffn": 1536},
        "vocab": 49152,
        "context": 256,
        "samples": 2,
        "steps": 6,
    },
}


def tandem(home: Path, *words: str) -> str:
    """Run a `tandem` command in a home as a person would; returns what it printed, bare."""
    command = [str(Path(sys.executable).with_name("tandem")), *words, "--quiet"]
    environment = {**os.environ, "TANDEM_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def train(home: Path, recipe: Path, *changes: str) -> Path:
    """Train a recipe, even if it was trained before; returns the run's folder."""
    before = set((home / "runs").glob("*"))
    sets = [word for change in changes for word in ("--set", change)]
    tandem(home, "train", str(recipe), "--again", *sets)
    (folder,) = set((home / "runs").glob("*")) - before
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def characters(text: Path, rounds: int) -> dict[str, Any]:
    """Both loops on the same text, in turns."""
    plain, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for who in ("plain", "tandem") if turn % 2 else ("tandem", "plain"):
                if who == "plain":
                    plain.append(_plain(text))
                else:
                    ours.append(_characters(Path(folder), text))
                print(f"characters, round {turn + 1}: {who} {(plain if who == 'plain' else ours)[-1][-1]}", flush=True)
    goal = statistics.median(points[-1]["loss"] for points in plain)
    plain_s = statistics.median(points[-1]["seconds"] for points in plain)
    ours_s = statistics.median(_seconds_to(points, goal) for points in ours)
    return {
        "plain_loss": goal,
        "plain_seconds": plain_s,
        "plain_tokens_per_s": plain[0][-1]["tokens"] / plain_s,
        "tandem_loss": statistics.median(points[-1]["loss"] for points in ours),
        "tandem_seconds_to_plain_loss": ours_s,
        "tandem_tokens_per_s": statistics.median(p[-1]["tokens"] / p[-1]["seconds"] for p in ours),
        "plain_over_tandem_time_to_loss": plain_s / ours_s,
    }


def _plain(text: Path) -> list[dict[str, float]]:
    command = [sys.executable, str(HERE / "training" / "plain_gpt.py"), str(text), str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _characters(home: Path, text: Path) -> list[dict[str, float]]:
    """Held-out losses with the seconds of training before them, evaluations and start-up left out as in the other."""
    changes = (f"data.0.source=file:{text}", "evaluation.samples=2000")  # all windows of the held-out tenth
    folder = train(home, RECIPES / "shakespeare-char.toml", *changes)
    told = [event["fields"] for event in lines(folder / "events.jsonl") if event["kind"] == "evaluated"]
    steps = [(record["step"], record["trained_s"]) for record in lines(folder / "metrics.jsonl")]
    return [
        {
            "step": one["step"],
            "loss": one["loss"],
            "tokens": one["tokens"],
            "seconds": float(np.interp(one["step"], *zip((0, 0.0), *steps, strict=True))),
        }
        for one in told
    ]


def _seconds_to(points: list[dict[str, float]], goal: float) -> float:
    """When a falling loss, drawn as a line between its points, reached the goal."""
    for before, after in itertools.pairwise(points):
        if after["loss"] <= goal:
            share = (before["loss"] - goal) / (before["loss"] - after["loss"])
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return float("inf")


def speed(text: Path, size: str, rounds: int) -> dict[str, Any]:
    """Tandem and the Trainer on the same first weights and batches, in turns.

    The Trainer has the precision that is quicker here. Where that is not bf16, it is measured in bf16 too, once and for
    a few steps, since that is what its users are told to turn on.
    """
    ways: dict[str, list[dict[str, Any]]] = {"tandem": [], "trainer": []}
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        recipe = home / "recipe.toml"
        recipe.write_text(_recipe(SIZES[size], text))
        first = train(home, recipe, "budget.steps=1")
        spec = parse_recipe(json.loads((first / "recipe.json").read_text()), where=size)
        job = _trainer_job(spec, home, home / "job", size)
        for turn in range(rounds):
            for who in ("tandem", "trainer") if turn % 2 else ("trainer", "tandem"):
                found = _tandem_speed(home, recipe) if who == "tandem" else _trainer_speed(job)
                ways[who].append(found)
                print(f"{size}, round {turn + 1}: {who} {found['tokens_per_s']:,.0f} tokens/s", flush=True)
        emulated = None if job["bf16"] else _trainer_speed({**job, "bf16": True, "steps": EMULATED_STEPS})
    ours, theirs = (statistics.median(one["tokens_per_s"] for one in ways[who]) for who in ("tandem", "trainer"))
    losses = {who: ways[who][0]["losses"] for who in ways}
    result = {
        "tandem_tokens_per_s": ours,
        "trainer_tokens_per_s": theirs,
        "tandem_over_trainer": ours / theirs,
        "mfu": statistics.median(one["mfu"] for one in ways["tandem"]),
        "trainer_mfu": statistics.median(one["mfu"] / one["tokens_per_s"] for one in ways["tandem"]) * theirs,
        "mfu_convention_and_peak": ways["tandem"][0]["named"],
        "precision": {"tandem": ways["tandem"][0]["precision"], "trainer": "bf16" if job["bf16"] else "fp32"},
        "losses": losses,
        "largest_difference_of_losses": max(
            abs(losses["tandem"][step] - losses["trainer"][step])
            for step in losses["trainer"].keys() & losses["tandem"]
        ),
    }
    if emulated:
        result["trainer_bf16_tokens_per_s"] = emulated["tokens_per_s"]
        result["tandem_over_trainer_bf16"] = ours / emulated["tokens_per_s"]
    return result


def _recipe(size: dict[str, Any], text: Path) -> str:
    """A recipe without anything that the Trainer has no name for."""
    shape = "\n".join(f"{key} = {value}" for key, value in size["shape"].items())
    return f"""
name = "bench"
[model.shape]
{shape}
[tokenizer]
vocab = {size["vocab"]}
[[data]]
format = "text"
source = "file:{text}"
[objective]
name = "lm"
[optimizer]
lr = 3e-4
schedule = "constant"
[batch]
samples = {size["samples"]}
context = {size["context"]}
[budget]
steps = {size["steps"]}
[evaluation]
every = 1000000
samples = 1
"""


def _trainer_job(recipe: Recipe, home: Path, folder: Path, size: str) -> dict[str, Any]:
    """The Trainer's job: the first weights and the batches of the run, as files."""
    import torch

    from tandem.train.build import build_net
    from tandem.train.data import open_samples, open_text
    from tandem.train.export import save_folder
    from tandem.train.measure.probe import probe
    from tandem.train.order import Order

    folder.mkdir()
    text, samples = open_text(home, recipe), open_samples(home, recipe, "train")
    net = build_net(recipe, home=home, text=text)
    save_folder(net.state_dict(), net.config, text, folder / "model", chats=False)
    order = Order(recipe.seed, len(samples), recipe.batch.samples)
    ids = [int(one) for step in range(SIZES[size]["steps"]) for one in order.sample_ids(step)]
    rows = [np.concatenate(samples[one]["segments"]) for one in ids]
    np.save(folder / "tokens.npy", np.stack(rows))
    machine = probe(torch.device("cpu"), tokens=1024, width=net.config.width, ffn=net.config.ffn)
    return {
        "model": str(folder / "model"),
        "tokens": str(folder / "tokens.npy"),
        "steps": SIZES[size]["steps"],
        "batch": recipe.batch.samples,
        "rate": recipe.optimizer.lr,
        "bf16": machine.bf16_gain > 1.0,  # where it is slower, a user of the Trainer would leave it off
        "compile": False,
    }


def _trainer_speed(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "training" / "hf_trainer.py"), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    return {**told[-1], "losses": {one["step"]: float(one["loss"]) for one in told if "loss" in one}}


def _tandem_speed(home: Path, recipe: Path) -> dict[str, Any]:
    folder = train(home, recipe)
    (summary,) = (json.loads(path.read_text()) for path in folder.glob("attempts/*/summary.json"))
    (running,) = (event["fields"] for event in lines(folder / "events.jsonl") if event["kind"] == "running")
    records = lines(folder / "metrics.jsonl")
    tokens = summary["tokens"] / records[-1]["step"]
    return {
        "tokens_per_s": tokens / summary["step_p50_s"],
        "mfu": summary["mfu"],
        "named": f"{summary['mfu_convention']}; peak: {summary['peak_name']}, {summary['peak_flops']:.3g} FLOP/s",
        "precision": running["precision"],
        "losses": {record["step"]: record["loss"] for record in records},
    }


def standard_library() -> str:
    """As much text as the usual one has, from what is on every machine."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)[:TEXT_BYTES]


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="the text; by default the standard library's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["characters", *SIZES])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(arguments.text.read_text() if arguments.text else standard_library())
        results = {
            part: characters(text, arguments.rounds) if part == "characters" else speed(text, part, arguments.rounds)
            for part in arguments.parts
        }
    named = {"rounds": arguments.rounds, "text": arguments.text.name if arguments.text else "standard library"}
    print(json.dumps(results, indent=1))
    print(f"Kept in {save('train', {'arguments': named, 'results': results})}")


if __name__ == "__main__":
    main()
