"""What saves cost by design: shared storage does not grow with the fleet, copies to memory do."""

from dataclasses import replace

import pytest

from tandem.plan.reliability.formulas import best_interval_s
from tandem.plan.simulation import DESIGNS, Fleet
from tandem.plan.simulation.saving import saving_of

FLEET = Fleet(devices=16_384)


def test_a_checkpoint_storm_takes_as_long_however_many_write() -> None:
    """14 TB into 200 GB/s: 70 s on any number of nodes that fills it, longer on fewer."""
    assert saving_of(FLEET, DESIGNS["plain"]).block_s == pytest.approx(70)
    assert saving_of(FLEET.of_devices(131_072), DESIGNS["plain"]).block_s == pytest.approx(70)
    assert saving_of(FLEET.of_devices(400), DESIGNS["plain"]).block_s == pytest.approx(140)
    assert saving_of(FLEET, DESIGNS["fast-storage"]).block_s == pytest.approx(7)


def test_the_interval_is_the_best_for_the_fleet() -> None:
    for fleet in (FLEET, FLEET.of_devices(131_072)):
        saving = saving_of(fleet, DESIGNS["plain"])
        assert saving.interval_s == best_interval_s(checkpoint_s=saving.block_s, mean_s=fleet.faults.mean_s)


def test_a_copy_to_memory_blocks_for_a_moment_and_is_never_faster_than_it_is_written() -> None:
    plain, background = (saving_of(FLEET, DESIGNS[name]) for name in ("plain", "background"))
    assert background.block_s == pytest.approx(0.1)  # 0.85 GB of each device at 20 GB/s are less
    assert background.write_s == plain.write_s == background.behind_s
    slow = saving_of(FLEET, replace(DESIGNS["background"], storage_bytes_per_s=1e9))
    assert slow.interval_s + slow.block_s == pytest.approx(slow.write_s)


def test_memory_spares_the_reading_but_not_for_what_is_found_late() -> None:
    saving = saving_of(FLEET, DESIGNS["in-memory"])
    assert (saving.load_s, saving.behind_s) == (0, 0)
    assert saving.behind_late_s == 1_800
