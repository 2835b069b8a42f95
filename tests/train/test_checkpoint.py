"""Checkpoints: exact, whole or not there whatever kills the writer, refused when changed, fenced, and few."""

import json
import math
import multiprocessing
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.kit.errors import IntegrityError, StorageFull
from tandem.train.checkpoint import (
    Facts,
    Loaded,
    Saver,
    Stale,
    State,
    interval_s,
    kept,
    latest,
    load,
    preflight,
    prune,
    save,
)
from tests.kit.full_disk import SIZE, small_disk

RECIPE = "sha256:" + 64 * "a"
STAGES = ["model", "optimizer", "manifest", "fence", "rename", "sync"]


def facts(step: int, *, attempt: int = 1, parent: int | None = None, loss: float | None = None) -> Facts:
    seen = {"environment": {"torch": torch.__version__}, "evaluation": {} if loss is None else {"loss": loss}}
    return Facts(recipe_id=RECIPE, step=step, tokens=64 * step, attempt=attempt, parent=parent, **seen)


def state(step: int, *, numbers: int = 12) -> State:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(3, numbers // 3, generator=generator)
    return State(
        model={"layers.0.weight": weight, "half": weight.bfloat16(), "ids": torch.arange(step, step + 5)},
        optimizer={"exp_avg|layers.0.weight": weight.t() * 2, "step|layers.0.weight": torch.tensor(float(step))},
    )


def always() -> bool:
    return True


def saved(folder: Path, *steps: int, attempt: int = 1) -> None:
    for step in steps:
        save(folder, state(step), facts(step, attempt=attempt), is_current=always)


def newest(folder: Path, *, attempt: int = 2, drop_newest: bool = False) -> tuple[Loaded | None, list[int]]:
    """What is resumed from, and the steps that were rejected."""
    rejected: list[int] = []
    found = latest(
        folder,
        recipe_id=RECIPE,
        attempt=attempt,
        on_rejected=lambda step, _: rejected.append(step),
        drop_newest=drop_newest,
    )
    return found, rejected


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_state(loaded: Loaded | None, step: int) -> bool:
    return loaded is not None and loaded.manifest.step == step and same(loaded.state, state(step))


def same(one: State, other: State) -> bool:
    return all(
        a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(one, other, strict=True)
    )


def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    written = save(tmp_path / "new", state(7), facts(7, attempt=3, parent=5, loss=1.5), is_current=always)
    found, rejected = newest(tmp_path / "new", attempt=4)
    assert found is not None
    assert found.manifest == written
    assert (written.step, written.tokens, written.attempt, written.parent) == (7, 448, 3, 5)
    assert written.environment == {"torch": torch.__version__}
    assert written.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert is_state(found, 7)
    assert not rejected
    found.state.model["half"].zero_()
    assert is_state(load(tmp_path / "new", 7, recipe_id=RECIPE), 7), "what was loaded is the caller's own"


@pytest.mark.parametrize("made", [True, False])
def test_a_run_without_checkpoints_begins_at_its_start(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "checkpoints"
    if made:
        (folder / "step-00000001.tmp-1").mkdir(parents=True)
        (folder / "notes").mkdir()
    assert newest(folder) == (None, [])


def test_the_newest_is_by_number(tmp_path: Path) -> None:
    saved(tmp_path, 99_999_999, 100_000_000, 3)
    assert is_state(newest(tmp_path)[0], 100_000_000)


def flip(path: Path) -> None:
    file = path / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path / "model.safetensors", 40)


def lose_a_file(path: Path) -> None:
    (path / "model.safetensors").unlink()


def empty_manifest(path: Path) -> None:
    (path / "manifest.json").write_bytes(b"")


def lose_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def rewritten(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


FAULTS: dict[str, Callable[[Path], None]] = {
    "flipped byte": flip,
    "truncated": truncate,
    "lost file": lose_a_file,
    "empty manifest": empty_manifest,
    "lost manifest": lose_manifest,
    "another format": rewritten(format=2),
    "another step": rewritten(step=9),
    "another recipe": rewritten(recipe_id="sha256:" + 64 * "b"),
    "no files": rewritten(files={}),
    "not a manifest": rewritten(tokens="many"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_changed_checkpoint_is_told_of_and_the_one_before_is_used(tmp_path: Path, fault: str) -> None:
    saved(tmp_path, 1, 2, 3)
    FAULTS[fault](tmp_path / "step-00000003")
    found, rejected = newest(tmp_path)
    assert is_state(found, 2)
    assert rejected == [3]
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003.rejected-2"]
    found, rejected = newest(tmp_path, attempt=3)
    assert is_state(found, 2)
    assert not rejected, "it is told once"
    save(tmp_path, state(3), facts(3, attempt=3), is_current=always)
    assert is_state(newest(tmp_path, attempt=4)[0], 3)


@pytest.mark.parametrize("fault", FAULTS)
def test_where_all_are_bad_nothing_begins_again(tmp_path: Path, fault: str) -> None:
    saved(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        FAULTS[fault](path)
    before = names(tmp_path)
    for _ in range(2):
        with pytest.raises(IntegrityError, match="None of the checkpoints"):
            newest(tmp_path)
    assert names(tmp_path) == before, "evidence stays"


def test_a_rejected_one_alone_is_no_fresh_start(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    flip(tmp_path / "step-00000002")
    newest(tmp_path)
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(IntegrityError, match="None of the checkpoints"):
        newest(tmp_path)


def test_a_step_that_is_not_there_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="No such file"):
        load(tmp_path, 5, recipe_id=RECIPE)


def test_the_newest_is_dropped_once_for_an_attempt(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    for _ in range(2):  # an attempt whose workers are started again asks twice
        found, rejected = newest(tmp_path, drop_newest=True)
        assert is_state(found, 2)
        assert not rejected
    saved(tmp_path, 3, attempt=2)
    assert is_state(newest(tmp_path, drop_newest=True)[0], 3), "its own work is not dropped"
    prune(tmp_path, 3, 2)
    assert is_state(newest(tmp_path, drop_newest=True)[0], 3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def test_dropping_the_only_one_goes_back_to_the_start(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    assert newest(tmp_path, drop_newest=True) == (None, [])
    assert newest(tmp_path, drop_newest=True) == (None, [])


def test_dropping_takes_the_newest_good_one(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    flip(tmp_path / "step-00000003")
    found, rejected = newest(tmp_path, drop_newest=True)
    assert is_state(found, 1)
    assert rejected == [3]


def test_dropping_the_only_good_one_is_no_fresh_start(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    flip(tmp_path / "step-00000001")
    with pytest.raises(IntegrityError, match="not those that were written"):
        newest(tmp_path, drop_newest=True)


def test_only_what_dead_attempts_left_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for name in ("step-00000002.tmp-1", "step-00000002.tmp-3", "step-00000002.tmp-4", "other.tmp-1"):
        (tmp_path / name).mkdir()
    newest(tmp_path, attempt=3)
    assert names(tmp_path) == ["other.tmp-1", "step-00000001", "step-00000002.tmp-4"]


def _save_and_stall(folder: Path, stage: str, tell: Connection) -> None:
    def reached(now: str) -> None:
        if now == stage:
            tell.send(now)
            threading.Event().wait()

    save(folder, state(2), facts(2, parent=1), is_current=always, reached=reached)


@pytest.mark.fault
@pytest.mark.parametrize("stage", STAGES)
def test_a_writer_that_is_killed_leaves_the_one_before_or_its_own(tmp_path: Path, stage: str) -> None:
    saved(tmp_path, 1)
    context = multiprocessing.get_context("fork")
    hear, tell = context.Pipe(duplex=False)
    child = context.Process(target=_save_and_stall, args=(tmp_path, stage, tell))
    child.start()
    assert hear.poll(30)
    assert hear.recv() == stage
    child.kill()
    child.join(30)
    assert child.exitcode == -9
    hear.close()
    tell.close()
    unfinished = [name for name in names(tmp_path) if ".tmp-" in name]
    assert unfinished == ([] if stage == "sync" else ["step-00000002.tmp-1"])

    found, rejected = newest(tmp_path)
    there = 2 if stage == "sync" else 1
    assert is_state(found, there)
    assert not rejected
    assert names(tmp_path) == [f"step-{step:08}" for step in range(1, there + 1)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, stage: str) -> None:
    saved(tmp_path, 1)

    def reached(now: str) -> None:
        if now == stage:
            raise RuntimeError(stage)

    with pytest.raises(RuntimeError, match=stage):
        save(tmp_path, state(2), facts(2), is_current=always, reached=reached)
    assert names(tmp_path) == ["step-00000001", *(["step-00000002"] if stage == "sync" else [])]
    saved(tmp_path, 2)
    assert is_state(newest(tmp_path)[0], 2)


@pytest.mark.parametrize("lost_at", ["start", *STAGES[:4]])
def test_a_stale_attempt_is_refused(tmp_path: Path, lost_at: str) -> None:
    reaches = {"now": "start"}
    before = STAGES[: STAGES.index(lost_at)] if lost_at in STAGES else []

    def is_current() -> bool:
        return reaches["now"] in {"start", *before} and lost_at != "start"

    with pytest.raises(Stale, match="attempt 1 has lost"):
        save(tmp_path, state(2), facts(2), is_current=is_current, reached=lambda now: reaches.update(now=now))
    assert not list(tmp_path.iterdir())


def test_a_writer_whose_files_a_newer_attempt_removed_is_stale(tmp_path: Path) -> None:
    """It was current when it asked, and stood still until the newer attempt had begun."""
    current = {"attempt": 1}
    saved(tmp_path, 1)

    def reached(stage: str) -> None:
        if stage == "rename":
            current["attempt"] = 2
            newest(tmp_path, attempt=2)

    with pytest.raises(Stale):
        save(tmp_path, state(2), facts(2), is_current=lambda: current["attempt"] == 1, reached=reached)
    assert names(tmp_path) == ["step-00000001"]


def test_a_step_that_is_saved_already_stays(tmp_path: Path) -> None:
    first = save(tmp_path, state(2), facts(2), is_current=always)
    again = save(tmp_path, state(2), facts(2, attempt=2), is_current=always, reached=pytest.fail)
    assert again == first


def test_too_little_space_is_found_before_writing(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    preflight(tmp_path, free // 3)
    with pytest.raises(StorageFull, match="bytes free; a checkpoint of"):
        preflight(tmp_path, free // 2)


@pytest.mark.fault
def test_a_small_disk_keeps_the_last_good_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk / "checkpoints"
        saved(folder, 1)
        with pytest.raises(StorageFull, match="wants"):
            save(folder, state(2, numbers=SIZE // 16 * 3), facts(2), is_current=always)
        assert names(folder) == ["step-00000001"]


@pytest.mark.fault
@pytest.mark.parametrize("stage", STAGES[:3])
def test_a_disk_that_fills_up_keeps_the_last_good_one(tmp_path: Path, stage: str) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk / "checkpoints"
        saved(folder, 1)

        def fill(now: str) -> None:
            if now == stage:
                (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free))

        with pytest.raises(StorageFull, match="Free some space"):
            save(folder, state(2, numbers=9000), facts(2), is_current=always, reached=fill)
        assert names(folder) == ["step-00000001"]
        (disk / "filling").unlink()
        assert is_state(newest(folder, attempt=1)[0], 1)
        saved(folder, 2)
        assert is_state(newest(folder)[0], 2), "space heals it"


@pytest.mark.fault
def test_a_first_save_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(StorageFull, match="Free some space|wants"):
            saved(disk / "checkpoints", 1)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_of_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with largest_file(4096), pytest.raises(StorageFull, match="No space left"):
        save(tmp_path, state(2, numbers=3000), facts(2), is_current=always)
    assert names(tmp_path) == ["step-00000001"]


losses = st.none() | st.floats(0.0, 10.0) | st.just(math.nan)
histories = st.lists(st.tuples(st.integers(0, 60), losses, st.none() | st.integers(0, 60)), max_size=12)


@settings(deadline=None)
@given(history=histories, keep=st.integers(1, 5))
def test_what_stays(history: list[tuple[int, float | None, int | None]], keep: int) -> None:
    there = list({step: facts(step, loss=loss, parent=parent) for step, loss, parent in history}.values())
    stay = kept(there, keep)
    steps = sorted((one.step for one in there), reverse=True)
    assert stay <= set(steps)
    assert set(steps[:keep]) <= stay
    assert len(stay) <= keep + 2
    if there:
        parent = next(one.parent for one in there if one.step == steps[0])
        assert parent not in steps or parent in stay
    measured = [one for one in there if not math.isnan(one.evaluation.get("loss", math.nan))]
    if measured:
        best = min(one.evaluation["loss"] for one in measured)
        assert any(one.step in stay for one in measured if one.evaluation["loss"] == best)
    assert kept([one for one in there if one.step in stay], keep) == stay, "again changes nothing"


def test_what_need_not_stay_is_deleted(tmp_path: Path) -> None:
    for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, None), (6, 1.5)]:
        save(tmp_path, state(step), facts(step, parent=4, loss=loss), is_current=always)
    empty_manifest(tmp_path / "step-00000003")
    (tmp_path / "step-00000005.rejected-1").mkdir()
    (tmp_path / "step-00000006.dropped-1").mkdir()
    prune(tmp_path, 1, 2)
    assert names(tmp_path) == [f"step-{step:08}" for step in (2, 3, 4, 6)]


def test_a_saver_writes_a_copy_behind_training(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    def reached(stage: str) -> None:
        if stage == "model":
            begun.set()
            assert go.wait(30)

    saver = Saver(tmp_path, is_current=always, keep=3, parent=1, reached=reached)
    assert saver.wait() is None
    now = state(2)
    assert saver.save(now, facts(2)) is None
    assert begun.wait(30)
    assert saver.busy
    assert saver.poll() is None
    now.model["layers.0.weight"].zero_()
    now.optimizer["step|layers.0.weight"].add_(1)
    go.set()
    told = saver.wait()
    assert told is not None
    assert (told.step, told.bytes) == (2, sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")))
    assert 0 < told.copy_s < told.seconds
    assert saver.poll() is None, "it is told once"
    found, _ = newest(tmp_path)
    assert is_state(found, 2)
    assert found is not None
    assert found.manifest.parent == 1


def test_a_saver_has_one_in_flight_and_keeps_few(tmp_path: Path) -> None:
    writing: list[str] = []
    saver = Saver(tmp_path, is_current=always, keep=1, reached=writing.append)
    told = [saver.save(state(step), facts(step)) for step in range(1, 5)]
    told.append(saver.wait())
    assert told[0] is None
    assert [one.step for one in told[1:] if one] == [1, 2, 3, 4]
    assert writing == 4 * STAGES, "never two at once"
    assert names(tmp_path) == ["step-00000003", "step-00000004"], "the newest and its parent"
    assert load(tmp_path, 4, recipe_id=RECIPE).manifest.parent == 3


def test_a_saver_tells_of_a_fault_at_the_next_call_and_goes_on(tmp_path: Path) -> None:
    full = {"disk": True}

    def reached(stage: str) -> None:
        if full["disk"] and stage == "optimizer":
            raise OSError(28, "No space left on device")

    saver = Saver(tmp_path, is_current=always, keep=2, parent=0, reached=reached)
    saver.save(state(1), facts(1))
    with pytest.raises(StorageFull):
        saver.save(state(2), facts(2))
    assert not list(tmp_path.iterdir()), "nothing new was begun"
    full["disk"] = False
    assert saver.save(state(3), facts(3)) is None
    assert saver.wait() is not None
    assert load(tmp_path, 3, recipe_id=RECIPE).manifest.parent == 0


def test_a_stale_saver_says_so(tmp_path: Path) -> None:
    saver = Saver(tmp_path, is_current=lambda: False, keep=2)
    saver.save(state(1), facts(1))
    with pytest.raises(Stale):
        saver.wait()


@given(cost=st.floats(0.0, 1e6), mtbf=st.floats(1.0, 1e8))
def test_the_interval_stays_within_its_bounds(cost: float, mtbf: float) -> None:
    every = interval_s(cost, mtbf)
    assert 30 <= every <= 1800
    assert interval_s(cost * 2, mtbf) >= every


def test_the_interval_is_youngs() -> None:
    assert interval_s(2.0, 4 * 3600.0) == 240.0
