"""The states of deployments and replicas, and what a person wants of a deployment."""

from enum import StrEnum


class State(StrEnum):
    """Where a replica or a deployment is; a deployment takes the best state among its replicas."""

    PENDING = "pending"
    """Wanted, and nobody works on it: no controller runs, or it has not looked yet."""
    STARTING = "starting"
    """Loading its model for the first time."""
    READY = "ready"
    """Answers requests."""
    RESTARTING = "restarting"
    """Went away and comes back by itself."""
    FAILED = "failed"
    """Did not start several times in a row; still retried, slowly, and the last error says why."""
    UNRELEASED = "unreleased"
    """Nothing runs: the release gate does not let this version out, or not any more."""
    STOPPED = "stopped"
    """Not wanted, or not running any more."""


class Wanted(StrEnum):
    """What a person asked for."""

    SERVING = "serving"
    STOPPED = "stopped"
