"""The checkpoints of an attempt: where it resumes, when one is due, what is in it, and what a full disk means."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch

from tandem.kit.errors import StorageFull
from tandem.spec import Happened, Job, RunFolder, recipe_id
from tandem.train import checkpoint
from tandem.train.build import Choices
from tandem.train.optim import load_optimizer_state, optimizer_state
from tandem.train.parallel import Ranks, greatest, shared_out, whole

_FAILURES_UNTIL_PAUSE = 3


class Tell(Protocol):
    """Writes an event."""

    def __call__(self, kind: Happened, **fields: Any) -> None:
        """Take an event of this kind with these fields."""
        ...


class Keeper:
    """Saves and restores what is trained. All ranks ask together; the first one reads and writes the files."""

    def __init__(self, job: Job, ranks: Ranks, *, tell: Tell) -> None:
        self._job = job
        self._ranks = ranks
        self._tell = tell
        self._run = RunFolder(Path(job.folder))
        self._recipe_id = recipe_id(job.recipe)
        self._placed = job.placement.checkpoints
        self._every_s = self._placed.every_s or checkpoint.INTERVAL_S[0]
        self._last_at = time.monotonic()
        self._last_step = 0
        self._failures = 0

    def newest(self) -> checkpoint.Loaded | None:
        """The newest checkpoint that holds, or None before the first one.

        Raises:
            IntegrityError: there are checkpoints, and none holds.
        """
        folder = self._run.checkpoints
        found: checkpoint.Loaded | None = None
        if self._ranks.first:
            found = checkpoint.latest(
                folder,
                recipe_id=self._recipe_id,
                attempt=self._job.attempt,
                on_rejected=lambda step, why: self._tell(Happened.CHECKPOINT_REJECTED, step=step, reason=why),
                drop_newest=self._job.drop_newest_checkpoint,
            )
        mine = found.manifest.step if found is not None else -1
        (step,) = greatest([mine], self._ranks)
        if step >= 0 and not self._ranks.first:
            found = checkpoint.load(folder, step, recipe_id=self._recipe_id)
        return found

    def hold(
        self,
        named: Sequence[tuple[str, torch.nn.Parameter]],
        optimizers: Sequence[torch.optim.Optimizer],
        choices: Choices,
        resumed: checkpoint.Loaded | None,
    ) -> None:
        """Take charge of these weights and optimizers, and give them the resumed state."""
        self._named, self._optimizers, self._choices = named, optimizers, choices
        if resumed is not None:
            self._last_step = resumed.manifest.step
            with torch.no_grad():
                for name, weights in named:
                    weights.copy_(shared_out(resumed.state.model[name], weights))
            load_optimizer_state(optimizers, resumed.state.optimizer)
        self._saver = checkpoint.Saver(
            self._run.checkpoints,
            is_current=lambda: self._run.current_attempt() <= self._job.attempt,
            keep=self._placed.keep,
            parent=resumed.manifest.step if resumed is not None else None,
        )

    @property
    def hopeless(self) -> bool:
        """Whether so many saves in a row found no space that training on makes no sense."""
        return self._failures >= _FAILURES_UNTIL_PAUSE

    def due(self, step: int) -> bool:
        """Whether it is time to save; also hears what became of the last one.

        Raises:
            Stale: a newer attempt has the run.
        """
        if not self._ranks.first or self._saver.busy:
            return False
        self._heard(self._saver.poll)
        if self._placed.every_steps:
            return step % self._placed.every_steps == 0
        return time.monotonic() - self._last_at >= self._every_s

    def save(self, step: int, *, tokens: int, evaluation: Mapping[str, Any], wait: bool) -> None:
        """Save the state after `step` steps behind training; with `wait` it is on the disk when this returns.

        Raises:
            Stale: a newer attempt has the run.
            StorageFull: with `wait`, and the disk takes no more.
        """
        state = checkpoint.State(model=self.whole_weights(), optimizer=optimizer_state(self._optimizers))
        if self._ranks.first:
            self._write(state, step, tokens=tokens, evaluation=evaluation, wait=wait)
        if wait:
            greatest([0], self._ranks)  # nobody leaves before it is written: torchrun would cut the writer short

    def _write(
        self, state: checkpoint.State, step: int, *, tokens: int, evaluation: Mapping[str, Any], wait: bool
    ) -> None:
        self._last_at, self._last_step = time.monotonic(), step
        facts = checkpoint.Facts(
            recipe_id=self._recipe_id,
            step=step,
            tokens=tokens,
            attempt=self._job.attempt,
            environment={"choices": msgspec.to_builtins(self._choices)},
            evaluation=dict(evaluation),
        )
        self._heard(self._saver.wait)  # the failure of one save must not keep the next one from beginning
        self._heard(lambda: self._saver.save(state, facts))
        if wait:
            self._heard(self._saver.wait, must=True)

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """The trained weights, whole, by name; all ranks have to ask."""
        return {name: whole(weights.detach()) for name, weights in self._named}

    def _heard(self, ask: Callable[[], checkpoint.Saved | None], *, must: bool = False) -> None:
        """Tell what became of a save, and learn from its cost how often to save."""
        try:
            saved = ask()
        except StorageFull as error:
            self._failures += 1
            self._tell(Happened.CHECKPOINT_FAILED, step=self._last_step, reason=error.message)
            if must:
                raise
            return
        if saved is None:
            return
        self._failures = 0
        if not self._placed.every_s:
            self._every_s = checkpoint.interval_s(saved.seconds, self._placed.mtbf_s)
        self._tell(
            Happened.CHECKPOINT,
            step=saved.step,
            bytes=saved.bytes,
            seconds=round(saved.seconds, 4),
            stood_still_s=round(saved.copy_s, 4),
            every_s=round(self._every_s, 1),
        )
