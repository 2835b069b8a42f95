"""Tandem with a real model, telling where its engine listens so that the same engine can be called directly.

Run: python tandem_under_test.py HOME MODEL.gguf; prints one JSON line {url, key, engine_url, engine_key}.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvicorn

from tandem.kit.config import load_settings
from tandem.kit.errors import NotFound, Unavailable
from tandem.registry import first_charter, pull
from tandem.serve import DeployOptions, Routes
from tandem.server import House, running_app
from tandem.spec import Version


async def main(home: Path, model: str) -> None:
    """Serve until killed."""
    house = House.open(load_settings({}, home=home))
    version = await pull(model, name="bench", registry=house.registry, settings=house.settings)
    options = DeployOptions(context_tokens=2048, parallel=16)
    _release(house, version)
    house.deployments.bind("bench", version=version, options=options, engine="llamacpp")
    _, secret = house.keyring.create("bench")
    routes = Routes()
    async with running_app(house, routes=routes) as app:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="error", server_header=False)
        serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[listener]))
        while True:
            try:
                upstream = routes.pick("bench")
                break
            except (NotFound, Unavailable):
                await asyncio.sleep(0.1)
        place = {
            "url": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "key": secret,
            "engine_url": upstream.url,
            "engine_key": upstream.api_key,
        }
        print(json.dumps(place), flush=True)
        await serving


def _release(house: House, version: Version) -> None:
    """What one person has to do before anything is served."""
    text = first_charter("bench", {"bench": {"bench": house.members.make("bench")}}, solo=True)
    keys = [house.members.key("bench")]
    house.charters.propose(text, keys)
    house.releases.sign(house.releases.request(version.ref, by="bench").digest, keys)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(Path(sys.argv[1]), sys.argv[2]))
