"""Frozen nouns that cross walls."""

from tandem.spec.artifact import Artifact, Task, Version

__all__ = ["Artifact", "Task", "Version"]
