"""The fake source: a tiny random model written on the spot, for tests and trials without a network."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tandem.formats import write_tiny_gguf
from tandem.kit.errors import TandemError
from tandem.registry.sources.port import Description, Fetched, Progress


class FakeSource:
    """A model without a place. `failures` are raised by the first calls of `fetch`, one each."""

    def __init__(self, *, fim: bool = False, tools: bool = False, failures: Sequence[TandemError] = ()) -> None:
        self._fim = fim
        self._tools = tools
        self._failures = list(failures)

    async def describe(self) -> Description:
        """What will be written."""
        options = ",".join(word for word, wanted in (("fim", self._fim), ("tools", self._tools)) if wanted)
        return Description(origin=f"fake:{options}", name="tiny", pinned=True, license="apache-2.0")

    async def fetch(self, folder: Path, *, progress: Progress) -> Fetched:
        """Write it."""
        if self._failures:
            raise self._failures.pop(0)
        path = await asyncio.to_thread(self._write, folder)
        progress("write", 1, 1)
        return Fetched(path=path, ours=True)

    def _write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return write_tiny_gguf(folder / "model.gguf", fim=self._fim, tools=self._tools, context_length=2048)
