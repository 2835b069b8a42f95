"""Training under faults, with real workers: whatever happens, the final weights are those of the undisturbed run."""

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tandem.compute.systems import Local
from tandem.compute.systems.processes import marked, workers
from tandem.spec import AttemptFolder, Ending, Happened, Run, RunState, recipe_id
from tests.compute.stand_ins import kill, until
from tests.faults.training import STEPS, Workshop, flip_a_byte, manifest, placed, workshop
from tests.kit.full_disk import small_disk

pytestmark = [pytest.mark.anyio, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Workshop]:
    """One prepared home for all tests: runs do not disturb each other."""
    with workshop(tmp_path_factory.mktemp("workshop"), migrated_sqlite) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed() -> dict[int, str]:
    """Digests of the final weights by number of workers, once they are known."""
    return {}


async def expected(shop: Workshop, undisturbed: dict[int, str], *, count: int = 1) -> str:
    """The weights of a run that nothing happened to."""
    if count not in undisturbed:
        run = await shop.supervise(shop.begin(placed(workers=count)))
        assert run.state is RunState.SUCCEEDED, run.reason
        assert shop.endings(run) == ["finished"]
        undisturbed[count] = shop.weights(run)
    return undisturbed[count]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_killed_at_any_moment_it_ends_bit_for_bit_the_same(shop: Workshop, seed: int) -> None:
    """Seven kills each, two before the first step. Work since the last checkpoint is all that is ever lost."""
    chance = random.Random(seed)
    longer = {"budget": {"steps": 900}, "evaluation": {"every": 450, "samples": 2}, "seed": seed}
    every = 10

    async def disturb(run: Run) -> None:
        for done in range(7):
            if done not in {3, 5}:  # two die before their first step
                await until(lambda done=done: len(shop.told(run, Happened.RUNNING)) > done - early[0])
                await asyncio.sleep(chance.uniform(0.2, 1.2))  # the moment is the test
            else:
                await until(lambda done=done: len(shop.told(run, Happened.ATTEMPT_STARTED)) > done)
                early[0] += 1
            attempt = shop.newest(run)
            await until(lambda attempt=attempt: bool(workers(attempt)) or shop.house.runs.read(run.run_id).state.over)
            for pid in workers(attempt):
                os.kill(pid, signal.SIGKILL)
            await until(lambda done=done: len(shop.told(run, Happened.ATTEMPT_ENDED)) > done)

    early = [0]
    run = await shop.disturbed(shop.begin(placed(every_steps=every), **longer), disturb)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert shop.endings(run).count("killed") == 7
    undisturbed = await shop.supervise(shop.begin(placed(every_steps=every), **longer))
    assert shop.weights(run) == shop.weights(undisturbed)
    saved = [event.fields["step"] for event in shop.told(run, Happened.CHECKPOINT)]
    begun = [event.fields["step"] for event in shop.told(run, Happened.RUNNING)]
    assert begun == sorted(begun)
    assert set(begun) <= {0, *saved, *(step + every for step in saved)}  # one may be whole and not yet told


async def test_a_killed_rank_takes_all_down_and_all_come_back(shop: Workshop, undisturbed: dict[int, str]) -> None:
    async def disturb(run: Run) -> None:
        kill(await shop.at_step(run, 12), signal.SIGKILL, rank=1)

    run = await shop.disturbed(shop.begin(placed(workers=2)), disturb)
    assert run.state is RunState.SUCCEEDED, run.reason
    first = shop.told(run, Happened.ATTEMPT_ENDED)[0].fields
    assert (first["ending"], first["rank"], first["signal"]) == ("killed", 1, "SIGKILL")
    assert [event.fields["workers"] for event in shop.told(run, Happened.ATTEMPT_STARTED)] == [2, 2]
    assert shop.weights(run) == await expected(shop, undisturbed, count=2)


async def test_a_stopped_rank_is_found_and_shown(shop: Workshop) -> None:
    async def disturb(run: Run) -> None:
        kill(await shop.at_step(run, 12), signal.SIGSTOP, rank=1)

    run = await shop.disturbed(shop.begin(placed(workers=2, hang_s=8.0)), disturb)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert shop.endings(run) == ["hung", "finished"]
    # In which of a step's exchanges the other waits, its gradients or its wishes, is a matter of the moment.
    assert " in run_steps" in shop.folder(run).attempt(1).stacks(0).read_text()


