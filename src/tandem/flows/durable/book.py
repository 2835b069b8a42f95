"""The book of flows: asking for one, looking at them, ending and retrying them, from any process."""

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from tandem.flows.durable.database import VERSION, answering, has_flows, opened_client
from tandem.flows.durable.flow import Flow, FlowState, FlowStep, Order, StepState, made_at
from tandem.flows.durable.role import is_executed
from tandem.flows.durable.stories import STORIES, check_order
from tandem.kit import clock, ids
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from dbos import DBOSClient

WORKFLOW = "flow"
"""The one workflow that DBOS knows; which story it tells is its first argument."""
QUEUE = "flows"
OWN_QUEUE = "flow-of-a-command"
"""For the one flow that a command executes where no server does."""

_ACTIVE = ("ENQUEUED", "DELAYED", "PENDING")
_STATES: Mapping[str, FlowState] = {
    "ENQUEUED": FlowState.QUEUED,
    "DELAYED": FlowState.QUEUED,
    "PENDING": FlowState.RUNNING,
    "SUCCESS": FlowState.SUCCEEDED,
    "CANCELLED": FlowState.CANCELLED,
    "ERROR": FlowState.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": FlowState.FAILED,
}
_ID = re.compile(r"[A-Za-z0-9_]{1,80}")  # of a flow, or its beginning; a client may write anything
_MOST = 100  # rows that are read at a time
_PATIENCE_S = 15.0
_LOOK_S = 0.1
ALIVE_MS = 5000
"""How long a step is believed to go on that gives no sign of life."""


