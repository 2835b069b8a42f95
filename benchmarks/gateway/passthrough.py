"""The bare pass-through that the gateway is measured against: Starlette, uvicorn, aiohttp and nothing else.

Run: python passthrough.py PORT UPSTREAM_URL
"""

import sys

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


class Forward:
    """Sends the body on and the answer back, byte for byte."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, request: Request) -> Response:
        if self._session is None:  # made on the serving loop
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = await request.body()
        response = await self._session.post(
            self._upstream + request.url.path, data=body, headers={"content-type": "application/json"}
        )
        if response.content_type == "text/event-stream":
            return StreamingResponse(response.content.iter_any(), media_type="text/event-stream")
        return Response(await response.read(), media_type="application/json")


if __name__ == "__main__":
    route = Route("/v1/chat/completions", Forward(sys.argv[2]).__call__, methods=["POST"])
    uvicorn.run(Starlette(routes=[route]), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
