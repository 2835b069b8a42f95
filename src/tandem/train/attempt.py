"""An attempt from its first look at the data to its last file: open, build, resume, train, evaluate, export."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

import tandem
from tandem.kit import clock
from tandem.kit.lines import append_line, read_lines
from tandem.spec import Ending, Event, Happened, Job, RunFolder
from tandem.train.build import PLANNED_SHARE, Choices, build_net, choose, step_count, token_flops
from tandem.train.data import Samples, open_samples, open_text
from tandem.train.evaluate import held_out_report, task_report
from tandem.train.export import export_run
from tandem.train.keep import Keeper
from tandem.train.loop import Training, Watcher, micro, run_steps
from tandem.train.measure.meter import Heart, Meter, Step
from tandem.train.measure.probe import Machine, probe
from tandem.train.nets import Llama
from tandem.train.objectives import Referenced, find_objective
from tandem.train.optim import make_optimizers
from tandem.train.parallel import Ranks, check_layout, wrapped

_AT_ONCE = 8  # samples that the reference is computed for
_EVALUATIONS = 10  # in a run whose recipe does not say how often


class Attempt:
    """One execution of a job on this rank. `step` is the number of steps that are done."""

    def __init__(self, job: Job, ranks: Ranks, asked_to_stop: Callable[[], bool]) -> None:
        self.step = 0
        self._job = job
        self._recipe = job.recipe
        self._ranks = ranks
        self._asked_to_stop = asked_to_stop
        self._folder = RunFolder(Path(job.folder))
        self._heart = Heart(self._folder.attempt(job.attempt), ranks.rank)
        self._began = time.perf_counter()
        self._last_evaluation: dict[str, Any] = {}

    def run(self) -> Ending:
        """Do what is left of the run.

        Raises:
            TandemError: data, parent, checkpoints or layout cannot be used; the message says which and why.
            Stale: a newer attempt has taken the run.
            FloatingPointError: it diverged. MemoryError, RuntimeError: as they say.
        """
        self._heart.beat("starting", 0)
        check_layout(self._recipe, self._job.placement, self._ranks.world)
        self._open()
        if self._asked_to_stop():
            return Ending.PAUSED
        if self.step < self._training.steps and not self._train():
            self._meter.write_summary(self._planned)
            return Ending.PAUSED
        self._finish()
        return Ending.FINISHED

    def _open(self) -> None:
        """Open the data, build the net, resume from the newest good checkpoint, and say what this attempt runs on."""
        recipe, ranks = self._recipe, self._ranks
        home = Path(self._job.home)
        _set_threads(self._job, ranks)
        self._text = open_text(home, recipe)
        samples = open_samples(home, recipe, "train")
        self._held_out = open_samples(home, recipe, "held_out")
        self._objective = find_objective(recipe.objective, context=recipe.batch.context)
        self._net = build_net(recipe, home=home, text=self._text).to(ranks.device)
        machine = self._probe()
        flops = token_flops(recipe, self._net)
        self._meter = Meter(self._folder, self._job.attempt, machine=machine, flops_per_token=flops, world=ranks.world)
        self._keeper = Keeper(self._job, ranks, tell=self._tell)
        resumed = self._keeper.newest()
        choices = choose(
            recipe,
            self._job.placement,
            net=self._net,
            machine=machine,
            ranks=ranks,
            kept=resumed.manifest.environment.get("choices") if resumed else None,
        )
        steps = step_count(recipe, samples=len(samples), flops=flops)
        reference = self._reference("train", samples)
        self._held_out_reference = self._reference("held_out", self._held_out)
        model = self._ready(choices)
        named = [(name, weights) for name, weights in self._net.named_parameters() if weights.requires_grad]
        self._training = Training(
            recipe=recipe,
            objective=self._objective,
            text=self._text,
            samples=samples,
            model=model,
            optimizers=make_optimizers(named, recipe.optimizer),
            ranks=ranks,
            steps=steps,
            micro_samples=choices.micro_samples,
            half=choices.half,
            compiled=choices.compiled,
            reference=reference,
        )
        self._keeper.hold(named, self._training.optimizers, choices, resumed)
        if resumed is not None:
            self.step, self._meter.tokens = resumed.manifest.step, resumed.manifest.tokens
            self._last_evaluation = resumed.manifest.evaluation
        self._planned = self._plan(machine, flops)
        self._account(resumed is not None)
        self._announce(machine, choices)

    def _ready(self, choices: Choices) -> torch.nn.Module:
        """The net as all ranks train it, compiled where that was chosen."""
        layers = self._net.model.layers
        if choices.compiled:
            for layer in layers:
                layer.compile()
        return wrapped(self._net, iter(layers), self._job.placement, self._ranks)

    def _probe(self) -> Machine:
        config = self._net.config
        return probe(self._ranks.device, tokens=4 * self._recipe.batch.context, width=config.width, ffn=config.ffn)

    def _plan(self, machine: Machine, flops: float) -> dict[str, float]:
        """What the whole run is expected to take: as the planner said, or by a rule of thumb where it could not."""
        batch = self._recipe.batch
        speed = PLANNED_SHARE * machine.peak_flops * (self._ranks.world if machine.device != "cpu" else 1) / flops
        tokens = self._training.steps * batch.samples * batch.context
        if self._job.planned:
            return {"tokens": tokens, **self._job.planned}
        return {"tokens": tokens, "tokens_per_s": speed, "wall_s": tokens / speed, "share_of_peak": PLANNED_SHARE}

    def _account(self, resumed: bool) -> None:
        """Count the start-up of this attempt, and what the one before lost."""
        self._meter.add("startup", time.perf_counter() - self._began)
        before = list(read_lines(self._folder.metrics, dict))[-1:]
        if not before:
            return
        (last,) = before
        lost = max(0, int(last["step"]) - self.step) * float(last["step_p50_s"])
        gap = clock.unix_milliseconds() / 1000 - float(last["at"]) / 1000 - (time.perf_counter() - self._began)
        self._meter.add("lost", lost)
        if resumed:
            self._meter.add("restart", max(0.0, gap))

    def _announce(self, machine: Machine, choices: Choices) -> None:
        self._tell(
            Happened.RUNNING,
            step=self.step,
            steps=self._training.steps,
            choices=msgspec.to_builtins(choices),
            micro_samples=choices.micro_samples,
            precision="bf16 products, fp32 weights and sums" if choices.half else "fp32",
            planned=self._planned,
            environment=_environment(machine, self._ranks),
            samples=len(self._training.samples),
            parameters=sum(weights.numel() for weights in self._net.parameters()),
            trained=sum(weights.numel() for weights in self._net.parameters() if weights.requires_grad),
        )

    def _reference(self, side: str, samples: Samples) -> NDArray[np.float32] | None:
        """What the net at step 0 says of each sample, if the objective wants it: [samples, K]. It is kept beside the
        run, and made again where that file is missing: it follows from the recipe.
        """
        if not isinstance(self._objective, Referenced) or not len(samples):
            return None
        path = self._folder.path / f"reference-{side}.npy"
        if path.exists():
            known: NDArray[np.float32] = np.load(path, allow_pickle=False)
            if len(known) == len(samples):
                return known
        places = range(0, len(samples), _AT_ONCE)
        rows = [self._said_at_first(self._objective, samples, place) for place in places]
        reference = np.concatenate(rows).astype(np.float32)
        if self._ranks.first:
            part = path.with_suffix(".part.npy")
            np.save(part, reference, allow_pickle=False)
            part.replace(path)
        return reference

    def _said_at_first(self, objective: Referenced, samples: Samples, first: int) -> NDArray[np.float32]:
        """The reference of some samples from `first` on."""
        self._heart.beat("reference", first)
        places = range(first, min(first + _AT_ONCE, len(samples)))
        made = [objective.prepare(samples[place], self._text, np.random.default_rng(0)) for place in places]
        said = objective.reference(self._net, micro(made, self._ranks.device).batch)
        return np.asarray(said.float().cpu())

    def _train(self) -> bool:
        """All steps that are left; returns whether they were done, or somebody asked to stop."""
        steps = self._training.steps
        every = self._recipe.evaluation.every or max(1, steps // _EVALUATIONS)
        watcher = Watcher(
            wishes=lambda _step: [
                int(self._asked_to_stop() or self._keeper.hopeless),
                int(self._keeper.due(self.step)),
            ],
            stepped=self._stepped,
            skipped=self._skipped,
            save=lambda _step: self._save(),
            evaluate=self._evaluate,
            evaluate_every=every,
        )
        if self.step == 0:
            with self._meter.spend("eval"):
                self._evaluate(0)
        done = run_steps(self._training, self.step, self._meter, watcher)
        if done:
            with self._meter.spend("eval"):
                self._evaluate(self.step)
        with self._meter.spend("checkpoint"):
            self._save(wait=True)
        return done

    def _stepped(self, step: Step, last: bool) -> None:
        self.step = step.number
        self._heart.beat("train", step.number, p95_s=self._meter.percentile_s(0.95))
        self._meter.stepped(step, last=last, write=self._ranks.first)

    def _skipped(self, step: Step) -> None:
        reason = f"the loss was {step.loss}, the norm of the gradient {step.grad_norm}"
        self._tell(Happened.STEP_SKIPPED, step=step.number, reason=reason)

    def _save(self, *, wait: bool = False) -> None:
        self._heart.beat("checkpoint" if wait else "train", self.step)
        self._keeper.save(self.step, tokens=self._meter.tokens, evaluation=self._last_evaluation, wait=wait)

    def _evaluate(self, step: int) -> None:
        """Measure the held-out loss on all ranks' shares, and tell it."""
        if not len(self._held_out):
            return
        self._heart.beat("evaluate", step)
        found = held_out_report(
            self._training,
            self._held_out,
            limit=self._recipe.evaluation.samples,
            beat=lambda: self._heart.beat("evaluate", step),
            reference=self._held_out_reference,
        )
        self._last_evaluation = {"step": step, **found}
        self._tell(Happened.EVALUATED, **self._last_evaluation, tokens=self._meter.tokens)

    def _finish(self) -> None:
        """The first worker alone evaluates the tasks on the whole weights, and exports them."""
        state = self._keeper.whole_weights()
        if not self._ranks.first:
            self._heart.beat("done", self.step)
            return
        home = Path(self._job.home)
        net = build_net(self._recipe, home=home, text=self._text)
        with torch.no_grad():
            for name, weights in net.named_parameters():
                if name in state:
                    weights.copy_(state[name])
        net.eval()
        if self._recipe.evaluation.tasks:
            with self._meter.spend("eval"):
                self._evaluate_tasks(net)
        self._heart.beat("export", self.step)
        files = export_run(self._recipe, net, self._text, self._folder)
        self._tell(Happened.EXPORTED, files=files)
        self._meter.write_summary(self._planned)
        self._heart.beat("done", self.step)

    def _evaluate_tasks(self, net: Llama) -> None:
        found = task_report(
            self._recipe,
            net,
            text=self._text,
            train=self._training.samples,
            held_out=self._held_out,
            beat=lambda: self._heart.beat("evaluate", self.step),
            reference=self._held_out_reference,
        )
        self._last_evaluation = {**self._last_evaluation, **found}
        self._tell(Happened.EVALUATED, **self._last_evaluation, tokens=self._meter.tokens)

    def _tell(self, kind: Happened, **fields: Any) -> None:
        """Write an event to the run's log; only the first worker speaks."""
        if not self._ranks.first:
            return
        event = Event(kind=kind, at=clock.unix_milliseconds(), attempt=self._job.attempt, fields=fields)
        append_line(self._folder.events, event)


def _set_threads(job: Job, ranks: Ranks) -> None:
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(job.placement.threads or max(1, cores // ranks.world))


def _environment(machine: Machine, ranks: Ranks) -> Mapping[str, Any]:
    """What the result of an attempt may depend on in its last bits."""
    return {
        "tandem": tandem.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "host": platform.node(),
        "device": machine.device,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "world": ranks.world,
        "bf16_gain": round(machine.bf16_gain, 3),
        "peak_flops": machine.peak_flops,
        "peak_name": machine.peak_name,
    }
