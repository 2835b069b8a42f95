"""The one guarded client for requests to the outside: public addresses only, bounded answers, resumed downloads."""

import asyncio
import errno
import fcntl
import hashlib
import ipaddress
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from tandem.kit.errors import (
    Conflict,
    Forbidden,
    IntegrityError,
    InvalidRequest,
    NotFound,
    StorageFull,
    TandemError,
    TooLarge,
    Unavailable,
)

T = TypeVar("T")

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, where it is known, the bytes in all."""

_REDIRECTS = 5
_ATTEMPTS = 5  # in a row without one new byte
_CHUNK_BYTES = 2**20
_LONGEST_PAUSE_S = 30.0  # a host that asks for more is asked again after this
# No limit on the whole: a large model over a slow line takes hours. 60 s without a byte is a dead line.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is meant


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet; the IPv4 address inside an IPv6 one counts as itself."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known beforehand of the bytes to download: 64 hexadecimal digits and a number of bytes."""

    sha256: str | None = None
    size: int | None = None


class Outbound:
    """An HTTP client for addresses that others choose. Use it as an async context manager.

    The address is checked when the socket is made, after resolving, so neither a redirect nor a name that
    changes its address gets past. `retry_delay_s` is the first pause after a failure; it doubles each time.
    """

    def __init__(self, *, allow_private: bool, retry_delay_s: float = 0.5) -> None:
        self._allow_private = allow_private
        self._retry_delay_s = retry_delay_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Outbound":
        connector = aiohttp.TCPConnector(
            happy_eyeballs_delay=None,  # one address after the other: a refused one ends the attempt
            socket_factory=None if self._allow_private else _public_socket,
        )
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get_json(self, url: str, *, headers: Mapping[str, str] | None = None, max_bytes: int = 2**20) -> Any:
        """The JSON document at `url`.

        Raises:
            TooLarge: the answer has more than `max_bytes`.
            IntegrityError: it is not JSON.
            Forbidden, NotFound, Unavailable, InvalidRequest: as `download`.
        """

        async def attempt() -> bytes:
            async with self._open(url, headers or {}) as response:
                if response.status != 200:
                    raise _refusal(response)
                data = bytearray()
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > max_bytes:
                        raise TooLarge(f"{_shown(url)} answered with more than {max_bytes} bytes.")
                return bytes(data)

        try:
            return json.loads(await self._retrying(url, attempt))
        except ValueError as error:
            raise IntegrityError(f"{_shown(url)} did not answer with JSON.", remedy="Check the address.") from error

    async def download(
        self,
        url: str,
        dest: Path,
        *,
        headers: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        expected: Expected | None = None,
    ) -> Path:
        """Fetch `url` into the file `dest`, which appears whole or not at all.

        Until then the bytes are in `<dest>.part`, where a later call goes on; a broken connection is taken up
        again here. `headers` never reach another host than the one of `url`.

        Raises:
            Forbidden: the host refuses, or its address is not public.
            NotFound: there is nothing at `url`.
            IntegrityError: the bytes are not those that were expected; they are deleted.
            StorageFull: the disk is full; the partial file is deleted, since a full disk stops everything else.
            Unavailable: the host did not answer several times in a row; the partial file stays.
            Conflict: another process is fetching the same file.
            InvalidRequest: the URL is not http or https.
        """
        expected = expected or Expected()
        report = progress or (lambda _done, _total: None)
        try:
            with _Partial(dest) as partial:
                if expected.size is None or partial.size != expected.size:
                    await self._retrying(
                        url,
                        lambda: self._receive(url, partial, headers or {}, expected, report),
                        done=lambda: partial.size,
                    )
                await asyncio.to_thread(partial.finish, expected, _shown(url))
        except OSError as error:
            kind = StorageFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else Unavailable
            raise kind(
                f"{dest} cannot be written: {error.strerror}.", remedy="Free some space and run it again."
            ) from error
        return dest

    async def _receive(
        self,
        url: str,
        partial: "_Partial",
        headers: Mapping[str, str],
        expected: Expected,
        report: Progress,
    ) -> None:
        """One attempt at the rest of a file."""
        if not (partial.tag or expected.sha256):
            partial.restart()  # nothing could tell whether the rest belongs to it
        async with self._open(url, {**headers, **partial.range_headers()}) as response:
            total = _total(response)
            if response.status == 416 and total == partial.size:
                return  # there is nothing after our last byte
            if response.status not in {200, 206, 416}:
                raise _refusal(response)
            if response.status == 416 or (response.status == 206 and _first_byte(response) != partial.size):
                partial.restart()
                raise Unavailable(f"{_shown(url)} changed while it was downloaded.", remedy="Run it again.")
            if response.status == 200:
                partial.restart()
            if expected.size is not None and total not in {None, expected.size}:
                raise IntegrityError(
                    f"{_shown(url)} has {total} bytes; {expected.size} were expected.",
                    remedy="The source has changed: check its revision.",
                )
            partial.tag = _validator(response)
            total = total or expected.size
            report(partial.size, total)
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                await asyncio.to_thread(partial.append, chunk)
                report(partial.size, total)
                if total is not None and partial.size > total:
                    raise IntegrityError(f"{_shown(url)} sends more than {total} bytes.", remedy="Check the address.")

    async def _retrying(
        self, url: str, attempt: Callable[[], Awaitable[T]], *, done: Callable[[], int] = lambda: 0
    ) -> T:
        """Try until it works, or until several attempts in a row brought no new byte."""
        failures, before = 0, done()
        while True:
            try:
                return await attempt()
            except aiohttp.ClientSSLError as error:
                raise Unavailable(
                    f"{_shown(url)} has no certificate that this machine trusts.", remedy="Check the address."
                ) from error
            except aiohttp.InvalidURL as error:
                raise InvalidRequest(
                    f"{_shown(url)} cannot be reached: {error}.", remedy="Check the address."
                ) from error
            except (aiohttp.ClientError, TimeoutError, Unavailable) as error:
                failures = 1 if done() > before else failures + 1
                before = done()
                if failures >= _ATTEMPTS:
                    raise _gave_up(url, error) from error
                pause = self._retry_delay_s * 2 ** (failures - 1)
                asked = error.retry_after_s if isinstance(error, Unavailable) else 0.0
                await asyncio.sleep(max(pause, min(asked, _LONGEST_PAUSE_S)))

    @asynccontextmanager
    async def _open(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a GET after its redirects, each of which is checked like the first address."""
        assert self._session is not None, "used outside its `async with` block"
        target, sent = _checked(URL(url)), dict(headers)
        for _ in range(_REDIRECTS + 1):
            async with self._session.get(
                target, headers={**sent, "Accept-Encoding": "identity"}, allow_redirects=False
            ) as response:
                location = response.headers.get("Location")
                if response.status not in {301, 302, 303, 307, 308} or not location:
                    yield response
                    return
            following = _checked(target.join(URL(location, encoded=True)))
            if following.origin() != target.origin():
                sent = {name: value for name, value in sent.items() if name in {"Range", "If-Range"}}
            target = following
        raise InvalidRequest(f"{_shown(url)} redirects more than {_REDIRECTS} times.", remedy="Check the address.")


class _Partial:
    """The file that a download grows in, held by one process at a time, and the tag of the answer it is from."""

    def __init__(self, dest: Path) -> None:
        self._dest = dest
        self._path = dest.with_name(f"{dest.name}.part")
        self._tag_path = dest.with_name(f"{dest.name}.part.tag")

    def __enter__(self) -> "_Partial":
        self._dest.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have finished and renamed it between our opening and our locking.
            if os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino:
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError) as error:
            self._file.close()
            raise Conflict(
                f"Another process is fetching {self._dest.name}.", remedy="Wait for it, then run this again."
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is not None and issubclass(kind, OSError | IntegrityError):
            self._path.unlink(missing_ok=True)
            self._tag_path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def tag(self) -> str:
        """The validator of the answer that the bytes are from; empty where there is none."""
        return self._tag_path.read_text() if self._tag_path.exists() else ""

    @tag.setter
    def tag(self, value: str) -> None:
        self._tag_path.write_text(value)

    def range_headers(self) -> dict[str, str]:
        """The headers that ask for the rest, or for all of it where the file has changed meanwhile."""
        if self.size == 0:
            return {}
        conditional = {"If-Range": self.tag} if self.tag else {}
        return {"Range": f"bytes={self.size}-", **conditional}

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        self._file.write(data)
        self._file.flush()

    def restart(self) -> None:
        """Forget all bytes."""
        self._file.truncate(0)
        self._tag_path.unlink(missing_ok=True)

    def finish(self, expected: Expected, source: str) -> None:
        """Check the bytes and give them their name."""
        with self._path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if expected.sha256 else None
        if found != expected.sha256 or expected.size not in {None, self.size}:
            raise IntegrityError(
                f"{source} sent {self.size} bytes with SHA-256 {found}; "
                f"{expected.size} bytes with {expected.sha256} were expected.",
                remedy="Run it again; if it happens again, the source has changed.",
            )
        os.fsync(self._file.fileno())
        self._path.replace(self._dest)
        self._tag_path.unlink(missing_ok=True)


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    """Make the socket for a resolved address, unless it is one that an outsider must not reach through us."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise Forbidden(
            f"{address[0]} is not a public address.",
            remedy="Set TANDEM_ALLOW_PRIVATE_UPSTREAMS=true if it is meant.",
        )
    return socket.socket(family, kind, protocol)


