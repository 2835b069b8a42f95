"""Following a run from its files, whoever trains it: each look reads what was added since the last one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tandem.compute import Beat, heartbeats
from tandem.kit import clock
from tandem.kit.pages import is_number
from tandem.spec import Event, Happened, RunFolder, RunState, Story, read_story, without_repeats

_SILENT_S = 30.0  # without a sign of life: a worker gives one each second while it takes steps


class Look(NamedTuple):
    """A run as it stands now."""

    story: Story
    beat: Beat | None
    """The first worker's last sign of life in the newest attempt."""
    at: int
    """Unix milliseconds."""

    @property
    def last(self) -> dict[str, Any]:
        """The last measurement."""
        return dict(self.story.metrics[-1]) if self.story.metrics else {}

    @property
    def step(self) -> int:
        """Steps done, as the newest of what is known says."""
        known = [self.last.get("step", 0)] if is_number(self.last.get("step")) else []
        return int(max([*known, self.story.run.step]))

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself; a run that waits for room on the disk goes on by itself."""
        run = self.story.run
        return run.state.over or (run.state is RunState.PAUSED and run.reason != "disk")

    @property
    def phase(self) -> str:
        """What is being done."""
        run = self.story.run
        if run.state in {RunState.STARTING, RunState.RUNNING} and self.beat is not None:
            return self.beat.phase
        return f"{run.state.value}: {run.reason}" if run.reason else run.state.value

    @property
    def silent_s(self) -> float:
        """Seconds without a sign of life, where that is too long; else 0."""
        if self.beat is None or self.story.run.state is not RunState.RUNNING:
            return 0.0
        still = (self.at - self.beat.at) / 1000
        return still if still > max(_SILENT_S, 10 * self.beat.p95_s) else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that the steps which are left take at the pace of the recent ones."""
        pace, steps = self.last.get("step_p50_s"), self.story.run.steps
        return max(0, steps - self.step) * pace if is_number(pace) and steps else None


class Follower:
    """Reads a run's files as they grow."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._events = _Tail(folder.events, Event)
        self._metrics = _Tail(folder.metrics, dict[str, Any])
        self._told: list[Event] = []
        self._records: list[Any] = []

    def look(self) -> Look:
        """The run as its files tell it now."""
        self._told += self._events.grown()
        if fresh := list(self._metrics.grown()):
            self._records = without_repeats([*self._records, *fresh])
        story = read_story(self._folder, events=self._told, metrics=self._records)
        beats = heartbeats(self._folder.attempt(story.run.attempt), 1) if story.run.attempt else []
        return Look(story, beats[0] if beats else None, clock.unix_milliseconds())


class _Tail:
    """The records of a file of JSON lines, each given once."""

    def __init__(self, path: Path, kind: type[Any]) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder(kind).decode
        self._read = 0

    def grown(self) -> Iterator[Any]:
        """What was added; a last line that is not whole yet comes with the next look, and a torn one never."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                added = file.read()
        except FileNotFoundError:
            return
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                yield self._decode(line)
            except msgspec.DecodeError:
                continue


def tell(event: Event) -> str:
    """An event in a line of text; empty for those that only matter to programs."""
    told = event.fields
    step = f" at step {told['step']}" if is_number(told.get("step")) else ""
    match event.kind:
        case Happened.ATTEMPT_STARTED:
            return f"attempt {event.attempt} started"
        case Happened.RUNNING:
            return f"running from step {told.get('step', 0)} of {told.get('steps', '?')}"
        case Happened.CHECKPOINT:
            return f"checkpoint{step} ({_megabytes(told.get('bytes'))} in {told.get('seconds', 0):.2g} s)"
        case Happened.EVALUATED:
            loss = [f"held-out loss {told['loss']:.4f}"] if is_number(told.get("loss")) else []
            tasks = [task for task, result in told.items() if isinstance(result, dict)]
            return f"evaluated{step}: {', '.join([*loss, *tasks])}".removesuffix(": ")
        case Happened.EXPORTED:
            return f"exported {len(told.get('files', ()))} files"
        case Happened.ATTEMPT_ENDED:
            why = " ".join(str(told[key]) for key in ("signal", "exception", "detail") if told.get(key))
            return f"attempt {event.attempt} {told.get('ending', 'ended')}{step}" + (f": {why}" if why else "")
        case Happened.REGISTERED:
            return f"registered as {told.get('version', '?')}"
        case _:
            reason = told.get("reason", "")
            return event.kind.value.replace("_", " ") + step + (f": {reason}" if reason else "")


def _megabytes(size: object) -> str:
    return f"{size / 1e6:,.1f} MB" if is_number(size) else "?"
