"""The file source: a GGUF file, or a Hugging Face folder, on this machine."""

from pathlib import Path

from tandem.kit.errors import NotFound, UnsupportedFeature
from tandem.registry.sources.foreign import refuse_name
from tandem.registry.sources.names import plain_name
from tandem.registry.sources.port import Description, Fetched, Progress


class FileSource:
    """What lies at `path`; it is read where it is and never changed."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()

    async def describe(self) -> Description:
        """Look at the path; its name alone is kept as the origin."""
        if not self._path.is_dir():
            refuse_name(self._path.name)
            if self._path.suffix.lower() == ".safetensors":
                raise UnsupportedFeature(
                    f"{self._path.name} alone does not say what its numbers mean.",
                    remedy="Give its folder, with config.json and the tokenizer's files.",
                )
        if not self._path.is_dir() and not self._path.is_file():
            raise NotFound(f"There is no file or folder {self._path}.", remedy="Check the path.")
        name = self._path.resolve().name
        return Description(origin=f"file:{name}", name=plain_name(name.removesuffix(".gguf")), pinned=False)

    async def fetch(self, folder: Path, *, progress: Progress) -> Fetched:
        """Nothing has to be brought."""
        del folder, progress
        return Fetched(path=self._path, ours=False)
