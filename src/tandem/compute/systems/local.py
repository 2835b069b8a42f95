"""The local system: this machine; one worker is a child process, several are started by torchrun."""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tandem.compute.systems import processes
from tandem.compute.systems.port import Capacity, Status
from tandem.kit.config import child_environment
from tandem.spec import AttemptFolder, Job

TRAIN = ("-m", "tandem.train", "run")
"""The worker's program, as Python takes it; the path of the job follows."""

_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--max-restarts", "0", "--nproc-per-node")
_ASK_GPUS = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_ASK_TIMEOUT_S = 10.0


class Local:
    """This machine. Restarts are Tandem's: the failure of one worker ends the attempt."""

    def __init__(self, *, usd_per_hour: float = 0.0, program: Sequence[str] = TRAIN) -> None:
        self._usd_per_hour = usd_per_hour
        self._program = tuple(program)

    async def describe(self) -> Capacity:
        """The GPUs that the driver shows, or the cores that this process may use."""
        gpus = await _gpus()
        if gpus:
            kind, memory_bytes = gpus[0]
            return Capacity(devices=len(gpus), kind=kind, memory_bytes=memory_bytes, usd_per_hour=self._usd_per_hour)
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Capacity(devices=cores(), kind="cpu", memory_bytes=memory_bytes, usd_per_hour=self._usd_per_hour)

    async def submit(self, attempt: AttemptFolder, *, workers: int) -> None:
        """Start the worker, or torchrun with so many of them."""
        several = (*_TORCHRUN, str(workers)) if workers > 1 else ()
        command = [sys.executable, *several, *self._program, str(attempt.job)]
        await processes.start(attempt, command, worker_environment(attempt, workers))

    async def poll(self, attempt: AttemptFolder) -> Status:
        """Look for the keeper, and for its note."""
        return await asyncio.to_thread(processes.status, attempt)

    async def stop(self, attempt: AttemptFolder, *, grace_s: float) -> None:
        """SIGTERM to the workers; SIGKILL to all that belongs to the attempt after the grace."""
        await processes.end(attempt, grace_s=grace_s)

    async def dump(self, attempt: AttemptFolder) -> None:
        """SIGUSR2 to each worker that listens for it."""
        await asyncio.to_thread(processes.ask_for_stacks, attempt)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def worker_environment(attempt: AttemptFolder, workers: int) -> dict[str, str]:
    """The variables of each of the workers: no secrets, and the placement's threads or a share of the cores."""
    threads = msgspec.json.decode(attempt.job.read_bytes(), type=Job).placement.threads
    return child_environment() | {
        "OMP_NUM_THREADS": str(threads or max(cores() // workers, 1)),
        "PYTHONSAFEPATH": "1",  # no folder of somebody's choosing on the module path
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash below Python leaves its stack in the log
    }


async def _gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of each GPU; none where there is no driver or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = await asyncio.create_subprocess_exec(
        str(Path(program)), *_ASK_GPUS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        answer, _ = await asyncio.wait_for(asked.communicate(), _ASK_TIMEOUT_S)
    except TimeoutError:
        asked.kill()
        await asked.wait()
        return []
    return gpus_in(answer.decode(errors="replace")) if asked.returncode == 0 else []


def gpus_in(answer: str) -> list[tuple[str, int]]:
    """The GPUs in nvidia-smi's table: `name, MiB` in each line; what is not such a line is passed over."""
    rows = (line.rpartition(",") for line in answer.splitlines())
    return [(name.strip(), int(mib) * 2**20) for name, _, mib in rows if name and mib.strip().isdecimal()]
