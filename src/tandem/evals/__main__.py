"""The child of an evaluation: reads a job, runs its suite with Inspect AI, and tells on stdout how it goes."""

import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from tandem.evals.runner import Job, Told
from tandem.evals.suite import CASES

Tell = Callable[[Told], None]


def main(path: str) -> int:
    """Run one job; returns the exit status."""
    # Inspect and its parts print where they like; only our own lines may reach the real stdout.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    job = msgspec.json.decode(Path(path).read_bytes(), type=Job)

    def tell(line: Told) -> None:
        out.write(msgspec.json.encode(line) + b"\n")

    try:
        from tandem.evals import tasks
    except ImportError as error:
        tell(Told(fault="missing" if error.name in {"inspect_ai", "openai"} else str(error)))
        return 1
    return _run(job, tasks, tell)


def _run(job: Job, tasks: Any, tell: Tell) -> int:
    from inspect_ai import eval as run
    from inspect_ai.log import read_eval_log

    _follow(tell)
    kind = CASES[job.kind]
    cases = [msgspec.json.decode(case, type=kind) for case in job.cases]
    asked = tasks.Asked.of(job.endpoint, job)
    release = tasks.Asked.of(job.release, job) if job.release is not None else None
    (log,) = run(
        tasks.task_of(job, cases, release),
        model=asked.model,
        display="none",
        log_dir=job.folder,
        log_format="eval",
        log_level="error",
        log_realtime=False,
        log_images=False,
        score_display=False,
        fail_on_error=False,
        max_samples=job.settings.parallel,
        ctl_server=False,
        acp_server=False,
    )
    if log.status != "success":
        tell(Told(fault=log.error.message if log.error is not None else log.status))
        return 1
    order = {case.id: place for place, case in enumerate(cases)}
    rows = [tasks.row_of(sample) for sample in read_eval_log(log.location).samples or []]
    rows.sort(key=lambda row: order[row.id])  # the bootstrap draws by place
    tell(Told(rows=tuple(rows), log=log.location, runner=f"inspect-ai {version('inspect-ai')}"))
    return 0


def _follow(tell: Tell) -> None:
    """Tell of each case that is done, whatever became of it."""
    from inspect_ai.hooks import Hooks, SampleEnd, hooks

    done = 0

    class Follower(Hooks):
        async def on_sample_end(self, data: SampleEnd) -> None:
            nonlocal done
            del data
            done += 1
            tell(Told(done=done))

    hooks(name="tandem", description="progress")(Follower)


def _exit_at_end_of_stdin() -> None:
    """Who started us holds the other end: when they are gone, nobody reads what we find."""
    while sys.stdin.buffer.read(1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
