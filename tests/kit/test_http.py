"""The guarded client: whom it refuses, how it goes on, what it never says or sends."""

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tandem.kit import http as http_module
from tandem.kit.errors import (
    Conflict,
    Forbidden,
    IntegrityError,
    InvalidRequest,
    NotFound,
    StorageFull,
    TooLarge,
    Unavailable,
)
from tandem.kit.http import Expected, Outbound, is_public

pytestmark = pytest.mark.anyio

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """A local server that remembers what it was asked."""

    url: str = ""
    requests: list[web.Request] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [request.headers.get("Range") for request in self.requests]


@asynccontextmanager
async def site(handler: Handler) -> AsyncIterator[Site]:
    """A server on loopback where `handler` answers every GET."""
    state = Site()

    async def remembered(request: web.Request) -> web.StreamResponse:
        state.requests.append(request)
        return await handler(request)

    app = web.Application()
    app.router.add_get("/{path:.*}", remembered)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        state.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield state
    finally:
        await runner.cleanup()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """A client that may reach loopback and does not wait between attempts."""
    async with Outbound(allow_private=True, retry_delay_s=0) as client:
        yield client


class Shelf:
    """Serves CONTENT with ranges as a careful server does; `cuts` are the bytes after which it hangs up."""

    def __init__(self, *, cuts: list[int] | None = None, tag: str | None = '"v1"', ranges: bool = True) -> None:
        self.content = CONTENT
        self.cuts = cuts or []
        self.tag = tag
        self.ranges = ranges

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        start = self._start(request)
        if start >= len(self.content):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(self.content)}"})
        headers = {"ETag": self.tag} if self.tag else {}
        body = self.content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        if self.cuts:
            await response.write(body[: self.cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(body)
            await response.write_eof()
        return response

    def _start(self, request: web.Request) -> int:
        wanted = request.headers.get("Range")
        same = request.headers.get("If-Range") in {None, self.tag}
        return int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and same and self.ranges else 0


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whom it refuses


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
async def test_private_addresses_are_refused(host: str) -> None:
    async with site(Shelf()) as shelf, Outbound(allow_private=False, retry_delay_s=0) as outbound:
        port = shelf.url.rsplit(":", 1)[1]
        with pytest.raises(Forbidden, match="not a public address"):
            await outbound.get_json(f"http://{host}:{port}/secret")
        assert shelf.requests == []


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f000001"])
async def test_odd_spellings_of_addresses_are_refused(host: str) -> None:
    async with site(Shelf()) as shelf, Outbound(allow_private=False, retry_delay_s=0) as outbound:
        with pytest.raises((InvalidRequest, Unavailable, Forbidden)):
            await outbound.get_json(shelf.url.replace("127.0.0.1", host))
        assert shelf.requests == []


async def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with site(Shelf()) as inner:
        port = inner.url.rsplit(":", 1)[1]

        async def lure(_: web.Request) -> web.Response:
            raise web.HTTPFound(f"http://localhost:{port}/metadata")

        async with site(lure) as outer, Outbound(allow_private=False, retry_delay_s=0) as outbound:
            outer_port = int(outer.url.rsplit(":", 1)[1])
            real = http_module._public_socket

            def all_but_the_first(info: tuple[object, ...]) -> object:
                address = info[4]
                assert isinstance(address, tuple)
                if address[1] == outer_port:  # stands for a public address
                    monkeypatch.setattr(http_module, "is_public", lambda _: True)
                    try:
                        return real(info)
                    finally:
                        monkeypatch.setattr(http_module, "is_public", is_public)
                return real(info)

            assert outbound._session is not None
            monkeypatch.setattr(outbound._session.connector, "_socket_factory", all_but_the_first)
            with pytest.raises(Forbidden, match="not a public address"):
                await outbound.download(f"{outer.url}/model", tmp_path / "model")
            assert len(outer.requests) == 1
            assert inner.requests == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/x", "gopher://x", "//example.com", "x", ""])
async def test_other_schemes_are_refused(outbound: Outbound, url: str) -> None:
    with pytest.raises(InvalidRequest, match="http"):
        await outbound.get_json(url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
async def test_a_redirect_to_another_scheme_is_refused(outbound: Outbound, target: str) -> None:
    async def lure(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": target})

    async with site(lure) as outer:
        with pytest.raises(InvalidRequest, match="not an http"):
            await outbound.get_json(outer.url)


# What it never says or sends


async def test_a_token_stays_with_its_host(outbound: Outbound, tmp_path: Path) -> None:
    async with site(Shelf()) as elsewhere:

        async def moved(request: web.Request) -> web.Response:
            target = "/here" if request.path == "/start" else f"{elsewhere.url}/cdn?signature=1%2F2"
            return web.Response(status=307, headers={"Location": target})

        async with site(moved) as hub:
            headers = {"Authorization": "Bearer secret", "Cookie": "secret"}
            await outbound.download(f"{hub.url}/start", tmp_path / "model", headers=headers)
            assert [request.headers.get("Authorization") for request in hub.requests] == ["Bearer secret"] * 2
            assert [request.raw_path for request in elsewhere.requests] == ["/cdn?signature=1%2F2"]
            assert not {"Authorization", "Cookie"} & set(elsewhere.requests[0].headers)
    assert (tmp_path / "model").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410, 418, 500])
async def test_messages_hold_no_secret(outbound: Outbound, status: int) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with site(refuse) as server:
        url = server.url.replace("http://", "http://user:hidden@") + "/model?token=hidden"
        with pytest.raises((Forbidden, NotFound, InvalidRequest, Unavailable)) as caught:
            await outbound.get_json(url)
        assert "hidden" not in str(caught.value)
        assert f"{server.url}/model" in caught.value.message
        assert caught.value.remedy


# Small answers


async def test_json_comes_back(outbound: Outbound) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"a": [1, None]})

    async with site(answer) as server:
        assert await outbound.get_json(server.url) == {"a": [1, None]}


