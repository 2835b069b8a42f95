"""The port to places that models come from: say what is there, fetch it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes done and, where it is known, the bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a source says before anything is fetched.

    `origin` is the source's text with everything resolved that may change; `pinned` says that the same origin
    always means the same bytes, so that a version from it need not be fetched twice. `revision` is the commit or the
    release at the source, empty where it has none.
    """

    origin: str
    name: str
    pinned: bool
    license: str | None = None
    revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A GGUF file or a Hugging Face folder on disk; `ours` if it was made for this fetch and may be moved away.

    `archive` is the digest of the file that it was taken out of, and `license` what that says of itself.
    """

    path: Path
    ours: bool
    archive: str = ""
    license: str | None = None


class Source(Protocol):
    """One model at one place."""

    async def describe(self) -> Description:
        """Look without fetching.

        Raises:
            NotFound: there is no such model.
            UnsupportedFeature: it is not in a form that Tandem takes, such as a pickle.
            Unavailable: the place does not answer.
        """
        ...

    async def fetch(self, folder: Path, *, progress: Progress) -> Fetched:
        """Bring the model into `folder`; with the same folder a second call goes on where the first one stopped.

        Raises:
            IntegrityError: the bytes are not those that were promised.
            NotFound, Unavailable, StorageFull: as they say.
        """
        ...