async def test_asked_to_stop_it_loses_no_step(shop: Workshop, undisturbed: dict[int, str]) -> None:
    async def disturb(run: Run) -> None:
        os.kill(workers(await shop.at_step(run, 7))[0], signal.SIGTERM)

    run = await shop.disturbed(shop.begin(placed(every_steps=1000)), disturb)
    assert (run.state, run.reason) == (RunState.PAUSED, "preempted")
    assert shop.told(run, Happened.ATTEMPT_ENDED)[0].fields["step"] == run.step >= 7
    run = await shop.supervise(run)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert shop.told(run, Happened.RUNNING)[1].fields["step"] == run.step or run.step == STEPS
    assert shop.weights(run) == await expected(shop, undisturbed)


async def test_another_number_of_workers_sees_the_same_samples(shop: Workshop, undisturbed: dict[int, str]) -> None:
    """Two workers, then one, then two: the losses of 60 steps are those of one alone, to a relative 1e-5 in fp32.

    bf16 rounds each sum of another order to three digits, where a processor has it.
    """
    exact = {"precision": "fp32", "optimizer": {"lr": 1e-4}}

    async def stop_at(run: Run, step: int) -> None:
        os.kill(workers(await shop.at_step(run, step))[0], signal.SIGTERM)

    run = await shop.disturbed(shop.begin(placed(workers=2), **exact), lambda run: stop_at(run, 15))
    assert run.state is RunState.PAUSED, run.reason
    shop.house.runs.place(run.run_id, placed(workers=1))
    run = await shop.disturbed(run, lambda run: stop_at(run, run.step + 15))
    assert run.state is RunState.PAUSED, run.reason
    run = await shop.supervise(run, placement=placed(workers=2))
    assert run.state is RunState.SUCCEEDED, run.reason
    alone = await shop.supervise(shop.begin(placed(), **exact))
    assert shop.losses(run).keys() == shop.losses(alone).keys()
    # What sums of another order round otherwise grows with steps, and faster at a greater rate: it is 1e-7 up to here.
    found, wanted = ({step: loss for step, loss in shop.losses(one).items() if step <= 60} for one in (run, alone))
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted", "empty manifest"])
async def test_a_damaged_checkpoint_is_passed_over(shop: Workshop, undisturbed: dict[int, str], damage: str) -> None:
    run = await paused_at(shop, 22)
    newest = sorted(shop.folder(run).checkpoints.iterdir())[-1]
    weights = newest / "model.safetensors"
    match damage:
        case "flipped":
            flip_a_byte(weights)
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "deleted":
            weights.unlink()
        case _:
            (newest / "manifest.json").write_bytes(b"")
    run = await shop.supervise(run)
    assert run.state is RunState.SUCCEEDED, run.reason
    (rejected,) = shop.told(run, Happened.CHECKPOINT_REJECTED)
    assert newest.name.endswith(f"{rejected.fields['step']:08}")
    assert shop.weights(run) == await expected(shop, undisturbed)


async def paused_at(shop: Workshop, step: int) -> Run:
    async def disturb(run: Run) -> None:
        os.kill(workers(await shop.at_step(run, step))[0], signal.SIGTERM)

    run = await shop.disturbed(shop.begin(placed()), disturb)
    assert run.state is RunState.PAUSED, run.reason
    return run


async def test_without_any_good_checkpoint_it_fails_and_does_not_begin_anew(shop: Workshop) -> None:
    run = await paused_at(shop, 22)
    for path in shop.folder(run).checkpoints.iterdir():
        flip_a_byte(path / "optimizer.safetensors")
    run = await shop.supervise(run)
    assert run.state is RunState.FAILED
    assert "None of the checkpoints" in run.reason
    assert "optimizer.safetensors" in run.reason


