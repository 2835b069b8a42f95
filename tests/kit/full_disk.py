"""A disk of 1 MiB for tests, which only root can mount; others skip."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 2**20


@contextmanager
def small_disk(folder: Path, *, size: int = SIZE) -> Iterator[Path]:
    """A file system of 1 MiB, or `size` bytes, in a new folder."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
