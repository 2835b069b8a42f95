"""Asking an engine over loopback: its health and its metrics."""

from collections.abc import Mapping

import aiohttp

from tandem.kit.errors import Unavailable
from tandem.serve.engines.port import Address, Health

# An engine answers these in about a millisecond; 3 s means that its HTTP threads hang.
_PATIENCE = aiohttp.ClientTimeout(total=3)


async def ask_health(address: Address) -> Health:
    """What the engine says of itself on `/health`; llama.cpp answers 503 while it loads. Never raises."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_PATIENCE) as session,
            session.get(f"{address.url}/health") as response,
        ):
            await response.read()
            if response.status == 200:
                return Health.READY
            return Health.LOADING if response.status == 503 else Health.FAILING
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Health.FAILING


async def read_metrics(address: Address) -> Mapping[str, float]:
    """The samples of `/metrics` by name.

    Raises:
        Unavailable: the engine does not answer.
    """
    headers = {"Authorization": f"Bearer {address.api_key}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=_PATIENCE, headers=headers) as session,
            session.get(f"{address.url}/metrics", raise_for_status=True) as response,
        ):
            return parse_metrics(await response.text())
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unavailable(f"The engine at {address.url} does not tell its metrics: {error}.") from error


def parse_metrics(text: str) -> dict[str, float]:
    """The samples of a Prometheus text page, labels kept in the name; lines that are none are passed over."""
    samples = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if not name or line.startswith("#"):
            continue
        try:
            samples[name] = float(value)
        except ValueError:
            continue
    return samples
