"""The workshop's program: `prepare` data, `run` an attempt, write the `report` of a run, `probe` this machine."""

import sys
from pathlib import Path

from tandem.spec import RunFolder


def main() -> int:
    """Do what the first argument names, with the file that the second one names; returns the exit status."""
    match sys.argv[1:]:
        case ["prepare", request]:
            from tandem.train.data.prepare import prepare_main

            return prepare_main(Path(request))
        case ["run", job]:
            from tandem.train.worker import run

            return run(Path(job))
        case ["report", folder]:
            from tandem.train.measure.report import write_report

            write_report(RunFolder(Path(folder)))
            return 0
        case ["probe"]:
            from tandem.train.measure.probe import probe_main

            return probe_main()
        case _:
            sys.stderr.write(
                "usage: python -m tandem.train prepare REQUEST.json | run JOB.json | report RUN_FOLDER | probe\n"
            )
            return 2


if __name__ == "__main__":
    sys.exit(main())
