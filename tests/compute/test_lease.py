"""The lease: one holder, taken over when it expires or its holder is dead, and an attempt number that only rises."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tandem.compute import Lease, held
from tandem.compute.systems.keeper import born
from tandem.kit import clock
from tandem.kit.errors import Conflict
from tandem.spec import RunFolder
from tests.compute.stand_ins import until

TAKER = """
import sys
from pathlib import Path
from tandem.compute import Lease
from tandem.spec import RunFolder
lease = Lease(RunFolder(Path(sys.argv[1])), seconds=3600)
lease.take()
lease.next_attempt()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_only_one_has_it(run: RunFolder) -> None:
    first, second = Lease(run, seconds=60), Lease(run, seconds=60)
    first.take()
    with pytest.raises(Conflict, match=rf"supervised by process {os.getpid()} on .* until \d\d:\d\d:\d\d UTC"):
        second.take()
    for act in (second.renew, second.next_attempt):
        with pytest.raises(Conflict):
            act()
    second.release()
    first.renew()
    first.release()
    second.take()
    with pytest.raises(Conflict, match="taken over"):
        first.renew()


def test_an_expired_one_is_taken_over(run: RunFolder) -> None:
    late, next_one = Lease(run, seconds=0.0), Lease(run, seconds=60)
    late.take()
    assert late.next_attempt() == 1
    next_one.take()
    with pytest.raises(Conflict):
        late.next_attempt()
    assert next_one.next_attempt() == 2


def test_the_number_rises_over_all_holders(run: RunFolder) -> None:
    assert run.current_attempt() == 0
    numbers = []
    for _ in range(3):
        lease = Lease(run, seconds=60)
        lease.take()
        numbers += [lease.next_attempt(), lease.next_attempt()]
        lease.release()
        assert run.current_attempt() == numbers[-1]
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_of_many_at_once_one_gets_it(run: RunFolder) -> None:
    def take(_: int) -> bool:
        try:
            Lease(run, seconds=60).take()
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(16))) == 1


def test_a_dead_holder_is_followed_at_once(run: RunFolder) -> None:
    command = [sys.executable, "-c", TAKER, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"taken\n"
        lease = Lease(run, seconds=60)
        with pytest.raises(Conflict, match=f"process {holder.pid}"):
            lease.take()
        holder.kill()
    lease.take()
    assert lease.next_attempt() == 2


@pytest.mark.parametrize("word", ["other/1-2/1/1/x", "{place}/{pid}/{born}/x"])
def test_who_may_live_is_waited_for(run: RunFolder, word: str) -> None:
    mine = Lease(run, seconds=60)
    mine.take()
    place = msgspec.json.decode(run.lease.read_bytes())["holder"].rsplit("/", 3)[0]
    holder = word.format(place=place, pid=os.getpid(), born=born(os.getpid()))
    until_ms = clock.unix_milliseconds() + 60_000
    run.lease.write_bytes(msgspec.json.encode({"holder": holder, "attempt": 3, "expires_at": until_ms}))
    with pytest.raises(Conflict):
        Lease(run, seconds=60).take()


def test_a_pid_that_was_given_again_is_a_dead_holder(run: RunFolder) -> None:
    Lease(run, seconds=60).take()
    word = msgspec.json.decode(run.lease.read_bytes())
    place, pid, birth, token = word["holder"].rsplit("/", 3)
    word["holder"] = f"{place}/{pid}/{int(birth) - 1}/{token}"
    run.lease.write_bytes(msgspec.json.encode(word))
    Lease(run, seconds=60).take()


@pytest.mark.anyio
async def test_it_is_kept_as_long_as_the_block_runs(run: RunFolder) -> None:
    def word() -> dict[str, Any]:
        return dict(msgspec.json.decode(run.lease.read_bytes()))

    # Renewals are what is awaited, so it is short; nobody tries to take it, since a busy machine may let it expire.
    async with held(run, seconds=0.3):
        began = word()
        await until(lambda: word()["expires_at"] > began["expires_at"] + 300)
        assert word()["holder"] == began["holder"]
    assert not word()["holder"]


@pytest.mark.anyio
async def test_who_loses_it_stops_at_once(run: RunFolder) -> None:
    async def robbed() -> None:
        async with held(run, seconds=0.3):
            run.lease.unlink()
            Lease(run, seconds=60).take()
            await asyncio.sleep(3600)

    with pytest.raises(Conflict, match="taken over"):
        await robbed()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


@pytest.mark.anyio
async def test_a_cancelled_block_lets_it_go(run: RunFolder) -> None:
    entered = asyncio.Event()

    async def block() -> None:
        async with held(run, seconds=60):
            entered.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(block())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    Lease(run, seconds=60).take()
