"""What the local system says of the machine and tells its workers."""

from pathlib import Path

import msgspec
import pytest

from tandem.compute import SYSTEMS, open_system
from tandem.compute.systems.local import cores, gpus_in, worker_environment
from tandem.kit.config import load_settings
from tandem.kit.errors import NotFound
from tandem.spec import RunFolder
from tests.compute.stand_ins import placed, written


def test_gpus_are_read_from_the_drivers_table() -> None:
    answer = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100, PCIe, 81559\n\nNo devices were found\nx, [N/A]\n"
    assert gpus_in(answer) == [("NVIDIA H100 80GB HBM3", 81559 * 2**20), ("NVIDIA H100, PCIe", 81559 * 2**20)]


@pytest.mark.parametrize(("workers", "threads", "expected"), [(1, 0, cores()), (1000, 0, 1), (2, 3, 3)])
def test_workers_share_the_cores(tmp_path: Path, workers: int, threads: int, expected: int) -> None:
    placement = msgspec.structs.replace(placed(workers=workers), threads=threads)
    written(tmp_path / "run_1", placement=placement)
    environment = worker_environment(RunFolder(tmp_path / "run_1").attempt(1), workers)
    assert environment["OMP_NUM_THREADS"] == str(expected)


def test_systems_are_found_by_name(home: Path) -> None:
    settings = load_settings({}, home=home)
    for name in SYSTEMS:
        open_system(name, settings)
    with pytest.raises(NotFound, match="no system 'moon'") as caught:
        open_system("moon", settings)
    assert "local or fake" in caught.value.remedy


@pytest.mark.anyio
async def test_the_price_is_a_setting(home: Path) -> None:
    settings = load_settings({"TANDEM_LOCAL_USD_PER_HOUR": "1.5"}, home=home)
    assert (await open_system("local", settings).describe()).usd_per_hour == 1.5
