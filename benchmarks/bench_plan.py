"""The planner next to what it foretells: real runs of the workshop, of which some were never in the fit.

runs: models of 0.1 to 21 million weights train for some dozens of steps, in turns; the rates of a step are fitted on
one part and the others are predicted from those, at the peak that the first part's probes measured. Of the rounds the
quickest counts, as of the trials of a probe: whoever shares the machine only adds time. How far rounds differ is kept.
large: the seconds that plans for 100,000 accelerators take, the quickest of a few times.
Run: make bench-plan
"""

import argparse
import asyncio
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from bench_train import standard_library
from machine import save

from tandem.flows import resume, train
from tandem.flows.planning import Outcome, catalogue_of, outcomes
from tandem.kit.config import load_settings
from tandem.plan import size_of
from tandem.plan.layout import Job, rank_layouts
from tandem.plan.quote import Ask, quote
from tandem.plan.simulation import DESIGNS, Fleet, simulate
from tandem.plan.units import DAY_S
from tandem.plan.workshop import CPU, STEP_RATES, Comparison, Rates, Stages, factor, fitted, forecast
from tandem.server import House
from tandem.spec import Placement, Recipe, Run, parse_recipe

CODE_FILES = 60
DEVICES = 100_000
LONGER = 4  # times the steps below: some seconds of training, so that a moment's noise does not count


class Trial(NamedTuple):
    """A run: the shape, what a step is, and the words of its recipe that are not the usual ones."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int
    samples: int
    steps: int
    optimizer: str = "adamw"
    objective: str = "lm"
    precision: str = "bf16"
    evaluated: int = 8
    tasks: tuple[str, ...] = ()


FIT = {
    "a": Trial(64, 2, 1, 1, 176, 512, 128, 8, 200),
    "b": Trial(128, 4, 2, 2, 352, 2048, 256, 8, 30, evaluated=32),
    "c": Trial(256, 6, 4, 4, 704, 4096, 256, 8, 8),
    "d": Trial(384, 6, 6, 2, 1024, 4096, 128, 4, 14),
    "e": Trial(512, 6, 8, 8, 1408, 4096, 128, 8, 6),
    "f": Trial(128, 2, 2, 2, 352, 4096, 64, 32, 30, evaluated=32),
    "g": Trial(192, 8, 3, 3, 512, 1024, 512, 4, 9),
    "h": Trial(128, 4, 2, 2, 352, 2048, 256, 8, 24, optimizer="muon", objective="fim"),
    "m": Trial(256, 4, 4, 2, 704, 1024, 256, 4, 14, optimizer="muon"),
    "n": Trial(128, 2, 2, 1, 352, 1024, 256, 16, 16, objective="fim", tasks=("infill",)),
    "o": Trial(256, 3, 4, 4, 704, 1024, 128, 8, 20, precision="fp32"),
}
HELD_OUT = {
    "i": Trial(192, 4, 3, 3, 512, 2048, 256, 8, 16),
    "j": Trial(320, 5, 5, 5, 896, 4096, 128, 8, 6, optimizer="muon"),
    "k": Trial(448, 4, 7, 7, 1216, 1024, 256, 4, 10, objective="fim"),
    "l": Trial(64, 4, 1, 1, 256, 2048, 64, 64, 26, objective="fim"),
    "p": Trial(128, 6, 2, 2, 352, 2048, 128, 8, 30, precision="fp32"),
}


def recipe_of(name: str, trial: Trial, *, text: Path, code: Path) -> Recipe:
    """The recipe of a trial."""
    documents = {"format": "code", "source": f"folder:{code}"} if trial.tasks else {"format": "text"}
    return parse_recipe(
        {
            "name": f"bench-{name}",
            "model": {"shape": {key: getattr(trial, key) for key in ("width", "layers", "heads", "kv_heads", "ffn")}},
            "tokenizer": {"vocab": trial.vocab},
            "data": [{"source": f"file:{text}", **documents}],
            "objective": {"name": trial.objective},
            "optimizer": {"lr": 1e-3, "name": trial.optimizer},
            "batch": {"samples": trial.samples, "context": trial.context},
            "budget": {"steps": LONGER * trial.steps},
            "precision": trial.precision,
            "evaluation": {
                "every": 10**6,
                "samples": trial.evaluated,
                "tasks": list(trial.tasks),
                "task_samples": 10,
            },
        },
        where=name,
    )


def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every trial once in each round, in turns; the outcomes by trial, with the load of the machine before each."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in FIT | HELD_OUT}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        text, code = home / "text.txt", home / "code"
        text.write_text(standard_library())
        code.mkdir()
        for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:CODE_FILES]:
            (code / file.name).write_bytes(file.read_bytes())
        house = House.open(load_settings({}, home=home / "home"))
        for turn in range(rounds):
            for name, trial in (FIT | HELD_OUT).items():
                load = os.getloadavg()[0]
                run = asyncio.run(_trained(house, recipe_of(name, trial, text=text, code=code), found[name]))
                outcome = next(one for one in outcomes(house.settings.home) if one.run == run.run_id)
                found[name].append({"load": load, **msgspec.to_builtins(outcome)})
                took = outcome.measured
                step_s, wall_s = took.train_s / outcome.work.steps, took.wall_s
                print(f"round {turn + 1}: {name} {step_s:.4f} s a step, {wall_s:.1f} s in all, load {load:.1f}")
        house.db.close()
    return found


async def _trained(house: House, recipe: Recipe, before: Sequence[dict[str, Any]]) -> Run:
    """A run of the recipe; from the second round on its data is ready, and the pinned recipe is that of the first."""
    if not before:
        return await train(recipe, Placement(), house=house, again=True)
    pinned = house.runs.recipe(before[0]["run"])
    return await resume(house.runs.create(pinned, Placement()).run_id, house=house)


def quickest(rounds: Sequence[dict[str, Any]]) -> Outcome:
    """The outcome of a trial over its rounds: each stage's quickest, and the highest peak."""
    every = [msgspec.convert(one, Outcome) for one in rounds]
    names = asdict(every[0].measured)
    stages = {name: min(getattr(one.measured, name) for one in every) for name in names}
    device = replace(every[0].device, peak_flops=max(one.device.peak_flops for one in every))
    return msgspec.structs.replace(every[0], device=device, measured=Stages(**stages))


