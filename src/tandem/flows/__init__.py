"""Stories that cross rooms, one file each, read top to bottom."""

from tandem.flows.deploy import deploy_version

__all__ = ["deploy_version"]
