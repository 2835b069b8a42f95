"""The fake worker as torchrun starts it: its rank is a variable."""

import os
import sys

from tandem.compute.systems.fake_worker import main

if __name__ == "__main__":
    if "RANK" in os.environ:
        sys.argv.append(os.environ["RANK"])
    sys.exit(main())
