"""llama.cpp as an engine: xllamacpp's server in a supervised child process on loopback."""

import asyncio
import itertools
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tandem.formats import check_adapter, read_header
from tandem.kit import ids
from tandem.kit.errors import EngineFailed, IntegrityError, MissingPrerequisite, TandemError, Unavailable
from tandem.serve.engines.features import llamacpp_capabilities, usable_context
from tandem.serve.engines.loopback import ask_health, read_metrics
from tandem.serve.engines.port import Address, Capabilities, Health, Launch
from tandem.spec import Task

_CHILD = Path(__file__).with_name("llamacpp_child.py")
# 4 MiB hold months of errors; one older file is kept beside it.
_LOG_BYTES = 4 * 1024 * 1024
_QUOTED_LINES = 5
# The child leaves at once on SIGTERM; only one that hangs in the kernel takes longer.
_PATIENCE_S = 5.0
# A model of a million weights makes 5,600 tokens/s on one thread and 3,100 on two, which wait for each other after each
# of its tiny layers; at 18 MB they are even.
_ONE_THREAD_BYTES = 8 * 1024 * 1024


class LlamaCpp:
    """One child process. Its standard input is its lifeline: when this process is gone, so is the child."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._capabilities = llamacpp_capabilities(launch)
        self._process: asyncio.subprocess.Process | None = None
        self._address: Address | None = None
        self._watch: asyncio.Task[None] | None = None
        self._log_start = 0

    async def start(self) -> asyncio.Future[str]:
        """Start the child and wait until its model is loaded."""
        launch = self._launch
        self._log_start = await asyncio.to_thread(_prepare_files, launch)
        key = ids.new_secret("engine")
        with launch.log_path.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                # No folder of the caller's choosing on the module path.
                "-P",
                str(_CHILD),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # Ctrl-C reaches a whole process group; engines end after the gateway has drained, not with it.
                start_new_session=True,
            )
        try:
            report = await self._greet(process, key)
            if "address" not in report:
                raise await self._explained(report)
        except BaseException:
            # Cancelled or failed, no half-started process may stay behind.
            await self.stop()
            raise
        self._address = Address(url=report["address"], api_key=key, pid=process.pid)
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watch = asyncio.create_task(self._report_end(process, ended), name=f"watch {launch.alias}")
        return ended

    async def stop(self) -> None:
        """End the child: SIGTERM, and after 5 s SIGKILL."""
        process, self._address = self._process, None
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE_S)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()
        if self._watch is not None:
            await self._watch

    async def health(self) -> Health:
        """Ask the server's `/health`."""
        return Health.FAILING if self._address is None else await ask_health(self._address)

    @property
    def capabilities(self) -> Capabilities:
        """What llama.cpp can do with this model."""
        return self._capabilities

    @property
    def address(self) -> Address:
        """Where the server listens."""
        if self._address is None:
            raise Unavailable(f"The engine of {self._launch.alias!r} is not running.")
        return self._address

    async def metrics(self) -> Mapping[str, float]:
        """The samples of the server's `/metrics`."""
        return await read_metrics(self.address)

    async def _greet(self, process: asyncio.subprocess.Process, key: str) -> dict[str, str]:
        """Send the orders and read the one line of the answer; an empty answer where the child died instead."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(self._orders(key)).encode() + b"\n")
        except RuntimeError:
            return {}  # uvloop's word for a pipe that is closed: the child died before it was greeted
        try:
            async with asyncio.timeout(self._launch.start_timeout_s):
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise EngineFailed(
                f"The engine of {self._launch.alias!r} did not load its model within "
                f"{self._launch.start_timeout_s:g} s.",
                remedy="Raise engine_start_timeout_s, or deploy a smaller model.",
            ) from error
        report: dict[str, str] = json.loads(line) if line.endswith(b"\n") else {}
        return report

    def _orders(self, key: str) -> dict[str, object]:
        launch = self._launch
        return {
            "model_path": str(launch.model_path),
            "alias": launch.alias,
            "api_key": key,
            "context_tokens": usable_context(launch),
            "parallel": launch.parallel,
            "threads": launch.threads or _threads(launch.model_path),
            "embedding": launch.task is Task.EMBED,
            "pooling": launch.facts.get("pooling"),
            "adapters": [str(path) for path in launch.adapters],
        }

    async def _report_end(self, process: asyncio.subprocess.Process, ended: asyncio.Future[str]) -> None:
        status = await process.wait()
        self._address = None
        if not ended.done():
            lines = await asyncio.to_thread(self._log_tail)
            ended.set_result(f"The engine {_cause_of_death(status)}.{_quoted(lines)}")

    async def _explained(self, report: dict[str, str]) -> TandemError:
        launch = self._launch
        if report.get("kind") == "missing":
            return MissingPrerequisite(
                f"llama.cpp's Python package cannot be imported: {report['error']}.",
                remedy="pip install 'tandem-platform[llamacpp]'",
            )
        process = self._process
        assert process is not None
        status = await process.wait()
        lines = await asyncio.to_thread(self._log_tail)
        if (cause := _file_fault(lines)) is not None:
            return IntegrityError(
                f"The model file {launch.model_path} cannot be read as a model: {cause}.",
                remedy="Pull the model again, or deploy another file.",
            )
        cause = report.get("error") or _cause_of_death(status)
        return EngineFailed(
            f"The engine of {launch.alias!r} did not start: {cause}.{_quoted(lines)}",
            remedy="Fewer context tokens or parallel requests need less memory.",
        )

    def _log_tail(self) -> list[str]:
        with self._launch.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read()[-16_384:].decode(errors="replace").splitlines()


def _prepare_files(launch: Launch) -> int:
    """Check the files as far as their headers go and make room for the log; returns where the log goes on."""
    model = read_header(launch.model_path)
    for path in launch.adapters:
        check_adapter(read_header(path), model)
    return rotated(launch.log_path)


def _threads(model: Path) -> int:
    """How many threads suit a model; 0 is all cores."""
    return 1 if model.stat().st_size < _ONE_THREAD_BYTES else 0


def rotated(path: Path) -> int:
    """Move a log of more than 4 MiB aside, replacing the one moved before; returns the size of what stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = path.stat().st_size if path.exists() else 0
    if size <= _LOG_BYTES:
        return size
    path.replace(path.with_name(f"{path.name}.1"))
    return 0


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass  # it was faster


def _cause_of_death(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"


def _quoted(lines: list[str]) -> str:
    return f" The end of its log: {' | '.join(lines[-_QUOTED_LINES:])}" if lines else ""


def _file_fault(lines: list[str]) -> str | None:
    """What llama.cpp found wrong with the file, or None where that is not why it failed."""
    for before, line in itertools.pairwise(["", *lines]):
        _, found, fault = line.partition("error loading model: ")
        if found:
            # "failed to load" says nothing; then the complaint stands one line above.
            return before.rpartition(" E ")[2] if "failed to load" in fault else fault
    return None
