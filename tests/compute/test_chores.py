"""Preparing in a child: its progress, its result and its errors cross the pipe; nothing of it is left behind."""

import asyncio
import inspect
from pathlib import Path

import msgspec
import pytest

from tandem.compute.chores import error_of, prepare, probe
from tandem.kit import errors
from tandem.kit.errors import IntegrityError, LimitExceeded, MissingPrerequisite, TandemError
from tandem.spec import Recipe
from tests.compute.stand_ins import commands, pinned, until

pytestmark = pytest.mark.anyio

GOOD = """
import json, sys
request = json.load(open(sys.argv[1]))
assert request["parent_gguf"] == sys.argv[2] and request["parent_digest"] == sys.argv[3], request
print(json.dumps({"step": "reading", "done": 1, "total": None}), flush=True)
print(json.dumps({"step": "reading", "done": 2, "total": 2}))
sys.stderr.write("a remark\\n" * 100_000)
request["recipe"]["about"] = "pinned"
print(json.dumps({"pinned": request["recipe"], "summary": {}}))
"""
BAD = """
import json, sys
print(json.dumps({"error": {"message": "Line 7 is no JSON.", "remedy": "Mend it.", "code": "integrity"}}))
sys.exit(1)
"""
SLOW = """
import sys, time, pathlib
pathlib.Path(sys.argv[1]).with_suffix(".started").touch()
time.sleep(3600)
"""


async def prepared(
    home: Path, program: str, *words: str, parent: tuple[Path, str] | None = None
) -> tuple[Recipe, list[tuple[str, int, int | None]]]:
    steps: list[tuple[str, int, int | None]] = []
    script = home / "program.py"
    script.write_text(program.replace("sys.argv[2]", repr(words[0]) if words else "None"))
    script.write_text(script.read_text().replace("sys.argv[3]", repr(words[1]) if words else "''"))
    recipe = await prepare(
        pinned(),
        home=home,
        parent=parent,
        progress=lambda step, done, total: steps.append((step, done, total)),
        program=[str(script)],
    )
    return recipe, steps


async def test_the_pinned_recipe_comes_back(home: Path) -> None:
    recipe, steps = await prepared(home, GOOD)
    assert recipe == msgspec.structs.replace(pinned(), about="pinned")
    assert steps == [("reading", 1, None), ("reading", 2, 2)]
    assert list((home / "requests").iterdir()) == []


async def test_the_parent_is_named(home: Path) -> None:
    await prepared(home, GOOD, "model.gguf", "sha256:1", parent=(Path("model.gguf"), "sha256:1"))


async def test_its_error_is_ours(home: Path) -> None:
    with pytest.raises(IntegrityError, match="Line 7") as caught:
        await prepared(home, BAD)
    assert caught.value.remedy == "Mend it."


@pytest.mark.parametrize(
    ("program", "cause"), [("raise ValueError('of ours')", "of ours"), ("import sys; sys.exit(3)", "exit status 3")]
)
async def test_a_crash_is_told(home: Path, program: str, cause: str) -> None:
    with pytest.raises(TandemError, match=cause):
        await prepared(home, program)
    assert list((home / "requests").iterdir()) == []


async def test_cancelling_ends_the_child(home: Path) -> None:
    task = asyncio.create_task(prepared(home, SLOW))
    await until(lambda: bool(list(home.glob("requests/*.started"))))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not commands(str(home / "program.py"))


async def test_cancelling_a_measurement_ends_the_child(home: Path) -> None:
    script = home / "program.py"
    script.write_text(SLOW)
    task = asyncio.create_task(probe(program=[str(script), str(home / "measured.json")]))
    await until((home / "measured.started").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not commands(str(script))


async def test_every_error_of_the_tree_crosses() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TandemError)]
    for kind in kinds:
        error = error_of({"message": "m", "remedy": "r", "code": kind.code})
        assert type(error) is kind
        assert (error.message, error.remedy, error.code) == ("m", "r", kind.code)
    assert isinstance(error_of({"message": "m", "code": "rate_limit_exceeded"}), LimitExceeded)
    unknown = error_of({"message": "m", "code": "of_tomorrow"})
    assert (type(unknown), unknown.code) == (TandemError, "of_tomorrow")


async def test_this_machine_is_measured_by_the_workshop() -> None:
    found = await probe()
    assert found["peak_flops"] > 1e8
    assert found["bf16_gain"] > 0
    assert found["device"]
    assert found["peak_name"]


async def test_a_machine_that_cannot_be_measured_is_said(home: Path) -> None:
    script = home / "program.py"
    script.write_text("raise ImportError('no torch')")
    with pytest.raises(MissingPrerequisite, match="no torch") as caught:
        await probe(program=[str(script)])
    assert "tandem doctor" in caught.value.remedy