def judged(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Rates from the one part, and ratios predicted / measured of all, with those of the rates that the house has."""
    trials = {name: quickest(rounds) for name, rounds in found.items()}
    fit = [trials[name] for name in FIT]
    rates = fitted([(one.work, one.device, one.measured.train_s / one.work.steps) for one in fit])
    peaks = {
        half: statistics.median(one.device.peak_flops for one in fit if one.device.half == half)
        for half in {one.device.half for one in trials.values()}
    }
    learnt = factor("local", [_compared(one, CPU) for one in fit])
    rows = []
    for name, one in trials.items():
        # What is held out is predicted at the peak that the others' probes found.
        device = one.device if name in FIT else replace(one.device, peak_flops=peaks[one.device.half])
        fresh = forecast(one.work, device, rates=rates).stages
        known = forecast(one.work, device, calibrated=learnt).stages
        measured = asdict(one.measured) | {"wall_s": one.measured.wall_s}
        rows.append(
            {
                "trial": name,
                "held_out": name in HELD_OUT,
                "weights": one.work.model.parameters,
                "train_ratio": fresh.train_s / one.measured.train_s,
                "wall_ratio": fresh.wall_s / one.measured.wall_s,
                "house_train_ratio": known.train_s / one.measured.train_s,
                "house_wall_ratio": known.wall_s / one.measured.wall_s,
                "by_stage": {stage: getattr(known, stage) / took for stage, took in measured.items() if took > 0.001},
            }
        )
    spreads = {name: _spread(rounds) for name, rounds in found.items()}
    return {
        "fitted_rates": {name: getattr(rates, name) for name in STEP_RATES},
        "house_factor": asdict(learnt.ratio),
        "peaks": {"bf16" if half else "fp32": peak for half, peak in peaks.items()},
        "noise": {
            "train_s_spread_by_trial": spreads,
            "largest_spread": max(spreads.values()),
            "largest_load_before_a_run": max(one["load"] for rounds in found.values() for one in rounds),
        },
        "rows": rows,
    }


def _compared(one: Outcome, rates: Rates) -> Comparison:
    said = forecast(one.work, one.device, rates=rates).stages.train_s
    return Comparison(run=one.run, system="local", predicted_s=said, measured_s=one.measured.train_s)


def _spread(rounds: Sequence[dict[str, Any]]) -> float:
    """The slowest by the quickest round's training, less 1."""
    times = [one["measured"]["train_s"] for one in rounds]
    return float(max(times) / min(times) - 1)


def large() -> dict[str, Any]:
    """Seconds of each kind of plan for 100,000 devices, with how much was reckoned for it."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = catalogue_of(Path(folder)).cluster("8xh100", hosts=DEVICES // 8)
    job = Job(model=size_of(1e12, context=8192), samples=DEVICES // 2)
    fleet = Fleet.of(cluster, parameters=10**12)
    plans: dict[str, Callable[[], Any]] = {
        "layouts": lambda: rank_layouts(job, cluster),
        "quote_for_devices": lambda: quote(Ask(devices=DEVICES, span_s=30 * DAY_S), cluster),
        "quote_for_money": lambda: quote(Ask(budget_usd=5e9), cluster),
        "four_weeks_simulated": lambda: simulate(fleet, DESIGNS["plain"], runs=1),
    }
    return {name: min(_timed(plan) for _ in range(3)) for name, plan in plans.items()} | {"devices": cluster.devices}


def _timed(plan: Callable[[], Any]) -> float:
    began = time.perf_counter()
    plan()
    return time.perf_counter() - began


def main() -> None:
    """Measure, print the ratios, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = measure(arguments.rounds)
    results = judged(found)
    for row in results["rows"]:
        part = "held out" if row["held_out"] else "fit"
        print(
            f"{row['trial']} {part:8} {row['weights']:>11,} weights: training predicted/measured "
            f"{row['train_ratio']:.3f}, all {row['wall_ratio']:.3f}; by the house's rates "
            f"{row['house_train_ratio']:.3f}, {row['house_wall_ratio']:.3f}"
        )
    results["large_s"] = large()
    print(f"plans for {DEVICES:,} devices, seconds: {results['large_s']}")
    noise = results["noise"]
    print(f"noise: rounds differ by up to {noise['largest_spread']:.0%}; load {noise['largest_load_before_a_run']:.1f}")
    took_s = time.perf_counter() - began
    told = {"rounds": arguments.rounds, "took_s": took_s}
    print(f"Kept in {save('plan', {'arguments': told, 'results': results, 'runs': found})}")


if __name__ == "__main__":
    main()