async def test_a_large_answer_is_cut_off(outbound: Outbound) -> None:
    async with site(Shelf()) as server:
        with pytest.raises(TooLarge, match="1000"):
            await outbound.get_json(server.url, max_bytes=1000)


async def test_an_answer_that_is_not_json_is_said(outbound: Outbound) -> None:
    async with site(Shelf()) as server:
        with pytest.raises(IntegrityError, match="JSON"):
            await outbound.get_json(server.url)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_what_may_pass_is_tried_again(outbound: Outbound, status: int) -> None:
    statuses = [status, status, 200]

    async def busy(_: web.Request) -> web.Response:
        return web.json_response({}, status=statuses.pop(0), headers={"Retry-After": "0"})

    async with site(busy) as server:
        assert await outbound.get_json(server.url) == {}


async def test_it_gives_up_in_the_end(outbound: Outbound) -> None:
    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=502)

    async with site(broken) as server:
        with pytest.raises(Unavailable, match=r"5 times in a row: .*502"):
            await outbound.get_json(server.url)
        assert len(server.requests) == 5
    with pytest.raises(Unavailable, match="5 times"):
        await outbound.get_json(server.url)


async def test_redirects_in_a_ring_end(outbound: Outbound) -> None:
    async def ring(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"{request.path}x"})

    async with site(ring) as server:
        with pytest.raises(InvalidRequest, match="redirects"):
            await outbound.get_json(server.url)
        assert len(server.requests) == 6


# Downloads


