"""The file source: a GGUF file, or a Hugging Face folder, on this machine."""

from pathlib import Path

from tandem.kit.errors import NotFound
from tandem.registry.sources.names import plain_name, refuse_pickle
from tandem.registry.sources.port import Description, Fetched, Progress


class FileSource:
    """What lies at `path`; it is read where it is and never changed."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()

    async def describe(self) -> Description:
        """Look at the path; its name alone is kept as the origin."""
        refuse_pickle(self._path.name)
        if not self._path.exists():
            raise NotFound(f"There is no file or folder {self._path}.", remedy="Check the path.")
        name = self._path.resolve().name
        return Description(origin=f"file:{name}", name=plain_name(name.removesuffix(".gguf")), pinned=False)

    async def fetch(self, folder: Path, *, progress: Progress) -> Fetched:
        """Nothing has to be brought."""
        del folder, progress
        return Fetched(path=self._path, ours=False)
