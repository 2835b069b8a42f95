"""The hub source: a repository of a Hugging Face hub, as a GGUF file or as a folder to convert."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tandem.formats import FOLDER_FILES
from tandem.kit.errors import Forbidden, IntegrityError, InvalidRequest, NotFound, UnsupportedFeature
from tandem.kit.http import Expected, Outbound
from tandem.registry.sources.foreign import is_pickle, refuse_name
from tandem.registry.sources.names import plain_name
from tandem.registry.sources.port import Description, Fetched, Progress

_TEXT = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(#(?P<file>[\w./ -]+))?", re.ASCII)
_LISTING_BYTES = 16 * 2**20  # repositories of many thousand files have a few MB of listing
# Best first: q8_0 loses nothing that can be seen, q4_K_M is the usual compromise; the rest by quality.
_PREFERRED = ("q8_0", "q4_k_m", "q5_k_m", "q6_k", "q5_0", "q4_k_s", "q4_1", "q4_0", "bf16", "f16", "f32")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Where a hub is and how to talk to it: `token` is empty for public models only."""

    url: str
    token: str = ""
    allow_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """A repository at one commit."""

    commit: str
    license: str | None
    files: Mapping[str, Expected]


class HubSource:
    """A repository `org/name[@revision][#file.gguf]`; the revision is resolved to a commit before anything is read.

    Raises:
        InvalidRequest: the text is not one.
    """

    def __init__(self, text: str, hub: Hub) -> None:
        match = _TEXT.fullmatch(text)
        if match is None or ".." in text:
            raise InvalidRequest(
                f"hf:{text} is not a model of a hub.", remedy="Write it like hf:org/name@main#file.gguf."
            )
        self._repo = match["repo"]
        self._revision = match["revision"] or "main"
        self._file = match["file"]
        self._hub = hub
        self._found: _Listing | None = None

    async def describe(self) -> Description:
        """Ask the hub for the repository's files."""
        listing = await self._listing()
        chosen = self._chosen(listing)
        gguf = f"#{chosen[0].name}" if chosen[0].name.endswith(".gguf") else ""
        return Description(
            origin=f"hf:{self._repo}@{listing.commit}{gguf}",
            name=plain_name(self._repo.split("/")[1]),
            pinned=True,
            license=listing.license,
            revision=listing.commit,
        )

    async def fetch(self, folder: Path, *, progress: Progress) -> Fetched:
        """Download what `describe` chose, each file checked against the hub's digest where it gives one."""
        listing = await self._listing()
        chosen = self._chosen(listing)
        sizes = [file.expected.size for file in chosen]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        before = 0
        async with Outbound(allow_private=self._hub.allow_private) as outbound:
            for file in chosen:
                dest = folder / ("model.gguf" if file.name.endswith(".gguf") else file.name)
                report = partial(_report, progress, before, total)
                if not dest.exists():  # a file has its name only when it is whole
                    await outbound.download(
                        f"{self._hub.url.rstrip('/')}/{self._repo}/resolve/{listing.commit}/{quote(file.name)}",
                        dest,
                        headers=self._headers(),
                        progress=report,
                        expected=file.expected,
                    )
                before += dest.stat().st_size
                progress("download", before, total)
        gguf = folder / "model.gguf"
        return Fetched(path=gguf if gguf.exists() else folder, ours=True)

    async def _listing(self) -> _Listing:
        if self._found is None:
            revision = self._revision.replace("/", "%2F")
            url = f"{self._hub.url.rstrip('/')}/api/models/{self._repo}/revision/{revision}?blobs=true"
            try:
                async with Outbound(allow_private=self._hub.allow_private) as outbound:
                    answer = await outbound.get_json(url, headers=self._headers(), max_bytes=_LISTING_BYTES)
            except Forbidden as error:
                if error.code != "access_refused":
                    raise
                raise Forbidden(
                    f"The hub does not show {self._repo}: it is gated, private, or does not exist.",
                    remedy="Accept its terms on the hub and set TANDEM_HUB_TOKEN.",
                ) from error
            self._found = _parse(self._repo, answer)
        return self._found

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._hub.token}"} if self._hub.token else {}

    def _chosen(self, listing: _Listing) -> list[_File]:
        """The one GGUF file to take, or the files of a folder to convert."""
        name = self._file or _best_gguf(self._repo, listing)
        if name is not None:
            refuse_name(name)
            if name not in listing.files:
                raise NotFound(f"{self._repo} has no file {name!r}.", remedy=f"It has {_some(list(listing.files))}.")
            if not name.endswith(".gguf"):
                raise UnsupportedFeature(f"{name} is not a GGUF file.", remedy="Leave out #file to convert the folder.")
            return [_File(name=name, expected=listing.files[name])]
        if "model.safetensors" not in listing.files or "config.json" not in listing.files:
            raise _unusable(self._repo, listing)
        return [_File(name=name, expected=listing.files[name]) for name in FOLDER_FILES if name in listing.files]


def _report(progress: Progress, before: int, total: int | None, done: int, _: int | None) -> None:
    """Tell of one file's bytes as a part of all files' bytes."""
    progress("download", before + done, total)


def _best_gguf(repo: str, listing: _Listing) -> str | None:
    names = [
        name
        for name in listing.files
        if name.lower().endswith(".gguf") and not _PART.search(name) and "mmproj" not in name.lower()
    ]
    for wanted in _PREFERRED:
        for name in names:
            if re.search(rf"(^|[^a-z0-9]){wanted}\.gguf$", name.lower()):
                return name
    if len(names) > 1:
        raise InvalidRequest(f"{repo} has several GGUF files.", remedy=f"Add #file, one of {_some(names)}.")
    return names[0] if names else None


def _parse(repo: str, answer: Any) -> _Listing:
    match answer:
        case {"sha": str(commit), "siblings": [*siblings]} if re.fullmatch(r"[0-9a-f]{7,64}", commit):
            pass
        case _:
            raise IntegrityError(f"The hub's answer about {repo} is not one.", remedy="Check hub_url.")
    files: dict[str, Expected] = {}
    for sibling in siblings:
        match sibling:
            case {"rfilename": str(name), "lfs": {"sha256": str(sha256), "size": int(size)}}:
                files[name] = Expected(sha256=sha256, size=size)
            case {"rfilename": str(name), "size": int(size)}:
                files[name] = Expected(size=size)
            case {"rfilename": str(name)}:
                files[name] = Expected()
            case _:
                raise IntegrityError(f"The hub's list of {repo}'s files is not one.", remedy="Check hub_url.")
    card = answer.get("cardData")
    license_name = card.get("license") if isinstance(card, dict) else None
    return _Listing(commit=commit, license=license_name if isinstance(license_name, str) else None, files=files)


def _unusable(repo: str, listing: _Listing) -> UnsupportedFeature:
    remedy = "Look for a GGUF version of this model."
    if any(name.endswith(".safetensors") for name in listing.files):
        cause = "its weights are in several safetensors files"
    elif any(is_pickle(name) for name in listing.files):
        cause = "its weights are only there as a pickle, which runs code when it is loaded"
        remedy = "Look for a version with GGUF or safetensors, or ask its owner to save it as safetensors."
    else:
        cause = "it has no GGUF and no safetensors file"
    return UnsupportedFeature(f"{repo} cannot be used: {cause}.", remedy=remedy)


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:8]) + (" and more" if len(names) > 8 else "")