async def test_a_download_is_whole_and_leaves_nothing_else(outbound: Outbound, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    async with site(Shelf()) as server:
        path = await outbound.download(
            f"{server.url}/model",
            tmp_path / "deep" / "model",
            progress=lambda done, total: seen.append((done, total)),
            expected=Expected(sha256=SHA256, size=len(CONTENT)),
        )
    assert path.read_bytes() == CONTENT
    assert left_over(path.parent) == ["model"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


async def test_a_broken_connection_is_taken_up_where_it_broke(outbound: Outbound, tmp_path: Path) -> None:
    # Seven breaks: more than the five failures in a row that end it, but each one brought something.
    async with site(Shelf(cuts=[100_000] * 7)) as server:
        path = await outbound.download(f"{server.url}/model", tmp_path / "model")
        assert path.read_bytes() == CONTENT
        assert server.ranges()[0] is None
        assert all(server.ranges()[1:])
        assert sum(len(request.headers.getall("If-Range", [])) for request in server.requests) == 7


async def test_a_connection_that_brings_nothing_ends_it(outbound: Outbound, tmp_path: Path) -> None:
    async with site(Shelf(cuts=[1000, *[0] * 9])) as server:
        with pytest.raises(Unavailable, match="what has arrived is kept"):
            await outbound.download(f"{server.url}/model", tmp_path / "model")
    assert left_over(tmp_path) == ["model.part", "model.part.tag"]


async def test_a_server_without_ranges_starts_over(outbound: Outbound, tmp_path: Path) -> None:
    async with site(Shelf(cuts=[5000], ranges=False)) as server:
        path = await outbound.download(f"{server.url}/model", tmp_path / "model")
    assert path.read_bytes() == CONTENT


async def test_without_a_tag_or_a_digest_nothing_is_joined(outbound: Outbound, tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(b"of something else")
    async with site(Shelf(tag=None)) as server:
        path = await outbound.download(f"{server.url}/model", tmp_path / "model")
        assert server.ranges() == [None]
    assert path.read_bytes() == CONTENT


async def test_a_weak_tag_joins_nothing(outbound: Outbound, tmp_path: Path) -> None:
    async with site(Shelf(tag='W/"v1"', cuts=[5000])) as server:
        path = await outbound.download(f"{server.url}/model", tmp_path / "model")
        assert server.ranges() == [None, None]
    assert path.read_bytes() == CONTENT


async def test_a_digest_is_enough_to_go_on(outbound: Outbound, tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(CONTENT[:1000])
    async with site(Shelf(tag=None)) as server:
        expected = Expected(sha256=SHA256)
        path = await outbound.download(f"{server.url}/model", tmp_path / "model", expected=expected)
        assert server.ranges() == ["bytes=1000-"]
    assert path.read_bytes() == CONTENT


async def test_a_file_that_changed_starts_over(outbound: Outbound, tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(b"of the old version")
    (tmp_path / "model.part.tag").write_text('"v0"')
    async with site(Shelf()) as server:
        path = await outbound.download(f"{server.url}/model", tmp_path / "model")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), None])
async def test_what_is_already_whole_is_not_fetched(outbound: Outbound, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "model.part").write_bytes(CONTENT)
    async with site(Shelf()) as server:
        expected = Expected(sha256=SHA256, size=size)
        path = await outbound.download(f"{server.url}/model", tmp_path / "model", expected=expected)
        assert len(server.requests) == (0 if size else 1)
    assert path.read_bytes() == CONTENT
    assert left_over(tmp_path) == ["model"]


async def test_too_long_a_partial_file_starts_over(outbound: Outbound, tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(CONTENT + b"more")
    async with site(Shelf()) as server:
        expected = Expected(sha256=SHA256, size=len(CONTENT))
        path = await outbound.download(f"{server.url}/model", tmp_path / "model", expected=expected)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "expected", [Expected(sha256="0" * 64), Expected(size=5), Expected(size=len(CONTENT) + 1)], ids=str
)
async def test_other_bytes_than_promised_are_thrown_away(
    outbound: Outbound, tmp_path: Path, expected: Expected
) -> None:
    async with site(Shelf()) as server:
        with pytest.raises(IntegrityError, match="expected"):
            await outbound.download(f"{server.url}/model", tmp_path / "model", expected=expected)
    assert left_over(tmp_path) == []


async def test_a_damaged_partial_file_is_noticed(outbound: Outbound, tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(b"\0" * 1000)
    async with site(Shelf()) as server:
        expected = Expected(sha256=SHA256, size=len(CONTENT))
        with pytest.raises(IntegrityError, match=SHA256):
            await outbound.download(f"{server.url}/model", tmp_path / "model", expected=expected)
        await outbound.download(f"{server.url}/model", tmp_path / "model", expected=expected)
    assert (tmp_path / "model").read_bytes() == CONTENT


async def test_a_full_disk_gives_its_space_back(
    outbound: Outbound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, __: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(http_module._Partial, "append", full)
    async with site(Shelf()) as server:
        with pytest.raises(StorageFull, match="No space"):
            await outbound.download(f"{server.url}/model", tmp_path / "model")
    assert left_over(tmp_path) == []


async def test_two_at_once_do_not_mix(outbound: Outbound, tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await Shelf()(request)

    async with site(slow) as server:
        first = asyncio.create_task(outbound.download(f"{server.url}/model", tmp_path / "model"))
        async with asyncio.timeout(30):
            while not server.requests:
                await asyncio.sleep(0)
        with pytest.raises(Conflict, match="Another process"):
            await outbound.download(f"{server.url}/model", tmp_path / "model")
        gate.set()
        await first
    assert (tmp_path / "model").read_bytes() == CONTENT


_CHILD = """
import asyncio, sys
from pathlib import Path
from tandem.kit.http import Outbound

async def main():
    async with Outbound(allow_private=True) as outbound:
        await outbound.download(sys.argv[1], Path(sys.argv[2]))

asyncio.run(main())
"""


@pytest.mark.fault
async def test_a_killed_download_goes_on_where_it_was(outbound: Outbound, tmp_path: Path) -> None:
    killed = asyncio.Event()
    half = len(CONTENT) // 2

    async def stuck(request: web.Request) -> web.StreamResponse:
        if killed.is_set():
            return await Shelf()(request)
        response = web.StreamResponse(headers={"ETag": '"v1"', "Content-Length": str(len(CONTENT))})
        await response.prepare(request)
        await response.write(CONTENT[:half])
        await killed.wait()
        return response

    part = tmp_path / "model.part"
    async with site(stuck) as server:
        child = subprocess.Popen([sys.executable, "-c", _CHILD, f"{server.url}/model", str(tmp_path / "model")])
        try:
            async with asyncio.timeout(60):
                while not (part.exists() and part.stat().st_size == half):
                    assert child.poll() is None
                    await asyncio.sleep(0.01)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            killed.set()
        assert not (tmp_path / "model").exists()
        path = await outbound.download(f"{server.url}/model", tmp_path / "model")
        assert server.ranges() == [None, f"bytes={half}-"]
    assert path.read_bytes() == CONTENT
