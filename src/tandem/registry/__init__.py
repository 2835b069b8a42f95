"""What models exist and whence they came: sources, versions, and the checked files behind them."""

from tandem.registry.catalogue import CATALOGUE, Known
from tandem.registry.pull import pull, pull_from
from tandem.registry.sources import Hub, Progress, Source, open_source
from tandem.registry.versions import Registry

__all__ = ["CATALOGUE", "Hub", "Known", "Progress", "Registry", "Source", "open_source", "pull", "pull_from"]
