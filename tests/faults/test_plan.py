"""A real run next to its plan: what it took is kept, and the next run is told what it should take."""

from pathlib import Path

import pytest

from tandem.flows import against, calibration
from tandem.spec import Happened, RunState
from tests.faults.training import placed, workshop

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]


async def test_what_a_run_took_is_compared_and_plans_the_next_one(tmp_path: Path, migrated_sqlite: Path) -> None:
    with workshop(tmp_path / "workshop", migrated_sqlite) as shop:
        first = await shop.supervise(shop.begin(placed()))
        assert first.state is RunState.SUCCEEDED, first.reason
        found = against(first.run_id, house=shop.house)
        assert found.factor.runs == ()
        assert found.measured.train_s > 0
        assert found.measured.start_s > 0
        assert found.ratios["train_s"] == pytest.approx(found.measured.train_s / found.predicted.stages.train_s)
        assert calibration(shop.house)["local"].runs == (first.run_id,)
        second = await shop.supervise(shop.begin(placed(), seed=4))
        (begun,) = shop.told(second, Happened.RUNNING)
        assert "share_of_peak" not in begun.fields["planned"], "it was planned by the first, not by the rule of thumb"
        assert begun.fields["planned"]["wall_s"] > 0
        compared = against(second.run_id, house=shop.house)
        assert compared.factor.runs == (first.run_id,)
