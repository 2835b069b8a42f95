"""Tandem as it serves, with keys, limits, ledger and metrics on, in front of the mock engine.

Run: python tandem_under_test.py PORT UPSTREAM_URL HOME; prints the key on its first line.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from tandem.accounts import Limits
from tandem.formats.tiny import write_tiny_gguf
from tandem.kit.config import load_settings
from tandem.registry import first_charter, pull
from tandem.serve import Capabilities, DeployOptions, Feature
from tandem.serve.engines.port import Address, Health, Launch
from tandem.server import House, running_app
from tandem.spec import Version


class MockEngine:
    """The engine port in front of a process that the benchmark started."""

    def __init__(self, _launch: Launch) -> None:
        self._capabilities = Capabilities(features=frozenset(Feature), context_tokens=4096, parallel=64)

    async def start(self) -> asyncio.Future[str]:
        return asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        pass

    async def health(self) -> Health:
        return Health.READY

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def address(self) -> Address:
        return Address(url=sys.argv[2], api_key="none")

    async def metrics(self) -> Mapping[str, float]:
        return {}


async def main(port: int, home: Path) -> None:
    """Serve until killed."""
    house = House.open(load_settings({}, home=home))
    model = home / "mock.gguf"
    write_tiny_gguf(model)
    version = await pull(f"file:{model}", name="mock", registry=house.registry, settings=house.settings)
    _release(house, version)
    house.deployments.bind("mock", version=version, options=DeployOptions(), engine="mock")
    _, secret = house.keyring.create(
        "bench", limits=Limits(requests_per_minute=10**9, tokens_per_minute=10**12, concurrency=10**6)
    )
    async with running_app(house, engines={"mock": MockEngine}) as app:
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=port,
            lifespan="off",
            access_log=False,
            log_level="error",
            server_header=False,
            proxy_headers=False,
        )
        print(secret, flush=True)
        await uvicorn.Server(config).serve()


def _release(house: House, version: Version) -> None:
    """What one person has to do before anything is served."""
    text = first_charter("bench", {"bench": {"bench": house.members.make("bench")}}, solo=True)
    keys = [house.members.key("bench")]
    house.charters.propose(text, keys)
    house.releases.sign(house.releases.request(version.ref, by="bench").digest, keys)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[3])))
