"""One replica kept alive: start, wait for health, watch, and start again with a growing pause."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from tandem.kit import clock
from tandem.kit.errors import (
    ConfigError,
    EngineFailed,
    IntegrityError,
    MissingPrerequisite,
    NotFound,
    TandemError,
)
from tandem.serve.engines.port import Capabilities, Engine, Health
from tandem.serve.routes import Upstream
from tandem.serve.state import State

_log = logging.getLogger(__name__)
_random = random.SystemRandom()

SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# Longer than any start of ours takes to fail: who lived this long did not die of starting.
_HEALTHY_AFTER_S = 60.0
_FAILED_AFTER = 5  # starts in a row, about 8 s of trying
_POLL_STARTING_S = 0.05
_POLL_READY_S = 1.0
_MISSES = 3


def pause_s(failures: int, jitter: float) -> float:
    """Seconds to wait after so many failures in a row: doubling from 0.5 to 30.

    `jitter` from 0 to 1 spreads replicas that died together over half to one and a half times that.
    """
    doubled = SHORTEST_PAUSE_S * 2.0 ** min(max(failures, 1) - 1, 10)
    return min(max(doubled * (0.5 + jitter), SHORTEST_PAUSE_S), LONGEST_PAUSE_S)


class Replica:
    """One wanted engine. While it is ready, `upstream` is where requests go; otherwise it is None.

    `make` builds a fresh engine and may take its time; `changed` is called on the event loop whenever `state`,
    `upstream` or `last_error` are new. `start_timeout_s` bounds how long an engine may listen without being ready.
    """

    def __init__(
        self,
        replica_id: str,
        *,
        make: Callable[[], Awaitable[Engine]],
        changed: Callable[[], None],
        start_timeout_s: float,
        version: str = "",
    ) -> None:
        self.id = replica_id
        self.version = version
        self.state = State.STARTING
        self.upstream: Upstream | None = None
        self.capabilities: Capabilities | None = None
        self.pid: int | None = None
        self.restarts = 0
        self.last_error = ""
        self._make = make
        self._changed = changed
        self._start_timeout_s = start_timeout_s
        self._failures = 0
        self._left: list[Upstream] = []  # where it answered before it moved; some requests may still be there
        self._engine: Engine | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep it alive."""
        self._task = asyncio.create_task(self._run(), name=f"replica {self.id}")

    async def stop(self) -> None:
        """End its engine, whatever it is doing; returns when nothing of it runs."""
        for upstream in self._upstreams:
            upstream.cut()  # of an engine that others share nothing else would
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._engine is not None:
            await self._engine.stop()  # once more: the first stop may have been cut short
        self._become(State.STOPPED)

    async def drain(self, *, timeout_s: float) -> None:
        """Wait until it answers no request any more, or until the time is up; new ones must not come by then."""
        deadline = clock.monotonic_seconds() + timeout_s
        while any(upstream.inflight for upstream in self._upstreams):
            if clock.monotonic_seconds() > deadline:
                return
            await asyncio.sleep(_POLL_STARTING_S)

    def move(self) -> Upstream | None:
        """Send requests where its engine answers now; returns where they went before, if they did."""
        before, engine = self.upstream, self._engine
        if before is None or engine is None:
            return None
        self._left = [*(one for one in self._left if one.inflight), before]
        self._answer_from(engine)
        self._changed()
        return before

    @property
    def _upstreams(self) -> list[Upstream]:
        return self._left if self.upstream is None else [*self._left, self.upstream]

    async def _run(self) -> None:
        while True:
            # The edge of a job: whatever goes wrong ends a life, never the supervision.
            (outcome,) = await asyncio.gather(self._live(), return_exceptions=True)
            if isinstance(outcome, BaseException) and not isinstance(outcome, TandemError | OSError):
                _log.error("a replica met a fault of ours", extra={"replica": self.id}, exc_info=outcome)
            hopeless = isinstance(outcome, IntegrityError | MissingPrerequisite | NotFound | ConfigError)
            await self._bury(str(outcome) or type(outcome).__name__, hopeless=hopeless)

    async def _live(self) -> str:
        """One life of an engine, from making it to its end; returns what it died of."""
        engine = self._engine = await self._make()
        ended = await engine.start()
        await until_ready(engine, ended, timeout_s=self._start_timeout_s)
        self._answer_from(engine)
        self.last_error = ""
        self._become(State.READY)
        born_s = clock.monotonic_seconds()
        cause = await _watch(engine, ended)
        if clock.monotonic_seconds() - born_s >= _HEALTHY_AFTER_S:
            self._failures = 0
        return cause

    def _answer_from(self, engine: Engine) -> None:
        address = engine.address
        self.pid = address.pid
        self.capabilities = engine.capabilities
        self.upstream = Upstream(
            self.id,
            address.url,
            address.api_key,
            engine.capabilities,
            version=self.version,
            choice=address.choice,
        )

    async def _bury(self, cause: str, *, hopeless: bool) -> None:
        """Take it out of service at once, clear away what is left of it, and pause."""
        self._failures = max(self._failures + 1, _FAILED_AFTER if hopeless else 0)
        self.upstream = None
        self.pid = None
        self.last_error = cause
        self._become(State.FAILED if self._failures >= _FAILED_AFTER else State.RESTARTING)
        if self._engine is not None:
            await self._engine.stop()
        self._engine = None
        # Nothing mends a broken file in half a second.
        pause = LONGEST_PAUSE_S if hopeless else pause_s(self._failures, _random.random())
        _log.warning(
            "a replica is not serving", extra={"replica": self.id, "cause": cause, "next_start_s": round(pause, 1)}
        )
        await asyncio.sleep(pause)
        self.restarts += 1

    def _become(self, state: State) -> None:
        if state is State.STOPPED:
            self.upstream = None
        self.state = state
        self._changed()


async def until_ready(engine: Engine, ended: asyncio.Future[str], *, timeout_s: float) -> None:
    """Wait until an engine that listens is ready to answer.

    Raises:
        EngineFailed: it ended before, or took longer than that.
    """
    deadline = clock.monotonic_seconds() + timeout_s
    while await engine.health() is not Health.READY:
        if ended.done():
            raise EngineFailed(ended.result())
        if clock.monotonic_seconds() > deadline:
            raise EngineFailed(f"The engine was not ready within {timeout_s:g} s of listening.")
        await asyncio.sleep(_POLL_STARTING_S)


async def _watch(engine: Engine, ended: asyncio.Future[str]) -> str:
    """Wait until it is gone, or has missed three health checks in a row; returns the cause."""
    misses = 0
    while misses < _MISSES:
        done, _ = await asyncio.wait({ended}, timeout=_POLL_READY_S)
        if done:
            return ended.result()
        misses = 0 if await engine.health() is Health.READY else misses + 1
    return f"The engine missed {_MISSES} health checks."
