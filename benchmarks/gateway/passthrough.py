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

UPSTREAM = sys.argv[2] if len(sys.argv) > 2 else ""
session: aiohttp.ClientSession | None = None


async def forward(request: Request) -> Response:
    """Send the body on and the answer back, byte for byte."""
    global session  # noqa: PLW0603 - one connection pool for the process, made on its loop
    if session is None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    body = await request.body()
    response = await session.post(UPSTREAM + request.url.path, data=body, headers={"content-type": "application/json"})
    if response.content_type == "text/event-stream":
        return StreamingResponse(response.content.iter_any(), media_type="text/event-stream")
    return Response(await response.read(), media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/chat/completions", forward, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
