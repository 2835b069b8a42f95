"""The folder of a run: which file of it is where; supervisor and workers meet here."""

from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True)
class AttemptFolder:
    """The files of one attempt."""

    path: Path

    @property
    def job(self) -> Path:
        """What the worker is told: a `Job` as JSON."""
        return self.path / "job.json"

    @property
    def process(self) -> Path:
        """Which process the system started: pid and start time, as JSON."""
        return self.path / "process.json"

    @property
    def log(self) -> Path:
        """What the workers printed."""
        return self.path / "worker.log"

    @property
    def outcome(self) -> Path:
        """How the first worker says it ended: {ending, step, detail, exception}, written last."""
        return self.path / "outcome.json"

    def heartbeat(self, rank: int) -> Path:
        """The sign of life of a worker: {phase, step, at, p95_s}, replaced at most once a second."""
        return self.path / f"heartbeat-{rank}.json"

    def stacks(self, rank: int) -> Path:
        """Where a worker's threads stood when it was asked with SIGUSR2."""
        return self.path / f"stacks-{rank}.txt"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, `<home>/runs/<run id>`."""

    path: Path

    @classmethod
    def of(cls, home: Path, run_id: str) -> "RunFolder":
        """The folder of a run in the home folder."""
        return cls(home / "runs" / run_id)

    @property
    def recipe(self) -> Path:
        """The pinned recipe as JSON."""
        return self.path / "recipe.json"

    @property
    def placement(self) -> Path:
        """The placement as JSON."""
        return self.path / "placement.json"

    @property
    def events(self) -> Path:
        """The log of events, one JSON object a line, each fsynced; the truth about the run."""
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """What the first worker measured, one JSON object a line; not fsynced."""
        return self.path / "metrics.jsonl"

    @property
    def lease(self) -> Path:
        """Who supervises the run: {holder, attempt, expires_at}. Its `attempt` is the newest fencing number."""
        return self.path / "lease.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """The folder of exported files: `hf/`, `model.gguf`, and for adapters `adapter/` and `adapter.gguf`."""
        return self.path / "export"

    @property
    def report(self) -> Path:
        """The report, one HTML file without anything beside it."""
        return self.path / "report.html"

    def current_attempt(self) -> int:
        """The newest fencing number; 0 before the first attempt. Who has a smaller one must not write any more."""
        try:
            word: dict[str, int] = msgspec.json.decode(self.lease.read_bytes())
        except FileNotFoundError:
            return 0
        return word["attempt"]

    def attempt(self, number: int) -> AttemptFolder:
        """The folder of an attempt."""
        return AttemptFolder(self.path / "attempts" / f"{number:04}")