class Flows:
    """The flows of this home. Its methods block; nothing is made before the first flow."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: DBOSClient | None = None

    def start(self, story: str, order: Order, *, by: str) -> Flow:
        """Ask for a flow; whoever is the executor begins it.

        Raises:
            InvalidRequest: there is no such story, or the order is not one for it.
            Unavailable: the database does not answer.
        """
        check_order(story, order)
        own = ids.new_id("flow")
        with answering():
            self._client().enqueue(
                {
                    "workflow_name": WORKFLOW,
                    "queue_name": QUEUE,
                    "workflow_id": own,
                    "app_version": VERSION,
                    "attributes": {"by": by[:200], "tries": 1},
                },
                story,
                msgspec.to_builtins(order),
            )
        return self.get(own)

    def get(self, flow: str) -> Flow:
        """One flow with its steps; of an id its beginning is enough.

        Raises:
            NotFound: there is none.
            InvalidRequest: several begin so.
        """
        asked = _ID.fullmatch(flow) and has_flows(self._settings)
        found = self._rows(workflow_id_prefix=flow, limit=2) if asked else []
        if len(found) > 1 and found[0].workflow_id != flow:
            raise InvalidRequest(f"Several flows begin with {flow[:80]}.", remedy="Give more of the id.")
        if not found:
            raise NotFound(f"There is no flow {flow[:80]!r}.", remedy="`tandem flows list` shows what flows there are.")
        with answering():
            steps = self._client().list_workflow_steps(found[0].workflow_id)
        return _with_steps(_flow(found[0], executed=is_executed(self._settings)), steps)

    def page(self, *, limit: int = 100, after: str | None = None, state: FlowState | None = None) -> list[Flow]:
        """Flows without their steps, the newest first, from the one after `after` on; on request those of one state."""
        if not has_flows(self._settings):
            return []
        executed = is_executed(self._settings)
        found: list[Flow] = []
        for row in self._newest(after):
            one = _flow(row, executed=executed)
            if state in {None, one.state}:
                found.append(one)
            if len(found) == limit:
                break
        return found

    def cancel(self, flow: str) -> Flow:
        """End a flow; its current step is interrupted. What it started is another's to end: `cancel_flow`.

        Raises:
            NotFound: there is no such flow.
            Conflict: it is over.
        """
        known = self.get(flow)
        if known.state.over:
            raise Conflict(f"Flow {known.id} is {known.state}.", remedy="There is nothing to cancel.")
        with answering():
            self._client().cancel_workflow(known.id)
        return self.get(known.id)

    def retry(self, flow: str) -> Flow:
        """Go on with a flow that failed, at the step that did, or with one that was cancelled.

        Raises:
            NotFound: there is no such flow.
            Conflict: it is not over, or done.
        """
        known = self.get(flow)
        if known.state not in {FlowState.FAILED, FlowState.CANCELLED}:
            raise Conflict(f"Flow {known.id} is {known.state}.", remedy="Only what failed or was cancelled is retried.")
        if known.state is FlowState.CANCELLED:
            self._wait_until_left(known.id)
        words = {"tries": known.tries + 1, "retried_at": clock.unix_milliseconds(), "now": "", "waits": False}
        with answering():
            client = self._client()
            client.update_workflow_attributes(known.id, words, merge=True)
            client.rewind_workflow(known.id, start_step=_retried(known), queue_name=QUEUE, application_version=VERSION)
        return self.get(known.id)

    def tell(self, flow: str, step: str, now: str, *, waits: bool) -> None:
        """Note what the current step of a flow does, and that it is alive; for the executor."""
        words = {"step": step, "now": now, "waits": waits, "alive_at": clock.unix_milliseconds()}
        with answering():
            self._client().update_workflow_attributes(flow, words, merge=True)

    def leave(self, flow: str) -> None:
        """Note that a step which was interrupted is left; for the executor."""
        with answering():
            self._client().update_workflow_attributes(flow, {"alive_at": 0}, merge=True)

    def take_over(self, only: str = "") -> None:
        """Queue again what an earlier executor left; for who has the role and has not begun. With `only`, one flow
        goes to `OWN_QUEUE`.

        Raises:
            Unavailable: the database does not answer.
        """
        with answering():
            client = self._client()
            for name in (QUEUE, OWN_QUEUE):
                client.register_queue(name, polling_interval_sec=0.5)
            for row in list(self._newest(None, status=list(_ACTIVE))):
                queue = OWN_QUEUE if row.workflow_id == only else QUEUE
                client.resume_workflow(row.workflow_id, queue_name=queue)
                client.update_workflow_attributes(row.workflow_id, {"now": "", "waits": False}, merge=True)

    def close(self) -> None:
        """Close the connections to the database."""
        with self._lock:
            if self._opened is not None:
                self._opened.destroy()
                self._opened = None

    def _wait_until_left(self, flow: str) -> None:
        """Raises Conflict where the step that a cancel interrupted still goes on: there must not be two of it."""
        deadline = clock.monotonic_seconds() + _PATIENCE_S
        while True:
            [row] = self._rows(workflow_ids=[flow])
            if (row.attributes or {}).get("alive_at", 0) < clock.unix_milliseconds() - ALIVE_MS:
                return
            if clock.monotonic_seconds() > deadline:
                raise Conflict(f"Flow {flow} is still being ended: its run is saved.", remedy="Retry it in a minute.")
            threading.Event().wait(_LOOK_S)

    def _client(self) -> "DBOSClient":
        with self._lock:
            if self._opened is None:
                self._opened = opened_client(self._settings)
            return self._opened

    def _rows(self, **query: Any) -> list[Any]:
        with answering():
            return list(self._client().list_workflows(name=WORKFLOW, **query))

    def _newest(self, after: str | None, **query: Any) -> Iterator[Any]:
        """The rows of flows, the newest first. The cursor of DBOS is a time, so those of one are told apart."""
        asked = after is not None and _ID.fullmatch(after)
        last = next(iter(self._rows(workflow_ids=[after])), None) if asked else None
        if after is not None and last is None:
            return
        most = _MOST
        while True:
            until = {} if last is None else {"end_time": _iso(last.created_at)}
            rows = self._rows(sort_desc=True, limit=most, **until, **query)
            fresh = [row for row in rows if last is None or _place(row) < _place(last)]
            if len(rows) < most:
                yield from sorted(fresh, key=_place, reverse=True)
                return
            # Of the oldest time that was read, some may be missing.
            if not (fresh := [row for row in fresh if row.created_at > rows[-1].created_at]):
                most *= 2
                continue
            yield from sorted(fresh, key=_place, reverse=True)
            last = min(fresh, key=_place)


def _place(row: Any) -> tuple[int, str]:
    return (row.created_at, row.workflow_id)


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def _flow(row: Any, *, executed: bool) -> Flow:
    told: Mapping[str, Any] = row.attributes or {}
    story, order = (row.input or {}).get("args", ("", {}))
    state, why = _STATES[row.status], str(told.get("now", ""))
    if state is FlowState.RUNNING and told.get("waits"):
        state = FlowState.WAITING
    elif state in {FlowState.QUEUED, FlowState.RUNNING} and not executed:
        state, why = FlowState.QUEUED, "waits for an executor: `tandem up`, or `tandem flows work`"
    elif state is FlowState.QUEUED:
        why = "begins soon"
    elif state is FlowState.FAILED:
        why = str(getattr(row.error, "message", None) or row.error or "")
    elif state.over:
        why = ""
    return Flow(
        id=row.workflow_id,
        story=story,
        state=state,
        step=str(told.get("step", "")),
        why=why,
        order=order,
        by=str(told.get("by", "")),
        tries=int(told.get("tries", 1)),
        created_at=made_at(row.workflow_id),
        retried_at=told.get("retried_at"),
        updated_at=max(row.updated_at or row.created_at, made_at(row.workflow_id)),  # on SQLite it has whole seconds
        ended_at=row.completed_at,
    )


def _with_steps(flow: Flow, recorded: list[Any]) -> Flow:
    facts: dict[str, Any] = {}
    steps: dict[str, FlowStep] = {}
    for one in recorded:
        failed = one["error"] is not None
        facts |= one["output"] if isinstance(one["output"], dict) else {}
        steps[one["function_name"]] = FlowStep(
            name=one["function_name"],
            state=StepState.FAILED if failed else StepState.DONE,
            number=one["function_id"],
            began_at=one["started_at_epoch_ms"],
            ended_at=one["completed_at_epoch_ms"],
        )
    story = STORIES.get(flow.story)
    order = msgspec.convert(flow.order, Order)
    for name in (step.name for step in story.steps_of(order)) if story is not None else ():
        first = not flow.state.over and all(step.state is StepState.DONE for step in steps.values())
        steps.setdefault(name, FlowStep(name=name, state=StepState.CURRENT if first else StepState.AHEAD))
    return replace(flow, facts=facts, steps=tuple(steps.values()))


def _retried(flow: Flow) -> int:
    """The number of the step to begin again with: that which ended it, or an earlier one that has to come before."""
    recorded = [step for step in flow.steps if step.number]
    ended = next((step for step in flow.steps if step.state is not StepState.DONE), None)
    story = STORIES.get(flow.story)
    known = {step.name: step for step in story.steps} if story is not None else {}
    begins = known[ended.name].again_from if ended is not None and ended.name in known else ""
    otherwise = ended.number if ended is not None and ended.number else len(recorded) + 1
    return next((step.number for step in recorded if step.name == begins), otherwise)
