"""The runner: a suite put to an endpoint in a child process, with progress, and with the transcripts that it leaves."""

import asyncio
import contextlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from tandem.evals.earlier import BASELINE
from tandem.evals.report import Row, count_outcomes, metrics_of
from tandem.evals.suite import Kind, Suite, SuiteSettings
from tandem.kit.config import child_environment
from tandem.kit.errors import EngineFailed, MissingPrerequisite, TandemError
from tandem.spec import Metric

Progress = Callable[[str, int, int | None], None]
"""Called with a suite's name, how many of its cases are done, and of how many."""

PROGRAM = ("-m", "tandem.evals")
"""The program of the child, as Python takes it; the path of the job follows."""

_LINE_BYTES = 64 * 2**20  # the last line holds a row for each case
_COMPLAINT_BYTES = 64 * 1024
_MISSING = "missing"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model answers in OpenAI's way. `url` is without `/v1`."""

    url: str
    key: str
    model: str
    context_tokens: int = 0
    """Tokens of one request; 0 where that is not known."""
    version: str = ""
    """Which version it is, for the log."""

    def __repr__(self) -> str:
        """Without the key."""
        return f"Endpoint({self.url}, {self.model}, {self.version})"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is told. The cases stay JSON until it knows of which kind they are."""

    suite: str
    kind: Kind
    digest: str
    settings: SuiteSettings
    cases: list[msgspec.Raw]
    endpoint: Endpoint
    release: Endpoint | None
    folder: str


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the child's: progress, the end of all with the log's path, or why there is none."""

    done: int = 0
    rows: tuple[Row, ...] = ()
    log: str = ""
    runner: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a suite found out. `transcripts` is Inspect's log, which `inspect view` opens."""

    metrics: tuple[Metric, ...]
    answered: int
    filtered: int
    failed: int
    transcripts: Path
    runner: str
    baseline: str = ""
    """What `..._gain` compares with."""
    rows: tuple[Row, ...] = field(default=(), repr=False)


async def measure(
    suite: Suite,
    endpoint: Endpoint,
    *,
    folder: Path,
    tell: Progress,
    baseline: Endpoint | None = None,
    program: Sequence[str] = PROGRAM,
) -> Measured:
    """Put each case to the endpoint, and gaps to the `baseline` too, which is the current release's.

    The log is left in `folder`. Being cancelled ends the child.

    Raises:
        MissingPrerequisite: Inspect AI is not installed.
        EngineFailed: there are cases, and not one was answered or filtered; or the runner itself failed.
    """
    if not suite.cases:
        return _nothing(suite, folder)
    job = Job(
        suite=suite.name,
        kind=suite.kind,
        digest=suite.digest,
        settings=suite.settings,
        cases=[msgspec.Raw(msgspec.json.encode(case)) for case in suite.cases],
        endpoint=endpoint,
        release=baseline if suite.kind == "code" else None,
        folder=str(folder),
    )
    asks = len(suite.cases) * suite.settings.epochs
    tell(suite.name, 0, asks)
    last = await _run(program, job, folder, lambda done: tell(suite.name, done, asks))
    counts = count_outcomes(last.rows)
    if counts["failed"] == len(suite.cases):
        raise EngineFailed(
            f"Not one case of {suite.name} was answered: {_shortened(last.rows[0].why)}",
            remedy="See whether this suite fits the model: `tandem evals show` says what it asks.",
        )
    return Measured(
        metrics=metrics_of(suite.kind, last.rows, seed=suite.settings.seed),
        answered=counts["answered"],
        filtered=counts["filtered"],
        failed=counts["failed"],
        transcripts=Path(last.log),
        runner=last.runner,
        baseline=BASELINE if suite.kind == "code" else "",
        rows=last.rows,
    )


def _nothing(suite: Suite, folder: Path) -> Measured:
    """An empty suite: it needs no runner, and its transcript says that nothing was asked."""
    path = folder / f"{suite.name}.json"
    path.write_text(f'{{"suite":"{suite.name}","suite_digest":"{suite.digest}","cases":0}}\n', encoding="utf-8")
    metrics = metrics_of(suite.kind, (), seed=suite.settings.seed)
    return Measured(metrics=metrics, answered=0, filtered=0, failed=0, transcripts=path, runner="none: no cases")


async def _run(program: Sequence[str], job: Job, folder: Path, done: Callable[[int], None]) -> Told:
    """The last thing that the child says."""
    order = folder / "job.json"
    order.touch(mode=0o600)
    order.write_bytes(msgspec.json.encode(job))
    (folder / ".env").touch()  # Inspect reads the nearest one above; this one says nothing
    places = {f"XDG_{kind}_HOME": str(folder / "inspect") for kind in ("DATA", "CACHE", "CONFIG", "STATE")}
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            *program,
            str(order),
            env={**child_environment(), **places},
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,  # never written to: at its end the child knows that nobody waits any more
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
        return await _followed(child, job, done)
    finally:
        order.unlink()


async def _followed(child: asyncio.subprocess.Process, job: Job, done: Callable[[int], None]) -> Told:
    assert child.stdout is not None
    assert child.stderr is not None
    complaining = asyncio.create_task(_tail(child.stderr))
    last = Told()
    try:
        async for line in child.stdout:
            last = msgspec.json.decode(line, type=Told)
            if last.done:
                done(last.done)
        await child.wait()
        complaint = await complaining
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        await asyncio.gather(complaining, return_exceptions=True)
    if not last.log:
        raise _fault(job.suite, last, complaint, child.returncode)
    return last


def _fault(suite: str, last: Told, complaint: bytes, status: int | None) -> TandemError:
    if last.fault == _MISSING:
        return MissingPrerequisite(
            "Inspect AI, which runs suites, is not installed.", remedy="pip install 'tandem-platform[evals]'"
        )
    lines = complaint.decode(errors="replace").strip().splitlines() or [f"exit status {status}"]
    return EngineFailed(f"The suite {suite} could not be run: {last.fault or lines[-1]}", remedy="Try again.")


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The end of what a child complains of, all of which is read so that it never waits for us."""
    kept = b""
    while chunk := await stream.read(_COMPLAINT_BYTES):
        kept = (kept + chunk)[-_COMPLAINT_BYTES:]
    return kept


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]} ..."


def hardware() -> dict[str, Any]:
    """The machine that an engine here runs on, for whoever compares speeds."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def with_version(engine: str, package: str) -> str:
    """`llamacpp (xllamacpp 2026.10.1)`: an engine with the version of its package, if that is installed."""
    try:
        return f"{engine} ({package} {metadata.version(package)})"
    except metadata.PackageNotFoundError:
        return engine
