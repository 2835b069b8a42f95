"""The executor in a process of its own beside a server: begun with the first flow, and ended with the server."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

from tandem.flows.durable.database import has_flows
from tandem.kit.config import Settings, settings_environment
from tandem.kit.errors import Unavailable

_log = logging.getLogger(__name__)

# A process of its own, so that evaluations and a broken database of flows take nothing from the gateway's event loop.
# `-P`: no folder of somebody's choosing on the module path. It ends when its standard input does: with us.
_PROGRAM = (sys.executable, "-P", "-m", "tandem.cli", "flows", "work", "--until-eof")
_LOOK_S = 1.0
_PAUSES_S = (1.0, 60.0)  # before it is begun again: at first, and at most
_STOPPING_S = 5.0  # then it is killed, which it survives like any other end


@contextlib.asynccontextmanager
async def executor_beside(settings: Settings) -> AsyncIterator[None]:
    """Have flows executed while the block runs, if there are any; whatever happens to that, the block goes on."""
    keeping = asyncio.create_task(_kept(settings), name="executor of flows")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _kept(settings: Settings) -> None:
    pause_s = _PAUSES_S[0]
    while True:
        if await _are_there(settings):
            status = await _run_to_its_end(settings)
            _log.warning("the executor of flows ended with status %s; it is begun again in %g s", status, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSES_S[1])
        await asyncio.sleep(_LOOK_S)


async def _are_there(settings: Settings) -> bool:
    try:
        return await asyncio.to_thread(has_flows, settings)
    except Unavailable:
        return False


async def _run_to_its_end(settings: Settings) -> int | None:
    """The exit status of the executor, or None where it could not be begun."""
    try:
        process = await asyncio.create_subprocess_exec(
            *_PROGRAM,
            stdin=asyncio.subprocess.PIPE,
            env=settings_environment(settings),
            start_new_session=True,  # Ctrl-C is the server's, which ends it in its turn
        )
    except OSError as error:
        _log.warning("the executor of flows cannot be begun: %s", error)
        return None
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOPPING_S)
    except TimeoutError:
        process.kill()
        await process.wait()
