"""Stories that cross rooms, one file each, read top to bottom."""

from tandem.flows.deploy import deploy_version
from tandem.flows.train import Listener, resume, stop, train

__all__ = ["Listener", "deploy_version", "resume", "stop", "train"]
