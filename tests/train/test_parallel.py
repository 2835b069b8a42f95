"""Several workers: with replicas or shards, they take the same steps as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tandem.kit.errors import InvalidRequest, MissingPrerequisite
from tandem.spec import Placement
from tandem.train.parallel import Ranks, check_layout, greatest, joined
from tests.train.distributed import train
from tests.train.test_loop import Rows, training

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_workers_take_the_steps_of_one(tmp_path: Path, sharding: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = train(Ranks(rank=0, world=1, device=torch.device("cpu")), Placement(sharding=sharding))
    torch.set_num_threads(threads)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(REPOSITORY / "tests" / "train" / "distributed.py"), str(tmp_path / "weights.pt"), sharding]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, *script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert together.keys() == alone.keys()
    for name, weights in alone.items():
        torch.testing.assert_close(together[name], weights, rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    recipe = training(Rows()).recipe
    check_layout(recipe, Placement(workers=4), 4)
    with pytest.raises(InvalidRequest, match="8 samples cannot be shared by 3 workers"):
        check_layout(recipe, Placement(workers=3), 3)


def test_muon_is_not_sharded() -> None:
    recipe = training(Rows(), optimizer="muon").recipe
    with pytest.raises(InvalidRequest, match="muon needs whole matrices"):
        check_layout(recipe, Placement(sharding="fsdp", workers=2), 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed_by_name() -> None:
    with pytest.raises(MissingPrerequisite, match="torch sees none"), joined(Placement(device="cuda")):
        pass


def test_alone_one_decides_alone() -> None:
    with joined(Placement(device="cpu")) as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        assert greatest([3, 0], ranks) == [3, 0]
