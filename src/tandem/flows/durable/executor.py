"""The executor: runs flows on DBOS in threads of its own, and records each step that is done."""

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tandem.flows.durable.book import ALIVE_MS, OWN_QUEUE, QUEUE, WORKFLOW, Flows
from tandem.flows.durable.database import answering, configuration, has_flows
from tandem.flows.durable.flow import Order
from tandem.flows.durable.role import executor_role
from tandem.flows.durable.stories import STORIES, Step
from tandem.flows.durable.work import REAL, Hands, Rooms, Said, Work
from tandem.kit import clock
from tandem.kit.errors import Conflict, NotFound, TandemError, Unavailable

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_PAUSE_S = 15.0  # after a fault of the database


@contextlib.contextmanager
def executing(house: Rooms, flows: Flows, *, hands: Hands = REAL, only: str = "") -> Iterator[None]:
    """Go on with all flows, or with `only` one, until the block ends. The caller has the executor's role, and this
    thread no event loop.

    What is not done then stays recorded, and the next executor goes on with it.

    Raises:
        Unavailable, StorageFull, IntegrityError: the database of flows cannot be used.
    """
    from dbos import DBOS

    flows.take_over(only)
    leaving = threading.Event()
    DBOS(config=configuration(house.settings))
    try:
        executor = _Executor(house, flows, hands, leaving)
        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(executor.flow)
        DBOS.listen_queues([OWN_QUEUE if only else QUEUE])
        with answering():
            DBOS.launch()
        yield
    finally:
        leaving.set()
        DBOS.destroy(destroy_registry=True)


def go_on_with_flows(house: Rooms, flows: Flows, *, stopping: threading.Event, hands: Hands = REAL) -> None:
    """Be the executor whenever there are flows and nobody else is, until it is time to stop."""
    settings = house.settings
    while not stopping.wait(_LOOK_S):
        try:
            if has_flows(settings):
                with executor_role(settings) as still_mine, executing(house, flows, hands=hands):
                    while still_mine() and not stopping.wait(_LOOK_S):
                        pass
        except Conflict:
            pass  # another process has the role
        except TandemError as error:
            _log.warning("flows wait: %s", error)
            stopping.wait(_PAUSE_S)


class _Executor:
    """What tells the stories: one workflow for all of them, so that old flows go on under new code."""

    def __init__(self, house: Rooms, flows: Flows, hands: Hands, leaving: threading.Event) -> None:
        self._house = house
        self._flows = flows
        self._hands = hands
        self._leaving = leaving
        self._turns: Mapping[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def flow(self) -> Any:
        """The workflow as DBOS takes it: a function, not a method."""

        async def flow(story: str, order: dict[str, Any]) -> dict[str, Any]:
            return await self._told(story, order)

        return flow

    async def _told(self, name: str, order: dict[str, Any]) -> dict[str, Any]:
        from dbos import DBOS

        story = STORIES.get(name)
        if story is None:
            raise NotFound(f"There is no story {name!r} here.", remedy="It is of another edition of Tandem.")
        facts: dict[str, Any] = {}
        for step in story.steps_of(msgspec.convert(order, Order)):
            # Preemptible: a flow that is cancelled leaves its step soon, wherever that is.
            facts |= await DBOS.run_step_async(
                {"name": step.name, "preemptible": True}, self._worked, step, str(DBOS.workflow_id), facts
            )
        return facts

    async def _worked(self, step: Step, flow_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Do one step, and let everybody know meanwhile what it does."""
        flow = await asyncio.to_thread(self._flows.get, flow_id)
        work = Work(
            house=self._house,
            hands=self._hands,
            flow=flow,
            order=msgspec.convert(flow.order, Order),
            facts=facts,
            leaving=self._leaving.is_set,
            turns=self._turns,
            said=Said("begins", False),
        )
        telling = asyncio.create_task(self._telling(work, step.name))
        try:
            return await step.work(work)
        except TandemError as error:
            _log.warning("flow %s, %s: %s", flow_id, step.name, error.message)
            raise
        except asyncio.CancelledError:
            await _ended(telling)
            await asyncio.to_thread(self._flows.leave, flow_id)
            raise
        finally:
            await _ended(telling)

    async def _telling(self, work: Work, step: str) -> None:
        told: Said | None = None
        due_s = 0.0
        while True:
            if (said := work.said) != told or clock.monotonic_seconds() > due_s:
                with contextlib.suppress(Unavailable):  # it is told again
                    await asyncio.to_thread(self._flows.tell, work.flow.id, step, said.now, waits=said.waits)
                    told, due_s = said, clock.monotonic_seconds() + ALIVE_MS / 3000
            await asyncio.sleep(min(self._hands.look_s, 0.5))


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