def _checked(url: URL) -> URL:
    if url.scheme not in {"http", "https"} or not url.host:
        raise _not_http(str(url))
    return url


def _not_http(url: str) -> InvalidRequest:
    return InvalidRequest(f"{_shown(url)} is not an http or https address.", remedy="Check the address.")


def _shown(url: str | URL) -> str:
    """The URL as a message may show it: without user, password, query and fragment, which may be secrets."""
    try:
        return str(URL(url).with_user(None).with_query(None).with_fragment(None))
    except ValueError:
        return repr(str(url).split("?", 1)[0][:80])


def _refusal(response: aiohttp.ClientResponse) -> TandemError:
    shown, status = _shown(response.url), response.status
    if status in {401, 403}:
        return Forbidden(
            f"{shown} refuses access ({status}).",
            remedy="Check the access token and what it is allowed to read.",
            code="access_refused",
        )
    if status in {404, 410}:
        return NotFound(f"There is nothing at {shown} ({status}).", remedy="Check the name and the revision.")
    if status in {408, 429} or status >= 500:
        wait = response.headers.get("Retry-After", "")
        return Unavailable(
            f"{shown} answered {status}.",
            remedy="Try again later.",
            retry_after_s=float(wait) if wait.isdecimal() else 0.0,
        )
    return InvalidRequest(f"{shown} answered {status}.", remedy="Check the address.")


def _gave_up(url: str, error: Exception) -> Unavailable:
    cause = error.message if isinstance(error, Unavailable) else (str(error) or type(error).__name__)
    return Unavailable(
        f"{_shown(url)} failed {_ATTEMPTS} times in a row: {cause}.".replace("..", "."),
        remedy="Check the connection and run it again; what has arrived is kept.",
    )


def _total(response: aiohttp.ClientResponse) -> int | None:
    """The size of the whole file, as the answer states it."""
    if response.status in {206, 416}:
        match = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
        return int(match[1]) if match else None
    return response.content_length


def _first_byte(response: aiohttp.ClientResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _validator(response: aiohttp.ClientResponse) -> str:
    """What If-Range accepts: a strong ETag, else the date (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
