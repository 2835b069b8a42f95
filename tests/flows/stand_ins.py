"""A house whose flows need no training and no engine: fake workers, a fake measurement, and a program to kill.

As a program, `HOME FLOW POINTS...`, it goes on with one flow and kills itself once at each of the points:
`before:STEP` and `after:STEP` the record of a step (`end` is the flow's own), `amid:STEP` its effects.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from tandem.compute import Pace
from tandem.compute.systems import Fake
from tandem.evals import find_suite
from tandem.flows import Asking, Flow, FlowState, Hands, Order, executing, executor_role
from tandem.kit import clock
from tandem.kit.config import load_settings
from tandem.kit.signing import signed
from tandem.registry import first_charter, sealed
from tandem.serve import Plan
from tandem.server import House
from tandem.spec import Evidence, Metric, Placement, Recipe
from tests.compute.stand_ins import STEPS, pinned, placed
from tests.serving import wait_until

METRICS = {
    "quality-code": {"edit_similarity_gain": 0.2, "edit_similarity": 0.5},
    "regression": {"failures": 0.0},
}
EFFECTS = "effects"
KILLED = "killed"


def opened(home: Path, migrated_sqlite: Path | None = None, **settings: Any) -> House:
    """A house with a database and a charter of one person."""
    if migrated_sqlite is not None:
        (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    house = House.as_it_is(load_settings({}, home=home, stop_grace_s=20.0, **settings))
    if house.charters.chain().current is None:
        text = first_charter("tests", {"tests": {"ada": house.members.make("ada")}}, solo=True)
        house.charters.propose(text, [house.members.key("ada")])
    return house


def ordered(**changes: Any) -> Order:
    """An order to ship a model that is trained first."""
    loose = msgspec.structs.replace(pinned("coder"), tokenizer=msgspec.structs.replace(pinned().tokenizer, sha256=""))
    order = Order(recipe=loose, placement=placed(), name="code", engine="fake", plan=Plan())
    return msgspec.structs.replace(order, **changes)


def hands(
    house: House, *, step_s: float = 0.0, steps: int = STEPS, amid: Callable[[str], None] = lambda _step: None
) -> Hands:
    """Stand-ins that write down what they do."""

    async def prepare(recipe: Recipe, **_: object) -> Recipe:
        note(house, "prepared")
        return pinned(recipe.name, steps=steps)

    async def evaluate(ref: str, _house: object, *, asking: Asking, watcher: object) -> None:
        for suite in asking.suites:
            note(house, f"measured {suite}")
            await asyncio.to_thread(_file_evidence, house, ref, suite)
            amid("evaluate")

    return Hands(
        prepare=prepare,
        system=lambda _name, _settings: Fake(step_s=step_s),
        evaluate=evaluate,
        pace=Pace(poll_s=0.02, stop_grace_s=20.0),
        look_s=0.05,
    )


def without_reports() -> "mock._patch[Any]":
    """While it holds, runs get no report: that is a process of its own, which takes longer than all the rest."""

    async def write_report(_folder: object) -> None:
        pass

    return mock.patch.object(sys.modules["tandem.flows.train"], "write_report", write_report)


def note(house: House, what: str) -> None:
    """Write down that something was done."""
    with (house.settings.home / EFFECTS).open("a") as file:
        file.write(f"{what}\n")


def noted(house: House, name: str = EFFECTS) -> list[str]:
    """What was written down."""
    path = house.settings.home / name
    return path.read_text().splitlines() if path.exists() else []


def sign(house: House, flow: Flow) -> None:
    """Sign the release that a flow waits for."""
    house.releases.sign(flow.facts["release"], [house.members.key("ada")])


def followed(house: House, flow: str, until: Callable[[Flow], bool]) -> Flow:
    """The flow, once it is as it should be."""
    found: list[Flow] = []

    def is_so() -> bool:
        found.append(house.flows.get(flow))
        return until(found[-1])

    wait_until(is_so)
    return found[-1]


def _file_evidence(house: House, ref: str, suite: str) -> None:
    version = house.registry.resolve(ref)
    transcripts = house.settings.home / "transcripts"
    transcripts.write_text(f"{suite} of {ref}")
    document = Evidence(
        version=ref,
        digest=version.artifact.digest,
        suite=suite,
        suite_digest=find_suite(suite, house.settings.home).digest,
        metrics=tuple(
            Metric(name=name, value=value, low=value, high=value, samples=50) for name, value in METRICS[suite].items()
        ),
        answered=50,
        filtered=0,
        failed=0,
        transcripts=house.registry.blobs.put(transcripts).digest,
        engine="fake",
        hardware={"processor": "fake"},
        measured_at=clock.unix_milliseconds(),
    )
    house.evidence.add(reduce(signed, [house.members.key("ada")], sealed(document)))


def main() -> None:
    """Go on with a flow to its end, unless killed."""
    home, flow, *points = sys.argv[1:]
    house = opened(Path(home))

    def reached(point: str) -> None:
        if point in points and point not in noted(house, KILLED):
            with (house.settings.home / KILLED).open("a") as file:
                file.write(f"{point}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    _watch_records(reached)
    _watch_effects(reached)
    doing = hands(house, amid=lambda step: reached(f"amid:{step}"))
    with without_reports(), executor_role(house.settings), executing(house, house.flows, hands=doing):
        done = followed(house, flow, lambda one: one.state.over)
    print(done.state, done.why, flush=True)
    sys.exit(0 if done.state is FlowState.SUCCEEDED else 1)


def _watch_records(reached: Callable[[str], None]) -> None:
    """Let points be reached before and after DBOS records that a step, or the flow, is done."""
    from dbos._sys_db import SystemDatabase

    record, finish = SystemDatabase.record_operation_result, SystemDatabase.update_workflow_outcome

    def recorded(self: Any, result: Any, **options: Any) -> None:
        reached(f"before:{result['function_name']}")
        record(self, result, **options)
        reached(f"after:{result['function_name']}")

    def finished(self: Any, *args: Any, **options: Any) -> bool:
        reached("before:end")
        done = finish(self, *args, **options)
        reached("after:end")
        return done

    mock.patch.object(SystemDatabase, "record_operation_result", recorded).start()
    mock.patch.object(SystemDatabase, "update_workflow_outcome", finished).start()


def _watch_effects(reached: Callable[[str], None]) -> None:
    """Let a point be reached right after a run was made, when nobody supervises it yet."""
    from tandem.registry import Runs

    create = Runs.create

    def created(self: Runs, recipe: Recipe, placement: Placement, *, run_id: str = "") -> Any:
        run = create(self, recipe, placement, run_id=run_id)
        reached("amid:train")
        return run

    mock.patch.object(Runs, "create", created).start()


if __name__ == "__main__":
    main()