async def test_changed_data_stops_a_resume(shop: Workshop) -> None:
    run = await paused_at(shop, 12)
    home = shop.house.settings.home
    changed = next(path for path in (home / "samples").glob("*/*") if path.suffix != ".json")
    before = changed.read_bytes()
    flip_a_byte(changed)
    try:
        run = await shop.supervise(run)
    finally:
        changed.write_bytes(before)
    assert run.state is RunState.FAILED
    assert changed.name in run.reason


async def test_a_run_that_diverges_goes_back_once_and_then_fails(shop: Workshop) -> None:
    run = await shop.supervise(shop.begin(placed(), optimizer={"lr": 1e30, "muon_lr": 1e30, "clip": 0.0}))
    assert run.state is RunState.FAILED
    assert "not finite" in run.reason
    assert set(shop.endings(run)) == {"diverged"}
    assert len(shop.told(run, Happened.STEP_SKIPPED)) >= 3


class Cramped(Local):
    """This machine with little memory for each worker, once it has loaded what it needs."""

    def __init__(self, *, spare_mib: int) -> None:
        limit = (
            "import resource, sys, torch; from pathlib import Path; import tandem.train.worker as w;"
            "size = int(Path('/proc/self/statm').read_text().split()[0]) * 4096;"
            f"resource.setrlimit(resource.RLIMIT_AS, (size + {spare_mib} * 2**20,) * 2);"
            "sys.exit(w.run(Path(sys.argv[-1])))"
        )
        super().__init__(program=("-c", limit))


async def test_what_does_not_fit_the_memory_is_cut_smaller(shop: Workshop) -> None:
    """The gradient is the same, and so is the recipe."""
    batch = {"samples": 128, "context": 64}
    roomy = placed()
    # In fp32, whose memory is the same on all processors.
    changes = {
        "batch": batch,
        "budget": {"steps": 3},
        "evaluation": {"every": 3, "samples": 2},
        "precision": "fp32",
    }
    cut = await shop.supervise(shop.begin(roomy, **changes))
    whole = msgspec.structs.replace(roomy, micro_samples=128)
    run = await shop.supervise(shop.begin(whole, **changes), system=Cramped(spare_mib=220))
    assert run.state is RunState.SUCCEEDED, run.reason
    assert shop.endings(run)[0] == "out_of_memory"
    sizes = [event.fields["micro_samples"] for event in shop.told(run, Happened.RUNNING)]
    # So near the limit some libraries die without a word: then the same size is tried again.
    cuts = list(dict.fromkeys(sizes))
    assert len(cuts) > 1
    assert cuts == [128 >> place for place in range(len(cuts))]
    assert sizes == sorted(sizes, reverse=True)
    assert run.recipe_id == cut.recipe_id == recipe_id(shop.house.runs.recipe(run.run_id))
    assert shop.losses(run) == pytest.approx(shop.losses(cut), rel=1e-4)


async def test_a_full_disk_pauses_and_space_resumes(tmp_path: Path, migrated_sqlite: Path) -> None:
    """Three checkpoints find no space; the last good one stays whole. Once there is space, it goes on by itself."""
    with small_disk(tmp_path / "disk", size=64 * 2**20) as disk, workshop(disk / "home", migrated_sqlite) as shop:
        run = shop.begin(placed(every_steps=5))
        filler = disk / "filler"

        async def disturb(run: Run) -> None:
            await until(lambda: bool(shop.told(run, Happened.CHECKPOINT)))
            with filler.open("wb") as file:
                file.write(bytes(max(0, shutil.disk_usage(disk).free - 2**20)))
            await until(lambda: shop.house.runs.read(run.run_id).state is RunState.PAUSED)
            good = [path for path in shop.folder(run).checkpoints.iterdir() if "." not in path.name]
            assert good
            assert all(manifest(path)["files"] for path in good)
            assert len(shop.told(run, Happened.CHECKPOINT_FAILED)) >= 3
            filler.unlink()

        run = await shop.disturbed(run, disturb)
        assert run.state is RunState.SUCCEEDED, run.reason
        assert shop.endings(run)[0] == Ending.DISK_FULL


def test_nothing_is_left_running(shop: Workshop) -> None:
    home = shop.house.settings.home
    for attempt in home.glob("runs/*/attempts/*"):
        assert not marked(AttemptFolder(attempt))
