"""What models, runs and datasets exist and whence they came: sources, versions, and the checked files behind them."""

from tandem.registry.catalogue import CATALOGUE, Known
from tandem.registry.datasets import Dataset, Datasets
from tandem.registry.pull import pull, pull_from
from tandem.registry.runs import RunLog, Runs
from tandem.registry.sources import Hub, Progress, Source, open_source
from tandem.registry.trained import register_run
from tandem.registry.versions import Registry

__all__ = [
    "CATALOGUE",
    "Dataset",
    "Datasets",
    "Hub",
    "Known",
    "Progress",
    "Registry",
    "RunLog",
    "Runs",
    "Source",
    "open_source",
    "pull",
    "pull_from",
    "register_run",
]
