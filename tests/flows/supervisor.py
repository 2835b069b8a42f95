"""A supervisor as a program of its own, for tests that kill it: `HOME RUN_ID STEP_S LEASE_S`."""

import asyncio
import sys
from pathlib import Path

from tandem.compute import Pace
from tandem.compute.systems import Fake
from tandem.flows import resume
from tandem.kit.config import load_settings
from tandem.server import House


def main() -> None:
    home, run_id, step_s, lease_s = sys.argv[1:]
    house = House.as_it_is(load_settings({}, home=Path(home), stop_grace_s=20.0, lease_s=float(lease_s)))
    run = asyncio.run(resume(run_id, house=house, system=Fake(step_s=float(step_s)), pace=Pace(poll_s=0.02)))
    print(run.state, run.reason, flush=True)


if __name__ == "__main__":
    main()
